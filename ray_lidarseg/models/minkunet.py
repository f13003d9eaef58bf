"""MinkUNet: a U-Net of sparse 3-D convolutions over occupied voxels.

Source: Choy et al., "4D Spatio-Temporal ConvNets" (CVPR 2019); the widths are those of SPVNAS and of LaserMix's
"MinkUNet18-W32" (21.7 M parameters) and "MinkUNet34-W32" (37.9 M).

Gaps the papers leave, and our choice: the grid is a fixed cube around the sensor instead of one shifted to each batch's
lowest point, so a scan's voxels do not depend on what it is batched or mixed with; the input is the mean of a voxel's
points instead of one representative, so that it does not depend on their order.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ray_lidarseg.errors import RecipeError
from ray_lidarseg.geometry.voxelize import MAX_COORDINATE, CartesianGrid, find_voxels
from ray_lidarseg.models.segmentor import Cells, Output, Segmentor
from ray_lidarseg.recipe import schema
from ray_lidarseg.sample import PointBatch, SensorSpec
from ray_lidarseg.sparse.backend import SparseBackend
from ray_lidarseg.sparse.build import load_backend
from ray_lidarseg.sparse.geometry import HALVING, VoxelGeometry
from ray_lidarseg.sparse.modules import SparseConv3d, VoxelNorm, prepare
from ray_lidarseg.sparse.products import RowLinear
from ray_lidarseg.sparse.volume import Volume

_STEM = 32
_ENCODER = (32, 64, 128, 256)
_DECODER = (256, 128, 96, 96)
_BLOCKS = {
    14: ((1, 1, 1, 1), (1, 1, 1, 1)),
    18: ((2, 2, 2, 2), (2, 2, 2, 2)),
    34: ((2, 3, 4, 6), (2, 2, 2, 2)),
}
NUM_LEVELS = len(_ENCODER)
HALVINGS = (HALVING,) * NUM_LEVELS

_HEIGHT_SCALE_M = 2.0
"""Heights are divided by about the mounting height of a roof LiDAR (ours); x and y by the sensor's range."""


@dataclass(frozen=True)
class VoxelInput:
    """What the network sees of a batch.

    Attributes:
        geometry: Voxels and, as they come to be used, kernel maps.
        features: [V, 4] means over each voxel's points: x and y over the range, z over 2 m, intensity.
    """

    geometry: VoxelGeometry
    features: Float[Tensor, "V 4"]


def build_minkunet(recipe: schema.MinkUNet, sensor: SensorSpec, num_classes: int, backend: str) -> Segmentor:
    """The network a recipe describes.

    Raises:
        RecipeError: The voxels are too small for the sensor's range.
        ResourceError: The sparse backend cannot run here.
    """
    grid = voxel_grid(recipe.voxel_size_m, sensor)
    network = SparseUNet(recipe.depth, recipe.width_factor, load_backend(backend))
    return MinkUNet(grid, sensor.max_range_m, network, num_classes)


def voxel_grid(voxel_size_m: float, sensor: SensorSpec) -> CartesianGrid:
    """The cube around the sensor that its range needs, in whole voxels of the coarsest level.

    Raises:
        RecipeError: The voxels are too small for the sensor's range.
    """
    grid = CartesianGrid.centred(sensor.max_range_m, voxel_size_m, multiple=2**NUM_LEVELS)
    if max(grid.shape) > MAX_COORDINATE:
        raise RecipeError(
            f"model.voxel_size_m {voxel_size_m} makes {grid.shape[0]} voxels across ± {sensor.max_range_m} m, "
            f"at most {MAX_COORDINATE} fit: raise model.voxel_size_m or lower data.sensor.max_range_m"
        )
    return grid


def input_scale(range_m: float) -> Float[Tensor, "4"]:
    """Factors that bring x, y, z and intensity to about one."""
    return torch.tensor([1 / range_m, 1 / range_m, 1 / _HEIGHT_SCALE_M, 1.0])


class MinkUNet(Segmentor):
    """Voxels in, scores of each point's voxel out."""

    input_scale: Tensor
    is_spatial = True

    def __init__(self, grid: CartesianGrid, range_m: float, network: "SparseUNet", num_classes: int) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.feature_dim = network.channels_out
        self.grid = grid
        self.network = network
        self.head = RowLinear(self.feature_dim, num_classes)
        self.register_buffer("input_scale", input_scale(range_m), persistent=False)

    @torch.no_grad()
    def represent(self, batch: PointBatch) -> Cells:
        """See ``Segmentor.represent``; a voxel's target is its points' majority."""
        voxels = find_voxels(self.grid.cells(batch.points), batch.scan_idx)
        features = voxels.mean(batch.points) * self.input_scale
        geometry = VoxelGeometry(voxels.keys, self.grid.shape, HALVINGS)
        prepare(self.network, geometry)
        volume = Volume(voxels.keys, self.grid, batch.num_scans)
        return Cells(voxels.point_cell, voxels.vote(batch.labels), VoxelInput(geometry, features), volume=volume)

    def forward(self, batch: PointBatch, cells: Cells | None = None) -> Output:
        """See ``Segmentor.forward``."""
        cells = cells or self.cells_of(batch)
        features = self.network(cells.geometry.features, cells.geometry.geometry)
        logits = self.head(features)
        of_points = torch.nn.functional.embedding  # a gather whose backward pass is repeatable on a GPU, too
        return Output(
            point_logits=of_points(cells.point_cell, logits),
            point_features=of_points(cells.point_cell, features),
            cell_logits=logits,
            cells=cells,
            make_cell_features=lambda: features,
        )


class _ConvNorm(nn.Module):
    """Convolution and normalisation."""

    def __init__(self, conv: SparseConv3d) -> None:
        super().__init__()
        self.conv = conv
        self.norm = VoxelNorm(conv.weight.shape[2])

    def forward(self, x: Tensor, geometry: VoxelGeometry) -> Tensor:
        normed: Tensor = self.norm(self.conv(x, geometry))
        return normed


class _Block(nn.Module):
    """Two 3 x 3 x 3 convolutions around a shortcut (He et al. 2016), all on one level."""

    def __init__(self, channels_in: int, channels_out: int, level: int, backend: SparseBackend) -> None:
        super().__init__()
        self.first = _same(channels_in, channels_out, level, backend)
        self.second = _same(channels_out, channels_out, level, backend)
        self.shortcut = nn.Sequential()
        if channels_in != channels_out:
            self.shortcut = nn.Sequential(RowLinear(channels_in, channels_out, bias=False), VoxelNorm(channels_out))

    def forward(self, x: Tensor, geometry: VoxelGeometry) -> Tensor:
        inner = self.second(self.first(x, geometry).relu_(), geometry)
        return (inner + self.shortcut(x)).relu_()


def _same(channels_in: int, channels_out: int, level: int, backend: SparseBackend) -> _ConvNorm:
    return _ConvNorm(SparseConv3d(channels_in, channels_out, (3, 3, 3), "submanifold", level, backend))


def _blocks(channels_in: int, channels_out: int, count: int, level: int, backend: SparseBackend) -> nn.ModuleList:
    widths = [channels_in, *[channels_out] * count]
    return nn.ModuleList(_Block(widths[i], widths[i + 1], level, backend) for i in range(count))


class _Down(nn.Module):
    """Halves the resolution, then blocks on the coarser level."""

    def __init__(self, channels_in: int, channels_out: int, count: int, level: int, backend: SparseBackend) -> None:
        super().__init__()
        self.coarsen = _ConvNorm(SparseConv3d(channels_in, channels_in, (2, 2, 2), "down", level, backend))
        self.blocks = _blocks(channels_in, channels_out, count, level + 1, backend)

    def forward(self, x: Tensor, geometry: VoxelGeometry) -> Tensor:
        x = self.coarsen(x, geometry).relu_()
        for block in self.blocks:
            x = block(x, geometry)
        return x


class _Up(nn.Module):
    """Doubles the resolution, joins what the encoder had there, then blocks."""

    def __init__(
        self, channels_in: int, skip: int, channels_out: int, count: int, level: int, backend: SparseBackend
    ) -> None:
        super().__init__()
        self.refine = _ConvNorm(SparseConv3d(channels_in, channels_out, (2, 2, 2), "up", level, backend))
        self.blocks = _blocks(channels_out + skip, channels_out, count, level, backend)

    def forward(self, x: Tensor, skip: Tensor, geometry: VoxelGeometry) -> Tensor:
        x = torch.cat([self.refine(x, geometry).relu_(), skip], 1)
        for block in self.blocks:
            x = block(x, geometry)
        return x


class SparseUNet(nn.Module):
    """Stem, four levels down, four up; level l has voxels 2**l wide.

    Attributes:
        stem: Two convolutions, for ReLU behind each.
        down: A stage for each level, from it to the next coarser one.
        up: A stage for each level, from the coarsest back; takes what the encoder had there, too.
        widths: Channels behind the stem, each down stage and each up stage.
        channels_out: The last of them.
    """

    def __init__(self, depth: int, width_factor: float, backend: SparseBackend) -> None:
        super().__init__()
        stem, *encoder = (max(1, round(width_factor * width)) for width in (_STEM, *_ENCODER))
        decoder = [max(1, round(width_factor * width)) for width in _DECODER]
        down_blocks, up_blocks = _BLOCKS[depth]
        skips = [stem, *encoder]
        self.widths = (stem, *encoder, *decoder)
        self.channels_out = decoder[-1]
        self.stem = nn.ModuleList([_same(4, stem, 0, backend), _same(stem, stem, 0, backend)])
        self.down = nn.ModuleList(
            _Down(skips[level], skips[level + 1], down_blocks[level], level, backend) for level in range(NUM_LEVELS)
        )
        inputs = [encoder[-1], *decoder]
        self.up = nn.ModuleList(
            _Up(inputs[i], skips[level], decoder[i], up_blocks[i], level, backend)
            for i, level in enumerate(reversed(range(NUM_LEVELS)))
        )

    def forward(self, x: Float[Tensor, "V 4"], geometry: VoxelGeometry) -> Float[Tensor, "V F"]:
        """Features of the voxels of level 0."""
        for layer in self.stem:
            x = layer(x, geometry).relu_()
        skips = []
        for stage in self.down:
            skips.append(x)
            x = stage(x, geometry)
        for stage in self.up:
            x = stage(x, skips.pop(), geometry)
        return x
