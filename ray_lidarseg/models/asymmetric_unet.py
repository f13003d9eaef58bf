"""The U-Net inside Cylinder3D: pairs of flat kernels, 3 x 3 x 3 kernels between levels, and DDCM at the end.

Source: Cylinder3D (Zhu et al., CVPR 2021), section 3.3 and 3.4; widths, strides and the order convolution, activation,
norm are the authors' code's. There one neighbour map serves kernels of different shapes by accident, so that most of
the 3 x 3 x 3 weights after the first pair never act; here every kernel has its own, as the paper says.
"""

from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ray_lidarseg.sparse.backend import Kind, SparseBackend
from ray_lidarseg.sparse.geometry import Coarsening, VoxelGeometry
from ray_lidarseg.sparse.kernel_map import Kernel
from ray_lidarseg.sparse.modules import SparseConv3d, VoxelNorm

CUBE: Kernel = (3, 3, 3)
COARSENINGS = tuple(Coarsening(stride, CUBE) for stride in ((2, 2, 2), (2, 2, 2), (2, 2, 1), (2, 2, 1)))
"""Radius and azimuth are halved four times, height twice; a coarse voxel is any one a 3 x 3 x 3 kernel reaches."""

_FLAT: Kernel = (1, 3, 3)  # one radius, the neighbours in azimuth and height
_UPRIGHT: Kernel = (3, 1, 3)  # one azimuth, the neighbours in radius and height
_AXES: tuple[Kernel, ...] = ((3, 1, 1), (1, 3, 1), (1, 1, 3))


class AsymmetricUNet(nn.Module):
    """Sixteen times ``base`` channels at the bottom, four times ``base`` out.

    Args:
        channels_in: Features of a voxel.
        base: Channels of the first stage; 32 in the paper.
        backend: Computes the convolutions.
    """

    def __init__(self, channels_in: int, base: int, backend: SparseBackend) -> None:
        super().__init__()
        encoder = [base * factor for factor in (1, 2, 4, 8, 16)]
        decoder = [base * factor for factor in (16, 16, 8, 4, 2)]
        self.channels_out = 4 * base
        self.context = _Pairs(channels_in, base, (_FLAT, _UPRIGHT), 0, backend)
        self.down = nn.ModuleList(
            _Down(before, after, level, backend) for level, (before, after) in enumerate(pairwise(encoder))
        )
        levels = reversed(range(len(self.down)))
        self.up = nn.ModuleList(
            _Up(before, after, level, backend) for level, (before, after) in zip(levels, pairwise(decoder), strict=True)
        )
        self.reweight = _DimensionDecomposition(decoder[-1], backend)

    def forward(self, x: Float[Tensor, "V _"], geometry: VoxelGeometry) -> Float[Tensor, "V F"]:
        """Features of the voxels of level 0; the geometry must have ``COARSENINGS``."""
        x = self.context(x, geometry)
        skips = []
        for stage in self.down:
            x, skip = stage(x, geometry)
            skips.append(skip)
        for stage in self.up:
            x = stage(x, skips.pop(), geometry)
        return torch.cat([self.reweight(x, geometry), x], 1)


class _ConvActNorm(nn.Module):
    """Convolution, leaky ReLU, normalisation: in this order."""

    def __init__(self, channels_in: int, channels_out: int, kernel: Kernel, level: int, backend: SparseBackend) -> None:
        super().__init__()
        self.conv = SparseConv3d(channels_in, channels_out, kernel, "submanifold", level, backend)
        self.norm = VoxelNorm(channels_out)

    def forward(self, x: Tensor, geometry: VoxelGeometry) -> Tensor:
        normed: Tensor = self.norm(nn.functional.leaky_relu(self.conv(x, geometry)))
        return normed


class _Pairs(nn.Module):
    """Two branches of two flat kernels, in one order and in the other, summed."""

    def __init__(
        self, channels_in: int, channels_out: int, kernels: tuple[Kernel, Kernel], level: int, backend: SparseBackend
    ) -> None:
        super().__init__()
        first, second = kernels
        self.one = _sequence(channels_in, channels_out, (first, second), level, backend)
        self.other = _sequence(channels_in, channels_out, (second, first), level, backend)

    def forward(self, x: Tensor, geometry: VoxelGeometry) -> Tensor:
        return _chained(self.one, x, geometry) + _chained(self.other, x, geometry)


class _Down(nn.Module):
    """Flat kernels, whose sum is kept for the decoder, then a strided convolution."""

    def __init__(self, channels_in: int, channels_out: int, level: int, backend: SparseBackend) -> None:
        super().__init__()
        self.pairs = _Pairs(channels_in, channels_out, (_UPRIGHT, _FLAT), level, backend)
        self.coarsen = _between_levels(channels_out, "down", level, backend)

    def forward(self, x: Tensor, geometry: VoxelGeometry) -> tuple[Tensor, Tensor]:
        skip = self.pairs(x, geometry)
        return self.coarsen(skip, geometry), skip


class _Up(nn.Module):
    """A convolution, the inverse of the level's strided one, what the encoder had there, three convolutions."""

    def __init__(self, channels_in: int, channels_out: int, level: int, backend: SparseBackend) -> None:
        super().__init__()
        self.prepare = _ConvActNorm(channels_in, channels_out, CUBE, level + 1, backend)
        self.refine = _between_levels(channels_out, "up", level, backend)
        self.blend = _sequence(channels_out, channels_out, (_FLAT, _UPRIGHT, CUBE), level, backend)

    def forward(self, x: Tensor, skip: Tensor, geometry: VoxelGeometry) -> Tensor:
        x = self.refine(self.prepare(x, geometry), geometry) + skip
        return _chained(self.blend, x, geometry)


class _DimensionDecomposition(nn.Module):
    """DDCM: weights in (0, 1) from a convolution along each axis, summed, times the features."""

    def __init__(self, channels: int, backend: SparseBackend) -> None:
        super().__init__()
        self.convs = nn.ModuleList(
            SparseConv3d(channels, channels, kernel, "submanifold", 0, backend) for kernel in _AXES
        )
        self.norms = nn.ModuleList(VoxelNorm(channels) for _ in _AXES)

    def forward(self, x: Tensor, geometry: VoxelGeometry) -> Tensor:
        weights = [norm(conv(x, geometry)).sigmoid() for conv, norm in zip(self.convs, self.norms, strict=True)]
        return torch.stack(weights).sum(0) * x


def _between_levels(channels: int, kind: Kind, level: int, backend: SparseBackend) -> SparseConv3d:
    return SparseConv3d(channels, channels, CUBE, kind, level, backend)


def _sequence(
    channels_in: int, channels_out: int, kernels: tuple[Kernel, ...], level: int, backend: SparseBackend
) -> nn.ModuleList:
    widths = [channels_in, *[channels_out] * len(kernels)]
    return nn.ModuleList(
        _ConvActNorm(before, after, kernel, level, backend)
        for (before, after), kernel in zip(pairwise(widths), kernels, strict=True)
    )


def _chained(layers: nn.ModuleList, x: Tensor, geometry: VoxelGeometry) -> Tensor:
    for layer in layers:
        x = layer(x, geometry)
    return x
