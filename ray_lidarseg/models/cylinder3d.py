"""Cylinder3D: points to cylinder cells, an asymmetric U-Net over the occupied cells, scores of each point's cell.

Source: Zhu et al., "Cylindrical and Asymmetrical 3D Convolution Networks for LiDAR Segmentation" (CVPR 2021) and its
code; LaserMix (CVPR 2023) uses it with a grid of 240 x 180 x 20 cells.

As published, and worth knowing: the grid is cut open behind the x axis, and no convolution reaches across that seam;
points beyond the grid are drawn into its border cells, with their true coordinates as input.

Gaps the paper leaves, and our choice: the height of the grid is the data set's (-4 to 2 m for SemanticKITTI, -5 to 3 m
for nuScenes, as in the authors' code) and -5 to 3 m for sensors no paper knows; a cell's target is the majority of its
known points' labels; ``width_factor`` narrows the point layers, too. Point refinement is described in the paper and
absent from its code; its form here (voxel feature through one layer, added to the point's own, one linear classifier,
a cross entropy on points) is that of OpenPCSeg, the only public one.
"""

from dataclasses import dataclass
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ray_lidarseg.errors import ResourceError
from ray_lidarseg.geometry.voxelize import CylinderGrid, Voxels, find_voxels, unpack_coords
from ray_lidarseg.models.asymmetric_unet import COARSENINGS, CUBE, AsymmetricUNet
from ray_lidarseg.models.segmentor import Cells, Output, Segmentor
from ray_lidarseg.recipe import schema
from ray_lidarseg.sample import PointBatch
from ray_lidarseg.sparse.backend import SparseBackend
from ray_lidarseg.sparse.build import load_backend
from ray_lidarseg.sparse.geometry import VoxelGeometry
from ray_lidarseg.sparse.modules import SparseConv3d, VoxelNorm, prepare
from ray_lidarseg.sparse.products import RowLinear
from ray_lidarseg.sparse.volume import Volume

_POINT_INPUTS = 9
_POINT_WIDTHS = (64, 128, 256, 256)
_VOXEL_WIDTH = 16
_BASE = 32


@dataclass(frozen=True)
class CylinderInput:
    """What the network sees of a batch.

    Attributes:
        geometry: Occupied cells and, as they come to be used, kernel maps.
        voxels: Which points each cell holds.
        point_inputs: [P, 9] (radius, azimuth, height) minus the cell's centre, (radius, azimuth, height), x, y,
            intensity.
    """

    geometry: VoxelGeometry
    voxels: Voxels
    point_inputs: Float[Tensor, "P 9"]


def build_cylinder3d(
    recipe: schema.Cylinder3D, height_m: tuple[float, float], num_classes: int, backend: str
) -> "Cylinder3D":
    """The network a recipe describes.

    Args:
        recipe: Its section.
        height_m: Of the grid where the recipe leaves it out: the data set's.
        num_classes: C.
        backend: Of the convolutions.

    Raises:
        ResourceError: The sparse backend cannot run here, or cannot coarsen height and radius differently.
    """
    if backend == "torchsparse":
        raise ResourceError(
            f"model cylinder3d keeps other voxels than {backend} does: set sparse.backend=torch or spconv"
        )
    grid = CylinderGrid(recipe.radius_m, recipe.height_m or height_m, recipe.grid)
    return Cylinder3D(grid, num_classes, recipe.width_factor, recipe.point_refinement, load_backend(backend))


class Cylinder3D(Segmentor):
    """Layers on points, their maximum in each cell, layers on cells; with ``width_factor`` 1 55.84 M parameters.

    Args:
        grid: Cells in radius, azimuth and height.
        num_classes: C.
        width_factor: Scales all channels but the 16 a cell starts with; 1 is a base of 32.
        point_refinement: A point's scores come from its own features and its cell's, and are trained on themselves.
        backend: Computes the convolutions.
    """

    is_spatial = True
    head_parts = ("head", "refinement.classifier")

    def __init__(
        self,
        grid: CylinderGrid,
        num_classes: int,
        width_factor: float,
        point_refinement: bool,
        backend: SparseBackend,
    ) -> None:
        super().__init__()
        widths = [max(1, round(width_factor * width)) for width in _POINT_WIDTHS]
        base = max(1, round(width_factor * _BASE))
        self.grid, self.num_classes = grid, num_classes
        self.points = _point_layers(widths)
        self.compress = nn.Sequential(RowLinear(widths[-1], _VOXEL_WIDTH), nn.ReLU())
        self.network = AsymmetricUNet(_VOXEL_WIDTH, base, backend)
        self.head = SparseConv3d(self.network.channels_out, num_classes, CUBE, "submanifold", 0, backend, bias=True)
        self.refinement = _Refinement(self.network.channels_out, widths[-1], num_classes) if point_refinement else None
        self.feature_dim = widths[-1] if point_refinement else self.network.channels_out

    @property
    def cell_feature_dim(self) -> int:
        """Channels of the network over cells, also where points are refined."""
        return self.network.channels_out

    @torch.no_grad()
    def represent(self, batch: PointBatch) -> Cells:
        """See ``Segmentor.represent``; a cell's target is its points' majority."""
        voxels = find_voxels(self.grid.cells(batch.points), batch.scan_idx)
        centres = self.grid.centres(unpack_coords(voxels.keys)[:, 1:])[voxels.point_cell]
        polar = self.grid.polar(batch.points)
        inputs = torch.cat([polar - centres, polar, batch.points[:, :2], batch.points[:, 3:]], 1)
        geometry = VoxelGeometry(voxels.keys, self.grid.shape, COARSENINGS)
        prepare(self, geometry)
        targets = batch.labels if self.refinement else None
        seen, volume = CylinderInput(geometry, voxels, inputs), Volume(voxels.keys, self.grid, batch.num_scans)
        return Cells(voxels.point_cell, voxels.vote(batch.labels), seen, targets, volume)

    def forward(self, batch: PointBatch, cells: Cells | None = None) -> Output:
        """See ``Segmentor.forward``."""
        cells = cells or self.cells_of(batch)
        seen: CylinderInput = cells.geometry
        of_points = self.points(seen.point_inputs)
        features = self.network(self.compress(seen.voxels.max(of_points)), seen.geometry)
        logits = self.head(features, seen.geometry)
        point_features, point_logits = (_rows(values, cells.point_cell) for values in (features, logits))
        if self.refinement:
            point_features, point_logits = self.refinement(of_points, features, cells.point_cell)
        return Output(point_logits, point_features, logits, cells, lambda: features)


class _Refinement(nn.Module):
    def __init__(self, voxel_width: int, point_width: int, num_classes: int) -> None:
        super().__init__()
        self.lift = RowLinear(voxel_width, point_width)
        self.norm = VoxelNorm(point_width)
        self.classifier = RowLinear(point_width, num_classes)

    def forward(self, of_points: Tensor, of_voxels: Tensor, point_cell: Tensor) -> tuple[Tensor, Tensor]:
        lifted = nn.functional.leaky_relu(self.norm(self.lift(of_voxels)))
        features = of_points + _rows(lifted, point_cell)
        return features, self.classifier(features)


def _rows(values: Tensor, rows: Tensor) -> Tensor:
    return nn.functional.embedding(rows, values)  # a gather whose backward pass is repeatable on a GPU, too


def _point_layers(widths: list[int]) -> nn.Sequential:
    layers: list[nn.Module] = [VoxelNorm(_POINT_INPUTS)]
    for before, after in pairwise([_POINT_INPUTS, *widths[:-1]]):
        layers += [RowLinear(before, after), VoxelNorm(after), nn.ReLU()]
    return nn.Sequential(*layers, RowLinear(widths[-2], widths[-1]))
