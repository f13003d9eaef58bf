"""FIDNet, the range-view network of the LaserMix paper: residual stages, bilinear upsampling, one 1x1 head.

Source: FIDNet (IROS 2021), "ResNet34-point" of the authors' code. Ours: the head runs on occupied pixels only (a 1x1
convolution sees one pixel anyway), and there is no convolution bias in front of a batch norm, which would remove it.
"""

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from ray_lidarseg.geometry.range_image import RangeImages, image_channels, pixel_labels, project
from ray_lidarseg.models.dense_parts import dense_part
from ray_lidarseg.models.segmentor import Cells, Output, Segmentor
from ray_lidarseg.sample import PointBatch, SensorSpec
from ray_lidarseg.sparse.products import RowLinear, linear

_STEM = (64, 128, 256, 512)
_STAGE = 128
_HEAD = (512, 128)


@dataclass(frozen=True)
class RangeView:
    """A batch as FIDNet reads it.

    Attributes:
        images: Which points and pixels belong together.
        channels: [V, 5] range, x, y, z and intensity of each occupied pixel, divided by ``channel_scale``.
    """

    images: RangeImages
    channels: Float[Tensor, "V 5"]


class FIDNet(Segmentor):
    """Range image to class scores; a point takes the scores of its pixel.

    A 1x1 stem (5, 64, 128, 256, 512), four stages of residual blocks (128 channels; the last three halve the image),
    stages 2 to 4 bilinearly upsampled, all five concatenated (1024), a 1x1 head (512, 128, C).

    Args:
        sensor: Field of view of the image and reach of the sensor.
        num_classes: C.
        height_px: Rows of the range image.
        width_px: Columns of the range image.
        width_factor: Scales all channels, to multiples of 8; 1 is 6.05 M parameters.
        blocks: Residual blocks of the four stages.
    """

    channel_scale: Tensor

    head_parts = ("classifier",)

    def __init__(
        self,
        sensor: SensorSpec,
        num_classes: int,
        height_px: int,
        width_px: int,
        width_factor: float = 1.0,
        blocks: tuple[int, int, int, int] = (3, 4, 6, 3),
    ) -> None:
        super().__init__()
        stem = [_scaled(channels, width_factor) for channels in _STEM]
        stage = _scaled(_STAGE, width_factor)
        head = [_scaled(channels, width_factor) for channels in _HEAD]
        self.sensor, self.height_px, self.width_px = sensor, height_px, width_px
        self.num_classes, self.feature_dim = num_classes, head[-1]
        self.register_buffer("channel_scale", channel_scale(sensor), persistent=False)
        self.stem = _chain([5, *stem], _conv)
        self.stages = nn.ModuleList(
            _stage(stem[-1] if index == 0 else stage, stage, count, stride=1 if index == 0 else 2)
            for index, count in enumerate(blocks)
        )
        self.head = _chain([stem[-1] + len(blocks) * stage, *head], _linear)
        self.classifier = RowLinear(head[-1], num_classes)

    @torch.no_grad()
    def represent(self, batch: PointBatch) -> Cells:
        """Projects the batch; a cell is an occupied pixel, its target the label of the nearest point in it."""
        images = project(batch, self.sensor, self.height_px, self.width_px)
        channels = image_channels(batch, images) / self.channel_scale
        return Cells(images.point_cell, pixel_labels(batch, images), RangeView(images, channels))

    def forward(self, batch: PointBatch, cells: Cells | None = None) -> Output:
        """See ``Segmentor.forward``; scores are float32 under autocast, too."""
        cells = cells or self.cells_of(batch)
        view = cast(RangeView, cells.geometry)
        maps = self._maps(view.images.paint(view.channels))
        size = maps[0].shape[2:]
        rows = torch.cat([view.images.gather(upsample(feature_map, size)) for feature_map in maps], dim=1)
        features, logits = self._scores(rows)
        return Output(logits[cells.point_cell], features[cells.point_cell], logits, cells, lambda: features)

    @dense_part
    def _maps(self, image: Tensor) -> list[Tensor]:
        """[B, F, _, _] of the stem and of each stage, the later ones smaller."""
        maps = [self.stem(image)]
        for stage in self.stages:
            maps.append(stage(maps[-1]))
        return maps

    @dense_part
    def _scores(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """[V, F] features and float32 [V, C] scores of occupied pixels."""
        features = self.head(rows)
        return features, self.classifier(features).float()


def channel_scale(sensor: SensorSpec) -> Float[Tensor, "5"]:
    """Divisors that give range, x, y, z and intensity a spread of about one.

    A fifth of the sensor's reach for range, x and y, 1 m for z, 0.15 for intensity. Source: ours, round numbers near
    the standard deviations FIDNet's code uses on SemanticKITTI (10.2, 12.3, 9.4, 0.86, 0.145). Nothing is subtracted:
    an empty pixel is 0 as there, and the first batch norm takes out a mean whichever the sensor.
    """
    reach_m = sensor.max_range_m / 5
    return torch.tensor([reach_m, reach_m, reach_m, 1.0, 0.15])


class _BatchNorm(nn.BatchNorm2d):
    """Batch norm over rows or images that falls back on its running statistics where one value has no variance."""

    def forward(self, values: Tensor) -> Tensor:
        if self.training and values.numel() < 2 * self.num_features:
            return functional.batch_norm(
                values, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps
            )
        return super().forward(values)

    def _check_input_dim(self, values: Tensor) -> None:
        """Rows [V, C] are as good as images [B, C, H, W]."""


class _BasicBlock(nn.Module):
    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.first = nn.Sequential(_conv(in_channels, out_channels, 3, stride), _BatchNorm(out_channels))
        self.second = nn.Sequential(_conv(out_channels, out_channels, 3), _BatchNorm(out_channels))
        is_same_shape = stride == 1 and in_channels == out_channels
        shortcut = nn.Sequential(_conv(in_channels, out_channels, 1, stride), _BatchNorm(out_channels))
        self.shortcut = nn.Identity() if is_same_shape else shortcut

    def forward(self, image: Tensor) -> Tensor:
        return functional.leaky_relu(self.second(functional.leaky_relu(self.first(image))) + self.shortcut(image))


def _stage(in_channels: int, out_channels: int, num_blocks: int, stride: int) -> nn.Sequential:
    first = _BasicBlock(in_channels, out_channels, stride)
    return nn.Sequential(first, *(_BasicBlock(out_channels, out_channels, 1) for _ in range(num_blocks - 1)))


def _chain(channels: list[int], layer: Callable[[int, int], nn.Module]) -> nn.Sequential:
    steps = [
        nn.Sequential(layer(before, after), _BatchNorm(after), nn.LeakyReLU())
        for before, after in itertools.pairwise(channels)
    ]
    return nn.Sequential(*steps)


class Pointwise(nn.Conv2d):
    """A 1x1 convolution as a matrix product: with one thread torch's own takes a slow path in float32."""

    def forward(self, input: Float[Tensor, "B C_in H W"]) -> Float[Tensor, "B C_out _ _"]:
        """The convolution; channels last in memory, which the image should be, too."""
        step, down = self.stride
        seen = input[:, :, ::step, ::down].permute(0, 2, 3, 1)
        rows = linear(seen.reshape(-1, self.in_channels), self.weight.flatten(1))
        return rows.view(*seen.shape[:3], self.out_channels).permute(0, 3, 1, 2)


def _conv(in_channels: int, out_channels: int, kernel: int = 1, stride: int = 1) -> nn.Conv2d:
    if kernel == 1:
        return Pointwise(in_channels, out_channels, kernel, stride, bias=False)
    return nn.Conv2d(in_channels, out_channels, kernel, stride, padding=kernel // 2, bias=False)


def _linear(in_channels: int, out_channels: int) -> RowLinear:
    return RowLinear(in_channels, out_channels, bias=False)


def upsample(image: Float[Tensor, "B F _ _"], size: torch.Size) -> Float[Tensor, "B F H W"]:
    """Bilinear, corner on corner; an image of that size as it is."""
    return (
        image if image.shape[2:] == size else functional.interpolate(image, size, mode="bilinear", align_corners=True)
    )


def _scaled(channels: int, width_factor: float) -> int:
    return max(8, 8 * round(channels * width_factor / 8))
