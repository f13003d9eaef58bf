"""Adapter to spconv 2.3 and to spconv-triton, which has its functions: float32 and float16, no bfloat16.

``spconv`` is a wheel for each version of CUDA (``spconv-cu126``); its CPU wheel computes forward only, so `predict`
and `evaluate` work with it and training does not. ``spconv-triton`` is plain Python that Triton compiles on a GPU.

Both find their own pairs from coordinates, once a batch for every shape of kernel, level and direction: one map for two
shapes is the mistake that Cylinder3D's published code makes. They order the rows of a coarser level as their hash table
has them, so rows are brought there and back.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from importlib import import_module
from typing import Any
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ray_lidarseg.errors import ResourceError
from ray_lidarseg.geometry.voxelize import pack_coords
from ray_lidarseg.sparse.backend import Kind
from ray_lidarseg.sparse.geometry import HALVING, Request, VoxelGeometry
from ray_lidarseg.sparse.kernel_map import Kernel
from ray_lidarseg.sparse.layout import to_spconv

_HOW_TO_INSTALL = {
    "spconv": "pip install spconv-cu126 (or spconv, which is for CPUs and computes forward only)",
    "spconv-triton": "pip install spconv-triton, for a machine with a GPU",
}
_LARGEST_IMPLICIT = 32  # offsets of a kernel; its implicit GEMM keeps which neighbours exist in the bits of one word


@dataclass(frozen=True)
class _Pairs:
    """What spconv found for one kernel.

    Attributes:
        found: What its functions take: indices and numbers of pairs, or the tables of its implicit GEMM.
        is_implicit: Which of the two.
        theirs: [U] their row of each of our rows of the coarser level; None where no level changes.
        ours: [U] our row of each of theirs.
    """

    found: tuple[Any, ...]
    is_implicit: bool
    theirs: Int[Tensor, "U"] | None = None
    ours: Int[Tensor, "U"] | None = None


_known: WeakKeyDictionary[VoxelGeometry, dict[Request, _Pairs]] = WeakKeyDictionary()


class SpconvBackend:
    """See ``SparseBackend``.

    Args:
        name: Which of the two packages: ``spconv`` or ``spconv-triton``.

    Raises:
        ResourceError: It cannot be imported.
    """

    def __init__(self, name: str = "spconv") -> None:
        self.name = name
        _package(name)

    def prepare(self, geometry: VoxelGeometry, wanted: Iterable[Request]) -> None:
        """See ``SparseBackend.prepare``: spconv finds pairs as it meets them."""

    def conv(
        self,
        x: Float[Tensor, "V_in C_in"],
        weight: Float[Tensor, "K C_in C_out"],
        geometry: VoxelGeometry,
        kind: Kind,
        kernel: Kernel,
        level: int,
    ) -> Float[Tensor, "V_out C_out"]:
        """See ``SparseBackend.conv``.

        Raises:
            ResourceError: The dtype or device is beyond it, or a gradient is asked for on a CPU.
        """
        if torch.is_autocast_enabled(x.device.type):
            dtype = torch.get_autocast_dtype(x.device.type)
            x, weight = x.to(dtype), weight.to(dtype)
        self._check_supported(x, torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad))
        num_out = geometry.num_voxels(level + (kind == "down"))
        if not len(x) or not num_out:
            return x.new_zeros(num_out, weight.shape[2]) + weight.sum() * 0
        if len(weight) == 1:
            return x @ weight[0]
        pairs = self._pairs(geometry, kind, kernel, level, x.device.type)
        if kind == "up" and pairs.ours is not None:
            x = x.index_select(0, pairs.ours)
        out = self._computed(x.contiguous(), to_spconv(weight, kernel).contiguous(), pairs, kind, num_out)
        return out.index_select(0, pairs.theirs) if kind == "down" and pairs.theirs is not None else out

    def _check_supported(self, x: Tensor, wants_gradient: bool) -> None:
        is_cpu = x.device.type == "cpu"
        if is_cpu and self.name == "spconv-triton":
            raise ResourceError("spconv-triton computes on GPUs only: set sparse.backend=spconv or torch")
        if is_cpu and wants_gradient:
            raise ResourceError(
                "spconv has no backward pass on a CPU: train with sparse.backend=torch (the checkpoint is the same), "
                "evaluate and predict with either"
            )
        if x.dtype != torch.float32 and (is_cpu or x.dtype != torch.float16):
            raise ResourceError(
                f"{self.name} computes in float32, on a GPU in float16 too, got {x.dtype} on {x.device}: set "
                "train.amp=auto or off, or sparse.backend=torch"
            )

    def _pairs(self, geometry: VoxelGeometry, kind: Kind, kernel: Kernel, level: int, device: str) -> _Pairs:
        """Those of an up convolution are its down convolution's."""
        key: Request = ("submanifold" if kind == "submanifold" else "down", level, kernel)
        known = _known.setdefault(geometry, {})
        if key not in known:
            known[key] = self._search(geometry, *key, is_implicit=device == "cuda")
        return known[key]

    def _search(self, geometry: VoxelGeometry, kind: str, level: int, kernel: Kernel, is_implicit: bool) -> _Pairs:
        ops, step = _package(self.name).ops, geometry.coarsening(level)
        is_same, is_implicit = (
            kind == "submanifold",
            is_implicit and kernel[0] * kernel[1] * kernel[2] < _LARGEST_IMPLICIT,
        )
        coords, shape = geometry.coords(level), list(geometry.level_shape(level))
        if not is_same and step == HALVING:
            shape = [size + size % 2 for size in shape]  # of odd extents it would drop the last plane
        strides = [1, 1, 1] if is_same else list(step.stride)
        padding = [(size - 1) // 2 for size in kernel]
        algorithm = ops.ConvAlgo.MaskImplicitGemm if is_implicit else ops.ConvAlgo.Native
        search = ops.get_indice_pairs_implicit_gemm if is_implicit else ops.get_indice_pairs
        num_scans = int(coords[-1, 0]) + 1
        # for training, too: what a teacher finds without gradients serves the student's backward pass
        more = {"is_train": True} if is_implicit else {}
        ones, zeros = [1, 1, 1], [0, 0, 0]
        out, *found = search(
            coords, num_scans, shape, algorithm, list(kernel), strides, padding, ones, zeros, is_same, False, **more
        )
        if is_same:
            return _Pairs(tuple(found), is_implicit)
        reached, theirs = pack_coords(out).sort()
        if not torch.equal(reached, geometry.level_keys(level + 1)):
            raise ResourceError(f"this {self.name} keeps other voxels than ours: set sparse.backend=torch")
        return _Pairs(tuple(found), is_implicit, theirs, theirs.argsort())

    def _computed(self, x: Tensor, filters: Tensor, pairs: _Pairs, kind: Kind, num_out: int) -> Tensor:
        package = _package(self.name)
        functions, found = package.functional, pairs.found
        if not pairs.is_implicit:
            names = {"submanifold": "indice_subm_conv", "down": "indice_conv", "up": "indice_inverse_conv"}
            convolve = getattr(functions, names[kind])
            return convolve(x, filters, *found, num_out, package.ops.ConvAlgo.Native)
        _, *tables, masks = found  # of the pairs' numbers it has no need; tables come in twos, forward and backward
        if kind == "up":
            tables = [table for both in zip(tables[1::2], tables[::2], strict=True) for table in both]
        computed: Tensor = functions.implicit_gemm(x, filters, *tables, num_out, masks, True, kind == "submanifold")
        return computed


def _package(name: str) -> Any:
    try:
        return import_module(f"{name.replace('-', '_')}.pytorch")
    except Exception as error:  # a wheel for another CUDA fails with whatever its libraries raise
        raise ResourceError(
            f"sparse.backend={name} cannot be imported ({error}): {_HOW_TO_INSTALL[name]}; "
            "or set sparse.backend=torch, which needs nothing"
        ) from error
