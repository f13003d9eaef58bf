"""Features of voxels at places between their centres."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ray_lidarseg.geometry.voxelize import FIELD_BITS
from ray_lidarseg.sparse.geometry import VoxelGeometry
from ray_lidarseg.sparse.pair_search import find_offsets


@dataclass(frozen=True)
class Corners:
    """The eight voxels whose centres surround each point.

    Attributes:
        rows: [P, 8] their rows; where there is no voxel, some row with weight 0.
        weights: [P, 8] trilinear weights; those of absent voxels are 0, so a row may sum to less than 1.
    """

    rows: Int[Tensor, "P 8"]
    weights: Float[Tensor, "P 8"]

    def normalised(self) -> "Corners":
        """The same voxels with weights that sum to 1; a point without any stays 0."""
        total = self.weights.sum(1, keepdim=True)
        return Corners(self.rows, self.weights / total.clamp_min(torch.finfo(total.dtype).tiny))

    def interpolate(self, x: Float[Tensor, "V F"]) -> Float[Tensor, "P F"]:
        """``Σ_k weights[p, k] · x[rows[p, k]]``; without voxels there must be no points."""
        if not len(self.rows):
            return x[:0]
        return torch.nn.functional.embedding_bag(self.rows, x, per_sample_weights=self.weights.to(x.dtype), mode="sum")


def trilinear(
    geometry: VoxelGeometry, level: int, positions: Float[Tensor, "P 3"], scan_idx: Int[Tensor, "P"]
) -> Corners:
    """The corners of points at a level whose voxels are 2**level cells wide.

    Args:
        geometry: All levels up to ``level`` halve.
        level: 0 is the finest.
        positions: Where each point lies, in cells of level 0 from the lower corner, inside the grid.
        scan_idx: Of each point.
    """
    place = positions / 2**level - 0.5
    low = place.floor()
    x, y, z = low.to(torch.int64).unbind(1)
    base = (scan_idx << 3 * FIELD_BITS) + (x << 2 * FIELD_BITS) + (y << FIELD_BITS) + z  # a field of -1 finds no voxel
    hit, rows = find_offsets(geometry.level_keys(level), base, (2, 2, 2), 4)
    sides = torch.stack([1 - (place - low), place - low])
    along_x, along_y, along_z = sides.unbind(2)
    weights = (along_x[:, None, None] * along_y[:, None] * along_z).flatten(0, 2) * hit
    return Corners(rows.T.contiguous(), weights.T.contiguous())
