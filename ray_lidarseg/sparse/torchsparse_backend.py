"""Adapter to torchsparse 2.1, for GPU clusters that have it; float16 and float32, no bfloat16.

torchsparse is on no package index. Its defaults lose voxels on odd extents and index the output grid with 32 bits, so
this adapter moves the voxels to the corner of a tight grid of even extents and passes that grid along.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from types import ModuleType
from typing import Any
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ray_lidarseg.errors import ResourceError
from ray_lidarseg.sparse.backend import Kind
from ray_lidarseg.sparse.geometry import HALVING, Request, VoxelGeometry
from ray_lidarseg.sparse.kernel_map import Kernel
from ray_lidarseg.sparse.layout import to_torchsparse

_HOW_TO_INSTALL = (
    "build it on a machine with a GPU, from a clone of github.com/mit-han-lab/torchsparse: "
    "FORCE_CUDA=1 pip install --no-build-isolation . ; or set sparse.backend=torch, which needs nothing"
)
_ALIGNMENT = 64
"""Grid extents and origins are multiples of this, so halving is exact down to six levels."""

_MAX_CELLS = 2**31  # torchsparse keeps ravelled output coordinates in 32 bits
_BITMASK_SORTED = 1  # conv mode 1: skips absent neighbours; mode 0, its default, multiplies them


@dataclass(frozen=True)
class _Grid:
    origin: Int[Tensor, "4"]
    shape: tuple[int, int, int, int]
    caches: Any


_grids: WeakKeyDictionary[VoxelGeometry, _Grid] = WeakKeyDictionary()


class TorchsparseBackend:
    """See ``SparseBackend``.

    Raises:
        ResourceError: torchsparse 2.1 cannot be imported, or there is no CUDA device.
    """

    name = "torchsparse"

    def __init__(self) -> None:
        _import_torchsparse()

    def prepare(self, geometry: VoxelGeometry, wanted: Iterable[Request]) -> None:
        """See ``SparseBackend.prepare``: torchsparse builds its own maps as it meets them."""

    def conv(
        self,
        x: Float[Tensor, "V_in C_in"],
        weight: Float[Tensor, "K C_in C_out"],
        geometry: VoxelGeometry,
        kind: Kind,
        kernel: Kernel,
        level: int,
    ) -> Float[Tensor, "V_out C_out"]:
        """See ``SparseBackend.conv``. An up convolution needs the down convolution of its level to have run.

        Raises:
            ResourceError: The dtype, the kernel, the levels or the size of the grid are beyond torchsparse.
        """
        if torch.is_autocast_enabled(x.device.type):
            dtype = torch.get_autocast_dtype(x.device.type)
            x, weight = x.to(dtype), weight.to(dtype)
        _check_supported(x, kind, kernel)
        _check_levels(geometry)
        if not len(x):
            return x.new_zeros(0, weight.shape[2]) + weight.sum() * 0
        torchsparse = _import_torchsparse()
        source = _sparse_tensor(torchsparse, x, geometry, level + (kind == "up"))
        out = torchsparse.nn.functional.conv3d(
            source,
            to_torchsparse(weight, kernel).contiguous(),
            kernel_size=kernel,
            stride=1 if kind == "submanifold" else 2,
            padding=tuple((size - 1) // 2 for size in kernel),
            transposed=kind == "up",
            training=True,  # a teacher's maps, built without gradients, must serve the student's backward pass
        )
        return _in_our_order(out, geometry, level + (kind == "down"))


def _import_torchsparse() -> ModuleType:
    try:
        import torchsparse
        import torchsparse.nn.functional
    except Exception as error:  # without a CUDA device its import fails with an AssertionError
        raise ResourceError(f"sparse.backend=torchsparse cannot be imported ({error}): {_HOW_TO_INSTALL}") from error
    version = getattr(torchsparse, "__version__", "unknown")
    if not version.startswith("2.1"):
        raise ResourceError(f"sparse.backend=torchsparse needs version 2.1, found {version}: {_HOW_TO_INSTALL}")
    torchsparse.nn.functional.set_conv_mode(_BITMASK_SORTED)
    module: ModuleType = torchsparse
    return module


def _check_supported(x: Tensor, kind: Kind, kernel: Kernel) -> None:
    if x.dtype not in (torch.float16, torch.float32) or x.device.type != "cuda":
        raise ResourceError(
            f"torchsparse computes in float16 and float32 on CUDA, got {x.dtype} on {x.device}: "
            "change the precision, or set sparse.backend=torch"
        )
    if kind != "submanifold" and kernel != (2, 2, 2):
        raise ResourceError(f"torchsparse keeps other voxels than ours for stride 2 and kernel {kernel}; only 2 works")


def _check_levels(geometry: VoxelGeometry) -> None:
    if set(geometry.coarsenings) - {HALVING}:
        raise ResourceError(
            "torchsparse keeps other voxels than ours where a level does not halve every axis (Cylinder3D): "
            "set sparse.backend=torch"
        )


def _sparse_tensor(torchsparse: ModuleType, x: Tensor, geometry: VoxelGeometry, level: int) -> Any:
    """The features with torchsparse's own caches, which all levels and models of a batch share."""
    grid = _grids.get(geometry)
    coords = geometry.coords(level)
    origin, shape = (grid.origin, grid.shape) if grid else _tight_grid(geometry)
    local = (coords - (origin >> level)).contiguous()
    extent = (shape[0], *(size >> level for size in shape[1:]))
    tensor = torchsparse.SparseTensor(coords=local, feats=x, stride=2**level, spatial_range=extent)
    if grid is None:
        grid = _grids[geometry] = _Grid(origin, shape, tensor._caches)
    tensor._caches = grid.caches
    grid.caches.cmaps.setdefault(tensor.stride, (local, extent))
    return tensor


def _tight_grid(geometry: VoxelGeometry) -> tuple[Tensor, tuple[int, int, int, int]]:
    low, high = geometry.coords(0).aminmax(dim=0)
    origin = low // _ALIGNMENT * _ALIGNMENT
    origin[0] = 0
    sizes = ((high - origin) // _ALIGNMENT + 1) * _ALIGNMENT
    shape = (int(high[0]) + 1, *sizes[1:].tolist())
    if shape[0] * shape[1] * shape[2] * shape[3] >= 8 * _MAX_CELLS:
        raise ResourceError(f"a grid of {shape} (scans, x, y, z) is too large for torchsparse: use larger voxels")
    return origin, shape


def _in_our_order(out: Any, geometry: VoxelGeometry, level: int) -> Tensor:
    expected = geometry.coords(level) - (_grids[geometry].origin >> level)
    if not torch.equal(out.coords.to(expected.dtype), expected):
        raise ResourceError("this torchsparse orders or selects voxels differently: set sparse.backend=torch")
    features: Tensor = out.feats
    return features
