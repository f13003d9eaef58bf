"""Sparse convolution in plain torch: nothing compiled, CPU and CUDA, every floating dtype.

    out[dst] += x[src] @ weight[k]    for every pair (src, dst) of offset k

Three forms of the same sum:

``by_offset``: gather, multiply, scatter-add a few thousand rows at a time in one reused scratch buffer that stays in
the processor's cache. On a CPU fresh temporaries cost more than the arithmetic. The default there.
``gathered``: gather all pairs, one product per offset, one sum per output row. No atomics: repeatable on a GPU.
``grouped``: the same with all products in one ``grouped_mm`` launch. The default on a GPU that has the kernel.
"""

import threading
from collections.abc import Callable
from itertools import pairwise
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from ray_lidarseg.geometry.voxelize import segment_sum
from ray_lidarseg.sparse.backend import Kind
from ray_lidarseg.sparse.geometry import VoxelGeometry
from ray_lidarseg.sparse.kernel_map import Kernel, KernelMap

Form = Literal["by_offset", "gathered", "grouped"]

_BLOCK_ROWS = 4096
"""Rows gathered at a time on a CPU: 1 MiB at 64 float32 channels (ours, measured with tests/bench/sparse_conv.py)."""

_GROUPED_ALIGNMENT_BYTES = 16  # torch.nn.functional.grouped_mm: rows must be multiples of this

_thread = threading.local()


def _scratch(slot: str, rows: int, width: int, like: Tensor) -> Tensor:
    """A buffer for use inside one call; it grows, belongs to this thread, and never leaves this module."""
    buffers: dict[Any, Tensor] = _thread.__dict__.setdefault("buffers", {})
    key = (slot, like.dtype, like.device)
    if key not in buffers or buffers[key].numel() < rows * width:
        with torch.inference_mode(False):  # an inference tensor could not be written to in training
            buffers[key] = torch.empty(rows * width, dtype=like.dtype, device=like.device)
    return buffers[key][: rows * width].view(rows, width)


class TorchBackend:
    """The embedded default.

    Args:
        form: How the sum is computed; None chooses by device and dtype.
    """

    name = "torch"

    def __init__(self, form: Form | None = None) -> None:
        self.form = form

    def conv(
        self,
        x: Float[Tensor, "V_in C_in"],
        weight: Float[Tensor, "K C_in C_out"],
        geometry: VoxelGeometry,
        kind: Kind,
        kernel: Kernel,
        level: int,
    ) -> Float[Tensor, "V_out C_out"]:
        """See ``SparseBackend.conv``; under autocast both operands are cast to its dtype."""
        if torch.is_autocast_enabled(x.device.type):
            dtype = torch.get_autocast_dtype(x.device.type)
            x, weight = x.to(dtype), weight.to(dtype)
        return convolve(x, weight, getattr(geometry, kind)(level, kernel), self.form)


def convolve(
    x: Float[Tensor, "V_in C_in"], weight: Float[Tensor, "K C_in C_out"], pairs: KernelMap, form: Form | None = None
) -> Float[Tensor, "V_out C_out"]:
    """One convolution over a kernel map.

    Raises:
        ValueError: ``x`` or ``weight`` does not fit the map.
    """
    if (len(x), len(weight)) != (pairs.num_in, pairs.num_offsets):
        raise ValueError(
            f"the kernel map has {pairs.num_in} input rows and {pairs.num_offsets} offsets, "
            f"got x {tuple(x.shape)} and weight {tuple(weight.shape)}: was x computed at another level?"
        )
    result: Tensor = _Convolution.apply(x.contiguous(), weight, pairs, form or _best_form(x))
    return result


def _best_form(x: Tensor) -> Form:
    if x.device.type != "cuda":
        return "by_offset"
    has_kernel = x.dtype == torch.bfloat16 and torch.cuda.get_device_capability(x.device) >= (9, 0)
    return "grouped" if has_kernel else "gathered"  # grouped_mm itself loops, with host syncs, for all else


class _Convolution(torch.autograd.Function):
    """Saves x and the weight only; the backward pass gathers again, which is cheaper than keeping the gathered rows."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, pairs: KernelMap, form: Form) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.pairs, ctx.form = pairs, form
        return _apply(x, weight, pairs, form)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        x, weight = ctx.saved_tensors
        grad = grads[0].contiguous()
        gradients = _gradients_by_offset if ctx.form == "by_offset" else _gradients_gathered
        return *gradients(x, weight, grad, ctx.pairs, ctx.form, ctx.needs_input_grad), None, None


def _apply(x: Tensor, weight: Tensor, pairs: KernelMap, form: Form) -> Tensor:
    if form == "by_offset":
        return _apply_by_offset(x, weight, pairs)
    products = _PRODUCTS[form](x.index_select(0, pairs.src), weight, pairs)
    out = segment_sum(products, *pairs.by_output)
    return out if pairs.center is None else out.addmm_(x, weight[pairs.center])


def _apply_by_offset(x: Tensor, weight: Tensor, pairs: KernelMap) -> Tensor:
    out = x.new_zeros(pairs.num_out, weight.shape[2]) if pairs.center is None else x @ weight[pairs.center]
    for offset, start, end in _blocks(pairs):
        rows = _gather("input", x, pairs.src[start:end])
        products = torch.mm(rows, weight[offset], out=_scratch("output", len(rows), out.shape[1], x))
        out.index_add_(0, pairs.dst[start:end], products)
    return out


def _gather(slot: str, source: Tensor, rows: Tensor) -> Tensor:
    return torch.index_select(source, 0, rows, out=_scratch(slot, len(rows), source.shape[1], source))


def _blocks(pairs: KernelMap) -> list[tuple[int, int, int]]:
    """The spans of the map, cut into pieces of about equal length."""
    blocks = []
    for offset, start, end in pairs.spans():
        num_blocks = -(-(end - start) // _BLOCK_ROWS)
        cuts = [start + (end - start) * piece // num_blocks for piece in range(num_blocks + 1)]
        blocks += [(offset, first, last) for first, last in pairwise(cuts)]
    return blocks


def _gradients_by_offset(
    x: Tensor, weight: Tensor, grad: Tensor, pairs: KernelMap, form: Form, wanted: tuple[bool, ...]
) -> tuple[Tensor | None, Tensor | None]:
    """Both gradients in one pass, so that the output's gradient is gathered once."""
    grad_x, grad_weight = _central_gradients(x, weight, grad, pairs, wanted)
    for offset, start, end in _blocks(pairs):
        src, errors = pairs.src[start:end], _gather("output", grad, pairs.dst[start:end])
        if grad_weight is not None:
            grad_weight[offset].addmm_(_gather("input", x, src).mT, errors)
        if grad_x is not None:
            spread = torch.mm(errors, weight[offset].mT, out=_scratch("input", len(src), x.shape[1], x))
            grad_x.index_add_(0, src, spread)
    return grad_x, grad_weight


def _central_gradients(
    x: Tensor, weight: Tensor, grad: Tensor, pairs: KernelMap, wanted: tuple[bool, ...]
) -> tuple[Tensor | None, Tensor | None]:
    """The centre offset's share; zeros where the map has no centre, None where no gradient is wanted."""
    grad_weight = torch.zeros_like(weight) if wanted[1] else None
    if pairs.center is None:
        return (torch.zeros_like(x) if wanted[0] else None), grad_weight
    if grad_weight is not None:
        torch.mm(x.mT, grad, out=grad_weight[pairs.center])
    return (grad @ weight[pairs.center].mT if wanted[0] else None), grad_weight


def _gradients_gathered(
    x: Tensor, weight: Tensor, grad: Tensor, pairs: KernelMap, form: Form, wanted: tuple[bool, ...]
) -> tuple[Tensor | None, Tensor | None]:
    grad_x = _apply(grad, weight.mT, pairs.transposed, form) if wanted[0] else None
    if not wanted[1]:
        return grad_x, None
    rows, errors = x.index_select(0, pairs.src), grad.index_select(0, pairs.dst)
    grad_weight = _WEIGHT_GRADIENTS[form](rows, errors, pairs)
    if pairs.center is not None:
        torch.mm(x.mT, grad, out=grad_weight[pairs.center])
    return grad_x, grad_weight


def _looped_products(rows: Tensor, weight: Tensor, pairs: KernelMap) -> Tensor:
    out = rows.new_empty(len(rows), weight.shape[2])
    for offset, start, end in pairs.spans():
        torch.mm(rows[start:end], weight[offset], out=out[start:end])
    return out


def _grouped_products(rows: Tensor, weight: Tensor, pairs: KernelMap) -> Tensor:
    if not len(rows):
        return rows.new_zeros(0, weight.shape[2])
    aligned = _aligned(_aligned(weight).mT).mT
    return torch.nn.functional.grouped_mm(_aligned(rows), aligned, offs=pairs.ends)[:, : weight.shape[2]]


def _looped_weight_gradient(rows: Tensor, errors: Tensor, pairs: KernelMap) -> Tensor:
    out = rows.new_zeros(pairs.num_offsets, rows.shape[1], errors.shape[1])
    for offset, start, end in pairs.spans():
        torch.mm(rows[start:end].mT, errors[start:end], out=out[offset])
    return out


def _grouped_weight_gradient(rows: Tensor, errors: Tensor, pairs: KernelMap) -> Tensor:
    width_in, width_out = rows.shape[1], errors.shape[1]
    if not len(rows):
        return rows.new_zeros(pairs.num_offsets, width_in, width_out)
    product = torch.nn.functional.grouped_mm(_aligned(rows).mT, _aligned(errors), offs=pairs.ends)
    return product[:, :width_in, :width_out].contiguous()


def _aligned(matrix: Tensor) -> Tensor:
    """Zero columns until a row's bytes are a multiple of what grouped_mm asks for."""
    lacking = -matrix.shape[-1] % (_GROUPED_ALIGNMENT_BYTES // matrix.element_size())
    return torch.nn.functional.pad(matrix, (0, lacking)) if lacking else matrix


_PRODUCTS: dict[str, Callable[[Tensor, Tensor, KernelMap], Tensor]] = {
    "gathered": _looped_products,
    "grouped": _grouped_products,
}
_WEIGHT_GRADIENTS: dict[str, Callable[[Tensor, Tensor, KernelMap], Tensor]] = {
    "gathered": _looped_weight_gradient,
    "grouped": _grouped_weight_gradient,
}
