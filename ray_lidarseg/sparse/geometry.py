"""The voxels of one batch at every resolution, and the kernel maps between them, each built once and kept."""

from collections.abc import Callable

import torch
from jaxtyping import Int
from torch import Tensor

from ray_lidarseg.geometry.voxelize import MAX_COORDINATE, pack_coords, unpack_coords
from ray_lidarseg.sparse.kernel_map import (
    Kernel,
    KernelMap,
    halving_map,
    parent_keys,
    reach,
    strided_map,
    submanifold_map,
)

_HALVING: Kernel = (2, 2, 2)


class VoxelGeometry:
    """Occupied voxels by level; a voxel of level l is 2**l cells wide. All layers and models of a batch share one.

    Attributes:
        keys: [V] ascending unique addresses of level 0 (``geometry.voxelize``).
        shape: Cells of the grid in x, y and z at level 0.
    """

    def __init__(self, keys: Int[Tensor, "V"], shape: tuple[int, int, int]) -> None:
        """Takes addresses as ``geometry.voxelize.find_voxels`` gives them.

        Raises:
            ValueError: The addresses are not ascending and unique.
        """
        if not bool((keys.diff() > 0).all()):
            raise ValueError("voxel addresses must be unique and ascending; pass Voxels.keys, or sort them first")
        self.keys = keys
        self.shape = shape
        self._levels: list[tuple[Tensor, Tensor]] = []
        self._maps: dict[tuple[str, int, Kernel], KernelMap] = {}

    @staticmethod
    def of_coords(coords: Int[Tensor, "V 4"]) -> "VoxelGeometry":
        """From lexicographic (scan, x, y, z) rows; the grid is as large as they need.

        Raises:
            ValueError: Rows are out of order, repeated or out of range.
        """
        top = coords[:, 1:].amax(0).tolist() if len(coords) else [0, 0, 0]
        return VoxelGeometry(pack_coords(coords), (top[0] + 1, top[1] + 1, top[2] + 1))

    def level_keys(self, level: int) -> Int[Tensor, "V"]:
        """Addresses of a level's voxels, ascending."""
        return self.keys if level == 0 else self._coarser(level)[0]

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

    def down(self, level: int, kernel: Kernel = _HALVING) -> KernelMap:
        """The stride-2 map from a level to the next coarser one, whose voxels are the parents of this level's."""

        def build() -> KernelMap:
            fine, (coarse, parent) = self.level_keys(level), self._coarser(level + 1)
            if kernel == _HALVING:
                return halving_map(fine, coarse, parent)
            self._check_reach(kernel, level)
            return strided_map(fine, coarse, kernel)

        return self._once("down", level, kernel, build)

    def up(self, level: int, kernel: Kernel = _HALVING) -> KernelMap:
        """The transposed map, from the next coarser level to this one."""
        return self._once("up", level, kernel, lambda: self.down(level, kernel).transposed())

    def _coarser(self, level: int) -> tuple[Tensor, Tensor]:
        while len(self._levels) < level:
            finer = self._levels[-1][0] if self._levels else self.keys
            self._levels.append(torch.unique(parent_keys(finer), return_inverse=True))
        return self._levels[level - 1]

    def _once(self, kind: str, level: int, kernel: Kernel, build: Callable[[], KernelMap]) -> KernelMap:
        key = (kind, level, kernel)
        if key not in self._maps:
            self._maps[key] = build()
        return self._maps[key]

    def _check_reach(self, kernel: Kernel, level: int) -> None:
        """A neighbour outside the grid must not borrow a bit from the next field and so meet a real voxel."""
        side = ((max(self.shape) - 1) >> level) + 1
        if side + reach(kernel) > MAX_COORDINATE + 1:
            raise ValueError(
                f"a grid of {side} cells and kernel {kernel} exceed {MAX_COORDINATE + 1} addresses an axis: "
                "use larger voxels or a shorter range"
            )
