"""The NeRF head: from features of cells to density and class scores anywhere in space; for training only.

Features are reduced cell by cell, interpolated, and then go through a small network, sample by sample. The reduction is
linear without a bias, so it commutes with interpolation, and 32 numbers a corner are gathered instead of 128.

Source: arXiv 2411.02969 names a "NeRF MLP head" that predicts densities and semantic logits from voxel features sampled
along rays; no sizes and no code are public. All sizes here are ours, near RenderOcc's (32 → 64 → 17, softplus density),
as is the density's fading with the share of its eight corners that exist: 0 in empty space, without a jump at its rim.
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional

from ray_lidarseg.models.segmentor import Output
from ray_lidarseg.sparse.volume import Volume, blend


class RadianceHead(nn.Module):
    """``σ = c softplus(a_0 + b)``, ``l = a_1…C``, ``a = MLP(f)``; f interpolated reduced features, c their coverage.

    Args:
        feature_dim: G, width of the cells' features.
        num_classes: C.
        reduced_dim: Width after the reduction.
        widths: Hidden layers of the network.
        density_bias: b; space is about ``softplus(b)`` per metre dense before anything is learned.
    """

    def __init__(
        self, feature_dim: int, num_classes: int, reduced_dim: int, widths: tuple[int, ...], density_bias: float
    ) -> None:
        super().__init__()
        self.density_bias = density_bias
        self.reduce = nn.Linear(feature_dim, reduced_dim, bias=False)
        layers: list[nn.Module] = []
        for before, after in zip((reduced_dim, *widths), widths, strict=False):
            layers += [nn.Linear(before, after), nn.ReLU()]
        self.network = nn.Sequential(*layers, nn.Linear((reduced_dim, *widths)[-1], 1 + num_classes))

    def field(self, output: Output) -> "RadianceField":
        """What the head says of space, given what a model says of a batch.

        Raises:
            RecipeError: The model's cells are pixels.
        """
        return RadianceField(self, output.cells.in_space, self.reduce(output.cell_features))


class RadianceField:
    """A ``geometry.rendering.Field``.

    Args:
        head: Its network.
        volume: Where cells lie.
        reduced: [V, 32] their reduced features.
    """

    def __init__(self, head: RadianceHead, volume: Volume, reduced: Float[Tensor, "V G"]) -> None:
        self.head, self.volume, self.reduced = head, volume, reduced

    def touches(self, points: Float[Tensor, "S 3"], scan_idx: Int[Tensor, "S"]) -> Bool[Tensor, "S"]:
        """See ``Volume.touches``."""
        return self.volume.touches(points, scan_idx)

    def __call__(
        self, points: Float[Tensor, "S 3"], scan_idx: Int[Tensor, "S"]
    ) -> tuple[Float[Tensor, "S"], Float[Tensor, "S C"]]:
        """Density, 1/m, and class scores; float32 under autocast, too."""
        corners = self.volume.corners(points, scan_idx)
        said = self.head.network(blend(self.reduced, corners))
        said = said if said.dtype == torch.float64 else said.float()
        density = functional.softplus(said[:, 0] + self.head.density_bias)
        return density * corners.weights.sum(1).to(density.dtype), said[:, 1:]
