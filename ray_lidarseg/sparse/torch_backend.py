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
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from ray_lidarseg.geometry.voxelize import segment_sum
from ray_lidarseg.sparse.backend import Kind
from ray_lidarseg.sparse.geometry import VoxelGeometry
from ray_lidarseg.sparse.kernel_map import BLOCK_ROWS, Kernel, KernelMap

Form = Literal["by_offset", "gathered", "grouped"]

_GROUPED_ALIGNMENT_BYTES = 16  # torch.nn.functional.grouped_mm: rows must be multiples of this

_thread = threading.local()


def _scratch(slot: str, like: Tensor) -> Tensor:
    """A [BLOCK_ROWS, C] buffer for use inside one call; it grows, belongs to this thread and never leaves this file."""
    buffers: dict[Any, Tensor] = _thread.__dict__.setdefault("buffers", {})
    key, size = (slot, like.dtype, like.device), BLOCK_ROWS * like.shape[1]
    if key not in buffers or len(buffers[key]) < size:
        with torch.inference_mode(False):  # an inference tensor could not be written to in training
            buffers[key] = torch.empty(size, dtype=like.dtype, device=like.device)
    return buffers[key][:size].view(BLOCK_ROWS, like.shape[1])


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
    return _apply_gathered(x, weight, pairs, form, pairs.src, pairs.by_output)


def _apply_gathered(
    x: Tensor, weight: Tensor, pairs: KernelMap, form: Form, rows: Tensor, segments: tuple[Tensor, Tensor]
) -> Tensor:
    """Row s of the result is the sum over the pairs of segment s of their row of ``x`` times their offset's matrix."""
    out = segment_sum(_PRODUCTS[form](x.index_select(0, rows), weight, pairs), *segments)
    return out if pairs.center is None else out.addmm_(x, weight[pairs.center])


def _apply_by_offset(x: Tensor, weight: Tensor, pairs: KernelMap) -> Tensor:
    out = x.new_zeros(pairs.num_out, weight.shape[2]) if pairs.center is None else x @ weight[pairs.center]
    matrices = weight.unbind()
    rows, products = _scratch("input", x), _scratch("output", out)
    for offset, src, dst in pairs.blocks:
        gathered = torch.index_select(x, 0, src, out=rows[: len(src)])
        out.index_add_(0, dst, torch.mm(gathered, matrices[offset], out=products[: len(src)]))
    return out


def _gradients_by_offset(
    x: Tensor, weight: Tensor, grad: Tensor, pairs: KernelMap, form: Form, wanted: tuple[bool, ...]
) -> tuple[Tensor | None, Tensor | None]:
    """Both gradients in one pass, so that the output's gradient is gathered once."""
    grad_x, grad_weight = _central_gradients(x, weight, grad, pairs, wanted)
    matrices = weight.mT.unbind()
    grad_matrices = None if grad_weight is None else grad_weight.unbind()
    rows, errors = _scratch("input", x), _scratch("output", grad)
    for offset, src, dst in pairs.blocks:
        error, row = torch.index_select(grad, 0, dst, out=errors[: len(dst)]), rows[: len(src)]
        if grad_matrices is not None:
            grad_matrices[offset].addmm_(torch.index_select(x, 0, src, out=row).mT, error)
        if grad_x is not None:
            grad_x.index_add_(0, src, torch.mm(error, matrices[offset], out=row))
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
    grad_x = None
    if wanted[0]:
        grad_x = _apply_gathered(grad, weight.mT, pairs, form, pairs.dst, pairs.by_input)
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
    used = {offset for offset, _, _ in pairs.spans()}
    for offset in set(range(pairs.num_offsets)) - used:
        product[offset].zero_()  # what grouped_mm leaves where there is nothing to add up is not documented
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
