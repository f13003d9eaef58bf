"""A small encoder-decoder for images that come as scans: the two-dimensional counterpart of the LiDAR models.

Source: the shape is U-Net's (MICCAI 2015): halve and double, then double back with what each size held before. Residual
blocks, group norm, skip connections that add instead of concatenating, and all widths are ours: it has to learn from a
handful of images on CPU cores. LaserMix++'s image network is not known (probably DeepLabv3+, as in CPS).
"""

import itertools
from dataclasses import dataclass
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from ray_lidarseg.errors import RecipeError
from ray_lidarseg.geometry.range_image import RangeImages, pixel_labels, project
from ray_lidarseg.models.dense_parts import dense_part
from ray_lidarseg.models.segmentor import Cells, Output, Segmentor
from ray_lidarseg.sample import ImageSensor, PointBatch, SensorSpec
from ray_lidarseg.types import COLOURS

_WIDTH = 32  # channels at full size; ours
_GROUP = 8  # channels of a normalised group; all widths are multiples of it


@dataclass(frozen=True)
class ImageView:
    """A batch as the network reads it.

    Attributes:
        images: Which points and pixels belong together.
        colours: [V, 3] RGB of each occupied pixel, in [0, 1].
    """

    images: RangeImages
    colours: Float[Tensor, "V 3"]


class ImageUNet(Segmentor):
    """Colours of the pixels to class scores; a point takes the scores of its pixel.

    Points need no order and may come from several images: each goes to the pixel of its direction. A pixel without a
    point is mid-grey, one of two points shows the first. Points without ``COLOURS`` are as grey as their intensity.

    Args:
        sensor: A pseudo camera; its rows and columns are the image.
        num_classes: C.
        width_factor: Scales all channels, to multiples of 8; 1 is 32 at full size, twice as many at each halving.
        num_levels: Sizes the image is seen at, each half the one before.

    Raises:
        RecipeError: The sensor is a LiDAR.
    """

    head_parts = ("classifier",)

    def __init__(self, sensor: SensorSpec, num_classes: int, width_factor: float = 1.0, num_levels: int = 4) -> None:
        super().__init__()
        if not isinstance(sensor, ImageSensor):
            raise RecipeError("model image_unet sees images: set data.dataset to a data set of images")
        base = max(_GROUP, _GROUP * round(_WIDTH * width_factor / _GROUP))
        widths = [base * 2**level for level in range(num_levels)]
        self.sensor = sensor
        self.num_classes, self.feature_dim = num_classes, base
        self.stem = _Block(3, base)
        self.encoder = nn.ModuleList(_Block(fine, coarse, stride=2) for fine, coarse in itertools.pairwise(widths))
        self.narrow = nn.ModuleList(_conv(coarse, fine, 1) for fine, coarse in itertools.pairwise(widths))
        self.decoder = nn.ModuleList(_Block(fine, fine) for fine in widths[:-1])
        self.classifier = nn.Linear(base, num_classes)

    @torch.no_grad()
    def represent(self, batch: PointBatch) -> Cells:
        """Puts every point into its pixel; a cell is an occupied pixel, its target the label of its point."""
        images = project(batch, self.sensor, self.sensor.height_px, self.sensor.width_px)
        colours = batch.extras.get(COLOURS, batch.points[:, 3:].expand(-1, 3))
        return Cells(images.point_cell, pixel_labels(batch, images), ImageView(images, colours[images.nearest]))

    def forward(self, batch: PointBatch, cells: Cells | None = None) -> Output:
        """See ``Segmentor.forward``; scores are float32 under autocast, too."""
        cells = cells or self.cells_of(batch)
        view = cast(ImageView, cells.geometry)
        features = view.images.gather(self._feature_map(view.images.paint(4 * view.colours - 2)))
        logits = self.classifier(features).float()
        return Output(logits[cells.point_cell], features[cells.point_cell], logits, cells, lambda: features)

    @dense_part
    def _feature_map(self, image: Tensor) -> Tensor:
        """[B, F, H, W] of [B, 3, H, W]."""
        maps = [self.stem(image)]
        for halve in self.encoder:
            maps.append(halve(maps[-1]))
        image = maps.pop()
        for narrow, block in zip(reversed(self.narrow), reversed(self.decoder), strict=True):
            fine = maps.pop()
            image = block(fine + functional.interpolate(narrow(image), fine.shape[2:], mode="bilinear"))
        return image


class _Block(nn.Module):
    """Two 3x3 convolutions, each with its norm, around a shortcut."""

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1) -> None:
        super().__init__()
        self.first = nn.Sequential(_conv(in_channels, out_channels, 3, stride), _norm(out_channels))
        self.second = nn.Sequential(_conv(out_channels, out_channels, 3), _norm(out_channels))
        is_same_shape = stride == 1 and in_channels == out_channels
        self.shortcut = nn.Identity() if is_same_shape else _conv(in_channels, out_channels, 1, stride)

    def forward(self, image: Tensor) -> Tensor:
        return functional.relu(self.second(functional.relu(self.first(image))) + self.shortcut(image))


def _conv(in_channels: int, out_channels: int, kernel: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(in_channels, out_channels, kernel, stride, padding=kernel // 2, bias=False)


def _norm(channels: int) -> nn.GroupNorm:
    """Each image by itself, so that strips of other images, small batches and a teacher's averages do no harm."""
    return nn.GroupNorm(channels // _GROUP, channels)
