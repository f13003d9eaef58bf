"""The voxels of one batch at every resolution, and the kernel maps between them, each built once and kept."""

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import takewhile

import torch
from jaxtyping import Int
from torch import Tensor

from ray_lidarseg.geometry.voxelize import MAX_COORDINATE, pack_coords, unpack_coords
from ray_lidarseg.sparse.kernel_map import Kernel, KernelMap, Stride, reach
from ray_lidarseg.sparse.pair_search import (
    Search,
    built,
    halving_search,
    parent_keys,
    strided_search,
    submanifold_search,
    touched_keys,
)


@dataclass(frozen=True)
class Coarsening:
    """How one level follows from the finer one.

    Attributes:
        stride: Cells of the finer level in one cell, by axis.
        kernel: The coarser level has every voxel that this kernel reaches; size 2 at stride 2 gives the parents only.
    """

    stride: Stride = (2, 2, 2)
    kernel: Kernel = (2, 2, 2)


Request = tuple[str, int, Kernel]
"""Which map: its kind, the (finer) level, the kernel."""

HALVING = Coarsening()
"""Cells twice as wide in every axis, occupied where a finer voxel lies inside."""


class VoxelGeometry:
    """Occupied voxels by level. All layers and models of a batch share one.

    Attributes:
        keys: [V] ascending unique addresses of level 0 (``geometry.voxelize``).
        shape: Cells of the grid in x, y and z at level 0.
        coarsenings: From each level to the next; levels beyond them halve, so without any a voxel of level l is 2**l
            cells wide.
    """

    def __init__(
        self, keys: Int[Tensor, "V"], shape: tuple[int, int, int], coarsenings: tuple[Coarsening, ...] = ()
    ) -> None:
        """Takes addresses as ``geometry.voxelize.find_voxels`` gives them.

        Raises:
            ValueError: The addresses are in the host's memory, and not ascending and unique.
        """
        if keys.device.type == "cpu" and not bool((keys.diff() > 0).all()):
            raise ValueError("voxel addresses must be unique and ascending; pass Voxels.keys, or sort them first")
        self.keys = keys
        self.shape = shape
        self.coarsenings = coarsenings
        self._levels: list[tuple[Tensor, Tensor]] = []
        self._maps: dict[Request, KernelMap] = {}

    @staticmethod
    def of_coords(coords: Int[Tensor, "V 4"], coarsenings: tuple[Coarsening, ...] = ()) -> "VoxelGeometry":
        """From lexicographic (scan, x, y, z) rows; the grid is as large as they need.

        Raises:
            ValueError: Rows are out of order, repeated or out of range.
        """
        top = coords[:, 1:].amax(0).tolist() if len(coords) else [0, 0, 0]
        return VoxelGeometry(pack_coords(coords), (top[0] + 1, top[1] + 1, top[2] + 1), coarsenings)

    def level_keys(self, level: int) -> Int[Tensor, "V"]:
        """Addresses of a level's voxels, ascending."""
        return self.keys if level == 0 else self._coarser(level)[0]

    def level_shape(self, level: int) -> tuple[int, int, int]:
        """Cells of the grid in x, y and z at a level."""
        x, y, z = self.shape
        for finer in range(level):
            x, y, z = (-(-size // step) for size, step in zip((x, y, z), self.coarsening(finer).stride, strict=True))
        return x, y, z

    def coarsening(self, level: int) -> Coarsening:
        """From a level to the next coarser one."""
        return self.coarsenings[level] if level < len(self.coarsenings) else HALVING

    def parents(self, level: int) -> Int[Tensor, "V"]:
        """Row, at the next coarser level, of the voxel each voxel of a level lies in; the level must halve.

        Raises:
            ValueError: The level is coarsened otherwise.
        """
        if self.coarsening(level) != HALVING:
            raise ValueError(f"level {level} is coarsened by {self.coarsening(level)}: only {HALVING} has parents")
        return self._coarser(level + 1)[1]

    def coords(self, level: int) -> Int[Tensor, "V 4"]:
        """int32 (scan, x, y, z) of a level's voxels, in cells of that level."""
        return unpack_coords(self.level_keys(level))

    def num_voxels(self, level: int) -> int:
        """V of a level."""
        return len(self.level_keys(level))

    def submanifold(self, level: int, kernel: Kernel = (3, 3, 3)) -> KernelMap:
        """The map from a level to itself."""
        return self._map("submanifold", level, kernel)

    def down(self, level: int, kernel: Kernel = HALVING.kernel) -> KernelMap:
        """The strided map from a level to the next coarser one."""
        return self._map("down", level, kernel)

    def up(self, level: int, kernel: Kernel = HALVING.kernel) -> KernelMap:
        """The transposed map, from the next coarser level to this one."""
        return self._map("up", level, kernel)

    def prepare(self, wanted: Iterable[Request]) -> None:
        """Builds maps before they are asked for, so that the host waits for their sizes once and not for each.

        Args:
            wanted: (``submanifold``, ``down`` or ``up``, level, kernel) of each.
        """
        searches = {}
        for kind, level, kernel in wanted:
            key: Request = ("down" if kind == "up" else kind, level, kernel)
            if key not in self._maps and key not in searches:
                searches[key] = self._search(*key)
        self._maps.update(zip(searches, built(list(searches.values())), strict=True))

    def _map(self, kind: str, level: int, kernel: Kernel) -> KernelMap:
        key: Request = (kind, level, kernel)
        if key not in self._maps:
            self.prepare([key])
            if kind == "up":
                self._maps[key] = self._maps["down", level, kernel].transposed()
        return self._maps[key]

    def _search(self, kind: str, level: int, kernel: Kernel) -> Search:
        if kind == "submanifold":
            self._check_reach(kernel, level)
            return submanifold_search(self.level_keys(level), kernel)
        fine, (coarse, parent), step = self.level_keys(level), self._coarser(level + 1), self.coarsening(level)
        if step == HALVING and kernel == HALVING.kernel:
            return halving_search(fine, coarse, parent)
        self._check_reach(kernel, level)
        return strided_search(fine, coarse, kernel, step.stride)

    def _coarser(self, level: int) -> tuple[Tensor, Tensor]:
        while len(self._levels) < level:
            finest = len(self._levels)
            steps = [self.coarsening(fine) for fine in range(finest, max(level, len(self.coarsenings)))]
            if self.keys.device.type != "cpu" and steps[0] == HALVING:
                self._levels += _halved(self.level_keys(finest), len(list(takewhile(HALVING.__eq__, steps))))
            else:
                self._levels.append(self._coarsen(self.level_keys(finest), finest))
        return self._levels[level - 1]

    def _coarsen(self, finer: Tensor, level: int) -> tuple[Tensor, Tensor]:
        step = self.coarsening(level)
        if step == HALVING:
            return torch.unique(parent_keys(finer), return_inverse=True)
        self._check_reach(step.kernel, level)
        return touched_keys(finer, step.kernel, step.stride, self.level_shape(level + 1)), finer.new_zeros(0)

    def _check_reach(self, kernel: Kernel, level: int) -> None:
        """A neighbour outside the grid must not borrow a bit from the next field and so meet a real voxel."""
        side = max(self.level_shape(level))
        if side + reach(kernel) > MAX_COORDINATE + 1:
            raise ValueError(
                f"a grid of {side} cells and kernel {kernel} exceed {MAX_COORDINATE + 1} addresses an axis: "
                "use larger voxels or a shorter range"
            )


def _halved(keys: Tensor, num_levels: int) -> list[tuple[Tensor, Tensor]]:
    """Several levels that halve, each with the row there of every voxel one level finer; the host waits once for all.

    Every level is sorted out of the finest, not out of the one before, whose size nobody knows yet.
    """
    chains = [keys]
    for _ in range(num_levels):
        chains.append(parent_keys(chains[-1]))
    ordered = torch.stack(chains[1:]).sort(dim=1).values
    is_first = torch.ones_like(ordered, dtype=torch.bool)
    is_first[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
    levels, finer = [], keys
    for row, chosen, size in zip(ordered, is_first, is_first.sum(1).tolist(), strict=True):
        coarser = row[chosen.nonzero_static(size=size).flatten()]
        levels.append((coarser, torch.searchsorted(coarser, parent_keys(finer))))
        finer = coarser
    return levels
