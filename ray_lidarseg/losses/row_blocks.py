"""Sums over all pairs of rows without the matrix of all pairs, and rows of other ranks beside one's own."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor

_BLOCK_PAIRS = 1 << 22
"""Pairs looked at together: 16 MB in float32, whatever the number of rows (ours)."""

Term = Callable[..., Float[Tensor, ""]]


def sum_by_rows(term: Term, rows: range, num_columns: int, *tensors: Tensor, block_rows: int = 0) -> Float[Tensor, ""]:
    """``Σ over blocks of term(block, *tensors)``, value and gradient exact, in memory for one block.

    The gradient of a block is taken while the block is there, so that neither pass holds pairs of more than one; what
    is kept for the backward pass is a gradient the size of each tensor. It cannot be differentiated twice.

    Args:
        term: Scalar of a block of rows, ``term(slice, *tensors)``; may read all rows of the tensors.
        rows: What is cut into blocks.
        num_columns: Columns of a row of pairs.
        tensors: What the term reads.
        block_rows: Rows of a block at most; 0: as many as there may be pairs.
    """
    size = max(1, _BLOCK_PAIRS // max(num_columns, 1))
    size = min(size, block_rows) if block_rows else size
    blocks = [slice(first, min(first + size, rows.stop)) for first in range(rows.start, rows.stop, size)]
    if not (torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)):
        return torch.stack([tensors[0].new_zeros(()), *(term(block, *tensors) for block in blocks)]).sum()
    total: Tensor = _SumByRows.apply(term, blocks, *tensors)
    return total


class _SumByRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, term: Term, blocks: Sequence[slice], *tensors: Tensor) -> Tensor:
        wanted = ctx.needs_input_grad[2:]
        leaves = [tensor.detach().requires_grad_(need) for tensor, need in zip(tensors, wanted, strict=True)]
        total = tensors[0].new_zeros(())
        with torch.enable_grad():
            for block in blocks:
                value = term(block, *leaves)
                value.backward()
                total += value.detach()
        gradients = [torch.zeros_like(leaf) if leaf.grad is None else leaf.grad for leaf in leaves]
        ctx.save_for_backward(*(gradient for gradient, need in zip(gradients, wanted, strict=True) if need))
        return total

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        kept = iter(ctx.saved_tensors)
        return None, None, *(upstream[0] * next(kept) if need else None for need in ctx.needs_input_grad[2:])


@dataclass(frozen=True)
class PairedRows:
    """Unit features of the same segments from points and from images; rows of all ranks where they were gathered.

    Attributes:
        points: [N, F] float32 (float64 where both are), with gradient.
        images: [N, F] likewise, without.
        own: The rows that came from this rank.
        scale: Ranks the rows are of: terms of one's own rows times this, averaged over ranks (as DDP averages
            gradients), are those of one process with all rows.
    """

    points: Float[Tensor, "N F"]
    images: Float[Tensor, "N F"]
    own: range
    scale: float

    def __len__(self) -> int:
        """N."""
        return len(self.points)

    def sum(self, term: Term, *others: Tensor, block_rows: int = 0) -> Float[Tensor, ""]:
        """``term(block, points, images, *others)`` over one's own rows; see ``sum_by_rows``."""
        tensors = (self.points, self.images, *others)
        return self.scale * sum_by_rows(term, self.own, len(self), *tensors, block_rows=block_rows)

    @property
    def nothing(self) -> Float[Tensor, ""]:
        """0 with a graph, so that every parameter gets a (zero) gradient."""
        return 0 * self.points.sum()


def paired_rows(points: Float[Tensor, "N F"], images: Float[Tensor, "N F"], gather: bool = False) -> PairedRows:
    """The rows, in float32 at least and never under autocast: a Gram matrix in bfloat16 has two digits.

    Args:
        points: [N, F] unit rows; N may differ between ranks.
        images: [N, F] unit rows of the same segments; no gradient flows to them.
        gather: Beside the rows of all other ranks; a collective, every rank must ask alike. Without torch.distributed
            nothing happens.
    """
    wide = torch.promote_types(points.dtype, torch.float32)
    points, images = points.to(wide), images.detach().to(wide)
    if not (gather and dist.is_available() and dist.is_initialized()):
        return PairedRows(points, images, range(len(points)), 1.0)
    sizes = [torch.zeros(1, dtype=torch.int64, device=points.device) for _ in range(dist.get_world_size())]
    dist.all_gather(sizes, torch.tensor([len(points)], device=points.device))
    counts, rank = [int(size) for size in sizes], dist.get_rank()
    own = range(sum(counts[:rank]), sum(counts[: rank + 1]))
    return PairedRows(_Gather.apply(points, counts), _Gather.apply(images, counts), own, float(len(counts)))


class _Gather(torch.autograd.Function):
    """The rows of all ranks, in their order; backward, the sum over ranks of the gradients of one's own."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, counts: list[int]) -> Tensor:
        ctx.counts = counts
        padded = torch.nn.functional.pad(rows.detach(), (0, 0, 0, max(counts) - len(rows)))  # collectives want one size
        parts = [torch.empty_like(padded) for _ in counts]
        dist.all_gather(parts, padded.contiguous())
        return torch.cat([part[:count] for part, count in zip(parts, counts, strict=True)])

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor, None]:
        total = upstream[0].contiguous()
        dist.all_reduce(total)
        return total.split(ctx.counts)[dist.get_rank()], None
