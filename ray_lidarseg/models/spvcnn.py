"""SPVCNN: a MinkUNet that keeps a feature of every point beside its voxels, so that small things are not averaged away.

Points and voxels exchange features three times: behind the stem, at the bottom, half way up. Voxels reach points by
trilinear interpolation between voxel centres, points reach voxels as means; a small layer carries each point's own
feature past the voxels.

Source: Tang et al., "Searching Efficient 3D Architectures with Sparse Point-Voxel Convolution" (ECCV 2020), with the
widths of LaserMix's SPVCNN (MinkUNet18 and point layers to 256, 128 and 96; dropout 0.3 where points return to voxels).

As in the published code interpolation weights are divided by the sum over the voxels that exist (a point always lies
in one of them), so that points at the rim of a surface are not fainter. Ours: the branch holds every point of the scan,
as in the paper, where the published code keeps one representative of each voxel; a voxel's feature sits at its centre
on every level, where that code puts it at the lower corner of coarse voxels; a voxel's scores are the mean of its
points' scores.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ray_lidarseg.geometry.voxelize import CartesianGrid, Voxels, find_voxels, row_like, segments
from ray_lidarseg.models.minkunet import HALVINGS, NUM_LEVELS, SparseUNet, input_scale, voxel_grid
from ray_lidarseg.models.segmentor import Cells, Output, Segmentor
from ray_lidarseg.recipe import schema
from ray_lidarseg.sample import PointBatch, SensorSpec
from ray_lidarseg.sparse.backend import SparseBackend
from ray_lidarseg.sparse.build import load_backend
from ray_lidarseg.sparse.geometry import VoxelGeometry
from ray_lidarseg.sparse.interpolation import Corners, trilinear
from ray_lidarseg.sparse.modules import VoxelNorm, prepare
from ray_lidarseg.sparse.products import RowLinear
from ray_lidarseg.sparse.volume import Volume

_BOTTOM, _HALF_WAY = NUM_LEVELS, NUM_LEVELS // 2


@dataclass(frozen=True)
class Exchange:
    """Points and the voxels of one level.

    Attributes:
        voxels: Which points each voxel holds.
        corners: Voxels around each point.
    """

    voxels: Voxels
    corners: Corners

    def to_voxels(self, x: Float[Tensor, "P F"]) -> Float[Tensor, "V F"]:
        """Mean over each voxel's points."""
        return self.voxels.mean(x) if len(x) else x

    def to_points(self, x: Float[Tensor, "V F"]) -> Float[Tensor, "P F"]:
        """Trilinear interpolation."""
        return self.corners.interpolate(x)


@dataclass(frozen=True)
class PointVoxelInput:
    """What the network sees of a batch.

    Attributes:
        geometry: Voxels and, as they come to be used, kernel maps.
        features: [V, 4] scaled means over each voxel's points, as in MinkUNet.
        exchanges: By level, where points and voxels exchange features.
    """

    geometry: VoxelGeometry
    features: Float[Tensor, "V 4"]
    exchanges: dict[int, Exchange]


def build_spvcnn(recipe: schema.SPVCNN, sensor: SensorSpec, num_classes: int, backend: str) -> "SPVCNN":
    """The network a recipe describes.

    Raises:
        RecipeError: The voxels are too small for the sensor's range.
        ResourceError: The sparse backend cannot run here.
    """
    grid = voxel_grid(recipe.voxel_size_m, sensor)
    network = _PointVoxelUNet(recipe.depth, recipe.width_factor, recipe.dropout_ratio, load_backend(backend))
    return SPVCNN(grid, sensor.max_range_m, network, num_classes)


class SPVCNN(Segmentor):
    """Points and voxels in, scores of each point out."""

    input_scale: Tensor
    is_spatial = True

    def __init__(self, grid: CartesianGrid, range_m: float, network: "_PointVoxelUNet", num_classes: int) -> None:
        super().__init__()
        self.num_classes, self.feature_dim = num_classes, network.unet.channels_out
        self.grid = grid
        self.network = network
        self.head = RowLinear(self.feature_dim, num_classes)
        self.register_buffer("input_scale", input_scale(range_m), persistent=False)

    @torch.no_grad()
    def represent(self, batch: PointBatch) -> Cells:
        """See ``Segmentor.represent``; a voxel's target is its points' majority."""
        voxels = find_voxels(self.grid.cells(batch.points), batch.scan_idx)
        geometry = VoxelGeometry(voxels.keys, self.grid.shape, HALVINGS)
        prepare(self.network, geometry)
        positions = self.grid.positions(batch.points)
        positions = torch.minimum(positions.clamp_min(0), row_like(self.grid.shape, positions))
        exchanges = {
            level: Exchange(
                _at_level(voxels, geometry, level), trilinear(geometry, level, positions, batch.scan_idx).normalised()
            )
            for level in (0, _HALF_WAY, _BOTTOM)
        }
        features = voxels.mean(batch.points) * self.input_scale
        seen, volume = PointVoxelInput(geometry, features, exchanges), Volume(voxels.keys, self.grid, batch.num_scans)
        return Cells(voxels.point_cell, voxels.vote(batch.labels), seen, volume=volume)

    def forward(self, batch: PointBatch, cells: Cells | None = None) -> Output:
        """See ``Segmentor.forward``; a voxel's features are the mean of its points'."""
        cells = cells or self.cells_of(batch)
        features = self.network(cells.geometry)
        logits = self.head(features)
        to_voxels = cells.geometry.exchanges[0].to_voxels
        return Output(logits, features, to_voxels(logits), cells, lambda: to_voxels(features))


class _PointVoxelUNet(nn.Module):
    def __init__(self, depth: int, width_factor: float, dropout_ratio: float, backend: SparseBackend) -> None:
        super().__init__()
        self.unet = SparseUNet(depth, width_factor, backend)
        stem, bottom, half_way, top = (self.unet.widths[stage] for stage in (0, NUM_LEVELS, -1 - _HALF_WAY, -1))
        self.to_bottom = _point_layer(stem, bottom)
        self.to_half_way = _point_layer(bottom, half_way)
        self.to_top = _point_layer(half_way, top)
        self.dropout = nn.Dropout(dropout_ratio)

    def forward(self, seen: PointVoxelInput) -> Float[Tensor, "P F"]:
        geometry, levels = seen.geometry, seen.exchanges
        x = seen.features
        for layer in self.unet.stem:
            x = layer(x, geometry).relu_()
        skips = [x]
        points = levels[0].to_points(x)
        x = levels[0].to_voxels(points)
        for stage in self.unet.down:
            x = stage(x, geometry)
            skips.append(x)
        points = levels[_BOTTOM].to_points(skips.pop()) + self.to_bottom(points)
        x = self.dropout(levels[_BOTTOM].to_voxels(points))
        for stage in self.unet.up[:_HALF_WAY]:
            x = stage(x, skips.pop(), geometry)
        points = levels[_HALF_WAY].to_points(x) + self.to_half_way(points)
        x = self.dropout(levels[_HALF_WAY].to_voxels(points))
        for stage in self.unet.up[_HALF_WAY:]:
            x = stage(x, skips.pop(), geometry)
        return levels[0].to_points(x) + self.to_top(points)


def _at_level(voxels: Voxels, geometry: VoxelGeometry, level: int) -> Voxels:
    point_cell = voxels.point_cell
    for finer in range(level):
        point_cell = geometry.parents(finer)[point_cell]
    return Voxels(geometry.level_keys(level), point_cell, *segments(point_cell, geometry.num_voxels(level)))


def _point_layer(channels_in: int, channels_out: int) -> nn.Sequential:
    return nn.Sequential(RowLinear(channels_in, channels_out, bias=False), VoxelNorm(channels_out), nn.ReLU())
