"""The voxels of one batch at every resolution, and the kernel maps between them, each built once and kept."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor

from ray_lidarseg.geometry.voxelize import MAX_COORDINATE, pack_coords, unpack_coords
from ray_lidarseg.sparse.kernel_map import (
    Kernel,
    KernelMap,
    Stride,
    halving_map,
    parent_keys,
    reach,
    strided_map,
    submanifold_map,
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
            ValueError: The addresses are not ascending and unique.
        """
        if not bool((keys.diff() > 0).all()):
            raise ValueError("voxel addresses must be unique and ascending; pass Voxels.keys, or sort them first")
        self.keys = keys
        self.shape = shape
        self.coarsenings = coarsenings
        self._levels: list[tuple[Tensor, Tensor]] = []
        self._maps: dict[tuple[str, int, Kernel], KernelMap] = {}

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

        def build() -> KernelMap:
            self._check_reach(kernel, level)
            return submanifold_map(self.level_keys(level), kernel)

        return self._once("submanifold", level, kernel, build)

    def down(self, level: int, kernel: Kernel = HALVING.kernel) -> KernelMap:
        """The strided map from a level to the next coarser one."""

        def build() -> KernelMap:
            fine, (coarse, parent), step = self.level_keys(level), self._coarser(level + 1), self.coarsening(level)
            if step == HALVING and kernel == HALVING.kernel:
                return halving_map(fine, coarse, parent)
            self._check_reach(kernel, level)
            return strided_map(fine, coarse, kernel, step.stride)

        return self._once("down", level, kernel, build)

    def up(self, level: int, kernel: Kernel = HALVING.kernel) -> KernelMap:
        """The transposed map, from the next coarser level to this one."""
        return self._once("up", level, kernel, lambda: self.down(level, kernel).transposed())

    def _coarser(self, level: int) -> tuple[Tensor, Tensor]:
        while len(self._levels) < level:
            finer = self._levels[-1][0] if self._levels else self.keys
            self._levels.append(self._coarsen(finer, len(self._levels)))
        return self._levels[level - 1]

    def _coarsen(self, finer: Tensor, level: int) -> tuple[Tensor, Tensor]:
        step = self.coarsening(level)
        if step == HALVING:
            return torch.unique(parent_keys(finer), return_inverse=True)
        self._check_reach(step.kernel, level)
        return touched_keys(finer, step.kernel, step.stride, self.level_shape(level + 1)), finer.new_zeros(0)

    def _once(self, kind: str, level: int, kernel: Kernel, build: Callable[[], KernelMap]) -> KernelMap:
        key = (kind, level, kernel)
        if key not in self._maps:
            self._maps[key] = build()
        return self._maps[key]

    def _check_reach(self, kernel: Kernel, level: int) -> None:
        """A neighbour outside the grid must not borrow a bit from the next field and so meet a real voxel."""
        side = max(self.level_shape(level))
        if side + reach(kernel) > MAX_COORDINATE + 1:
            raise ValueError(
                f"a grid of {side} cells and kernel {kernel} exceed {MAX_COORDINATE + 1} addresses an axis: "
                "use larger voxels or a shorter range"
            )
