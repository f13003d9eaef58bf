"""Sparse convolution in plain torch: nothing compiled, CPU and CUDA, every floating dtype.

    out[dst] += x[src] @ weight[k]    for every pair (src, dst) of offset k

Four forms of the same sum:

``blocked``: a few thousand rows at a time are gathered into a scratch buffer that stays in the processor's cache and
multiplied; the products are summed by output row at the end. Sizes of blocks are few (``sparse.products``). The default
on a CPU, where fresh temporaries cost more than the arithmetic and scattered additions three times as much as one sum.
``gathered``: gather all pairs, one batched product for all offsets of about as many pairs (``sparse.stacked_pairs``),
one sum per output row. No atomics: repeatable on a GPU.
``grouped``: the same with all products in one ``grouped_mm`` launch. The default on a GPU that has the kernel.
``unfolded``: the neighbours of each output row side by side, zeros where there is none, and one product: three launches
where ``gathered`` has eight, for several times the arithmetic. The default on other GPUs at coarse levels, where few
rows keep a GPU waiting for its next launch.
"""

import math
from collections.abc import Callable, Iterable
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from ray_lidarseg.geometry.voxelize import segment_sum
from ray_lidarseg.sparse.backend import Kind
from ray_lidarseg.sparse.geometry import Request, VoxelGeometry
from ray_lidarseg.sparse.kernel_map import Kernel, KernelMap, Side
from ray_lidarseg.sparse.products import BLOCK_ROWS, add_transposed_times, fast, scratch, times
from ray_lidarseg.sparse.stacked_pairs import StackedPairs
from ray_lidarseg.sparse.tiles import Tile

Form = Literal["blocked", "gathered", "grouped", "unfolded"]

TILE_BYTES = 1 << 26
"""Memory that the products of one convolution may take at once (ours: past the cache anyway, little of a machine)."""

UNFOLDED_BYTES = 1 << 26
"""Neighbours of all rows up to which they are unfolded. Ours, on paper: moving them at 3 TB/s and the products of what
is not there at 60 Tflop/s then take what the host needs for the five launches of 10 µs that are saved;
``tests.gpu.acceptance`` measures both forms where there is a GPU."""

_GROUPED_ALIGNMENT_BYTES = 16  # torch.nn.functional.grouped_mm: rows must be multiples of this


class TorchBackend:
    """The embedded default.

    Args:
        form: How the sum is computed; None chooses by device and dtype.
    """

    name = "torch"

    def __init__(self, form: Form | None = None) -> None:
        self.form = form

    def prepare(self, geometry: VoxelGeometry, wanted: Iterable[Request]) -> None:
        """See ``SparseBackend.prepare``: kernel maps."""
        geometry.prepare(wanted)

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
    result: Tensor = _Convolution.apply(x.contiguous(), weight, pairs, form or _best_form(x, pairs))
    return result


def _best_form(x: Tensor, pairs: KernelMap) -> Form:
    if x.device.type != "cuda":
        return "blocked"
    if x.dtype == torch.bfloat16 and torch.cuda.get_device_capability(x.device) >= (9, 0):
        return "grouped"  # grouped_mm itself loops, with host syncs, for all else
    num_bytes = pairs.num_out * pairs.num_offsets * x.shape[1] * x.element_size()
    return "unfolded" if num_bytes <= UNFOLDED_BYTES else "gathered"


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
        return *_GRADIENTS[ctx.form](x, weight, grad, ctx.pairs, ctx.form, ctx.needs_input_grad), None, None


def _apply(x: Tensor, weight: Tensor, pairs: KernelMap, form: Form) -> Tensor:
    if form == "blocked":
        return _apply_blocked(x, weight, pairs)
    if form == "unfolded":
        return _unfolded(x, pairs.output_table) @ weight.flatten(0, 1)
    if form == "gathered":
        stacked = pairs.stacked
        products = _stacked_products(x.index_select(0, stacked.src), weight, stacked)
        out = segment_sum(products, *stacked.by_output)
    else:
        out = segment_sum(_grouped_products(x.index_select(0, pairs.src), weight, pairs), *pairs.by_output)
    return out if pairs.center is None else out.addmm_(x, weight[pairs.center])


def _apply_blocked(x: Tensor, weight: Tensor, pairs: KernelMap) -> Tensor:
    matrices, width = weight.unbind(), weight.shape[2]
    with fast():
        out = x.new_zeros(pairs.num_out, width) if pairs.center is None else times(x, matrices[pairs.center])
        rows = scratch("rows", x, BLOCK_ROWS, x.shape[1])
        for tile in _tiles(pairs, "out", x, width):
            products = scratch("products", x, tile.num_products, width)
            for block, product in zip(tile.blocks, products.split(tile.sizes), strict=True):
                torch.index_select(x, 0, block.far, out=rows.narrow(0, 0, block.count))
                torch.mm(rows.narrow(0, 0, block.size), matrices[block.offset], out=product)
            _add_sums(out, products, tile)
    return out


def _tiles(pairs: KernelMap, side: Side, like: Tensor, width: int) -> list[Tile]:
    """As few as keep the products within ``TILE_BYTES``, rounded up to a power of two."""
    num_bytes = len(pairs.src) * width * like.element_size()
    return pairs.tiles(side, 1 << max(0, math.ceil(math.log2(max(num_bytes, 1) / TILE_BYTES))))


def _add_sums(out: Tensor, products: Tensor, tile: Tile) -> None:
    """Adds to each row of the tile the products of its pairs."""
    if len(tile.order):
        out[tile.rows].add_(segment_sum(products, tile.order, tile.starts))


def _gradients_blocked(
    x: Tensor, weight: Tensor, grad: Tensor, pairs: KernelMap, form: Form, wanted: tuple[bool, ...]
) -> tuple[Tensor | None, Tensor | None]:
    """Both gradients in one pass, so that the output's gradient is gathered once."""
    with fast():
        grad_x, grad_weight = _central_gradients(x, weight, grad, pairs, wanted)
        matrices = weight.mT.unbind()
        grad_matrices = None if grad_weight is None else grad_weight.unbind()
        rows, errors = (
            scratch(slot, like, BLOCK_ROWS, like.shape[1]) for slot, like in (("rows", x), ("errors", grad))
        )
        for tile in _tiles(pairs, "in", x, x.shape[1]):
            products = scratch("products", x, tile.num_products, x.shape[1])
            for block, product in zip(tile.blocks, products.split(tile.sizes), strict=True):
                used, size = block.count, block.size
                error = torch.index_select(grad, 0, block.far, out=errors.narrow(0, 0, used))
                if used < size:
                    error = errors[:size]
                if grad_matrices is not None:
                    row = torch.index_select(x, 0, block.near, out=rows.narrow(0, 0, used))
                    if used < size:  # these are summed over, and a buffer may hold anything
                        row = rows[:size]
                        row[used:].zero_()
                        error[used:].zero_()
                    grad_matrices[block.offset].addmm_(row.mT, error)
                if grad_x is not None:
                    torch.mm(error, matrices[block.offset], out=product)
            if grad_x is not None:
                _add_sums(grad_x, products, tile)
    return grad_x, grad_weight


def _central_gradients(
    x: Tensor, weight: Tensor, grad: Tensor, pairs: KernelMap, wanted: tuple[bool, ...]
) -> tuple[Tensor | None, Tensor | None]:
    """The centre offset's share; zeros where the map has no centre, None where no gradient is wanted."""
    grad_weight = torch.zeros_like(weight) if wanted[1] else None
    if pairs.center is None:
        return (torch.zeros_like(x) if wanted[0] else None), grad_weight
    if grad_weight is not None:
        add_transposed_times(grad_weight[pairs.center], x, grad)
    return (times(grad, weight[pairs.center].mT) if wanted[0] else None), grad_weight


def _gradients_gathered(
    x: Tensor, weight: Tensor, grad: Tensor, pairs: KernelMap, form: Form, wanted: tuple[bool, ...]
) -> tuple[Tensor | None, Tensor | None]:
    """Both gradients take the output's gradient at the pairs, which is gathered once."""
    grad_x = grad_weight = None
    stacked = pairs.stacked
    errors = torch.nn.functional.pad(grad, (0, 0, 0, 1)).index_select(0, stacked.dst)  # zeros where there is no pair
    if wanted[0]:
        grad_x = segment_sum(_stacked_products(errors, weight.mT, stacked), *stacked.by_input)
    if wanted[1]:
        grad_weight = _stacked_weight_gradient(x.index_select(0, stacked.src), errors, stacked, pairs.num_offsets)
    return _with_centre(x, weight, grad, pairs, grad_x, grad_weight)


def _gradients_grouped(
    x: Tensor, weight: Tensor, grad: Tensor, pairs: KernelMap, form: Form, wanted: tuple[bool, ...]
) -> tuple[Tensor | None, Tensor | None]:
    grad_x = grad_weight = None
    errors = grad.index_select(0, pairs.dst)
    if wanted[0]:
        grad_x = segment_sum(_grouped_products(errors, weight.mT, pairs), *pairs.by_input)
    if wanted[1]:
        grad_weight = _grouped_weight_gradient(x.index_select(0, pairs.src), errors, pairs)
    return _with_centre(x, weight, grad, pairs, grad_x, grad_weight)


def _with_centre(
    x: Tensor, weight: Tensor, grad: Tensor, pairs: KernelMap, grad_x: Tensor | None, grad_weight: Tensor | None
) -> tuple[Tensor | None, Tensor | None]:
    """Adds what the centre's offset, which has no pairs, gives."""
    if pairs.center is not None and grad_x is not None:
        grad_x.addmm_(grad, weight[pairs.center].mT)
    if pairs.center is not None and grad_weight is not None:
        torch.mm(x.mT, grad, out=grad_weight[pairs.center])
    return grad_x, grad_weight


def _unfolded(x: Tensor, table: Tensor) -> Tensor:
    """[N, K · C] for each row of the table its rows of ``x`` side by side, zeros where it names the one behind."""
    padded = torch.nn.functional.pad(x, (0, 0, 0, 1))
    return padded.index_select(0, table.flatten()).view(len(table), table.shape[1] * x.shape[1])


def _gradients_unfolded(
    x: Tensor, weight: Tensor, grad: Tensor, pairs: KernelMap, form: Form, wanted: tuple[bool, ...]
) -> tuple[Tensor | None, Tensor | None]:
    grad_x = grad_weight = None
    if wanted[0]:
        grad_x = _unfolded(grad, pairs.input_table) @ weight.mT.flatten(0, 1)
    if wanted[1]:
        grad_weight = (_unfolded(x, pairs.output_table).mT @ grad).view_as(weight)
    return grad_x, grad_weight


def _stacked_products(rows: Tensor, weight: Tensor, stacked: StackedPairs) -> Tensor:
    """[S, C_out] of the rows at all places; at those without a pair whatever their rows give."""
    matrices, out = weight.index_select(0, stacked.offsets), rows.new_empty(len(rows), weight.shape[2])
    for stack in stacked.stacks:
        left, product = (each[stack.places].unflatten(0, (stack.count, -1)) for each in (rows, out))
        torch.bmm(left, matrices[stack.offsets], out=product)
    return out


def _stacked_weight_gradient(rows: Tensor, errors: Tensor, stacked: StackedPairs, num_offsets: int) -> Tensor:
    """[K, C_in, C_out]; errors are zero at places without a pair."""
    found = rows.new_empty(len(stacked.offsets), rows.shape[1], errors.shape[1])
    for stack in stacked.stacks:
        left, right = (each[stack.places].unflatten(0, (stack.count, -1)) for each in (rows, errors))
        torch.bmm(left.mT, right, out=found[stack.offsets])
    return rows.new_zeros(num_offsets, *found.shape[1:]).index_copy_(0, stacked.offsets, found)


def _grouped_products(rows: Tensor, weight: Tensor, pairs: KernelMap) -> Tensor:
    if not len(rows):
        return rows.new_zeros(0, weight.shape[2])
    aligned = _aligned(_aligned(weight).mT).mT
    return torch.nn.functional.grouped_mm(_aligned(rows), aligned, offs=pairs.ends)[:, : weight.shape[2]]


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


_GRADIENTS: dict[str, Callable[..., tuple[Tensor | None, Tensor | None]]] = {
    "blocked": _gradients_blocked,
    "gathered": _gradients_gathered,
    "grouped": _gradients_grouped,
    "unfolded": _gradients_unfolded,
}
