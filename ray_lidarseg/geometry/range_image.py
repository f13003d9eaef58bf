"""Spherical range images: packed scans onto rows of inclination and columns of azimuth; the nearest point wins a pixel.

Source: the projection of RangeNet++ as used by FIDNet and LaserMix (authors' code).
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from ray_lidarseg.geometry.spherical import azimuths, inclinations, ranges
from ray_lidarseg.sample import PointBatch, SensorSpec


@dataclass(frozen=True)
class RangeImages:
    """Which points and pixels of B range images belong together.

    Pixels are numbered ``(scan * H + row) * W + column``; occupied pixels are numbered 0 … V-1 in that order.

    Attributes:
        num_scans: B.
        height_px: H.
        width_px: W.
        point_cell: [P] occupied pixel of each point, in [0, V).
        pixel: [V] number of each occupied pixel, ascending, in [0, B * H * W).
        nearest: [V] the point each occupied pixel shows: the nearest, on equal range the first.
    """

    num_scans: int
    height_px: int
    width_px: int
    point_cell: Int[Tensor, "P"]
    pixel: Int[Tensor, "V"]
    nearest: Int[Tensor, "V"]

    def paint(self, values: Float[Tensor, "V F"]) -> Float[Tensor, "B F H W"]:
        """Images of values per occupied pixel, 0 at empty pixels, channels last in memory."""
        rows = _spread(values, self.pixel, self.num_scans * self.height_px * self.width_px)
        return rows.view(self.num_scans, self.height_px, self.width_px, values.shape[1]).permute(0, 3, 1, 2)

    def gather(self, images: Float[Tensor, "B F H W"]) -> Float[Tensor, "V F"]:
        """What images show at the occupied pixels: the inverse of ``paint``."""
        return _UniqueRows.apply(images.permute(0, 2, 3, 1).reshape(-1, images.shape[1]), self.pixel)


class _UniqueRows(torch.autograd.Function):
    """Rows of a matrix, none of them twice: the gradient is a copy then, where that of indexing adds row by row."""

    @staticmethod
    def forward(ctx: Any, values: Float[Tensor, "N F"], rows: Int[Tensor, "V"]) -> Float[Tensor, "V F"]:
        ctx.save_for_backward(rows)
        ctx.num_rows = len(values)
        return values.index_select(0, rows)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Float[Tensor, "N F"], None]:
        (rows,), (gradient,) = ctx.saved_tensors, gradients
        return _spread(gradient, rows, ctx.num_rows), None


def _spread(values: Float[Tensor, "V F"], rows: Int[Tensor, "V"], num_rows: int) -> Float[Tensor, "N F"]:
    """A matrix with these values at these rows, none of them twice, and 0 elsewhere.

    Every row looks up its value, or the zeros behind the last: on a CPU much faster than ``index_copy``.
    """
    source = torch.full((num_rows,), len(values), device=values.device)
    source[rows] = torch.arange(len(values), device=values.device)
    return functional.pad(values, (0, 0, 0, 1)).index_select(0, source)


def project(batch: PointBatch, sensor: SensorSpec, height_px: int, width_px: int) -> RangeImages:
    """Projects every scan onto its own H x W range image.

    ``u = (1 - azimuth / π) / 2 * W`` (the columns run clockwise, forward is the centre) and
    ``v = (fov_up - inclination) / (fov_up - fov_down) * H``, both rounded down and clamped, so points outside the
    field of view stay, in the first or last row.
    """
    pixel = _pixels(batch, sensor, height_px, width_px)
    num_pixels = batch.num_scans * height_px * width_px
    # Non-negative floats order like their bits: one minimum over (range, index) finds the nearest point of each pixel
    # and breaks ties by index, whatever order a device works in.
    range_bits = ranges(batch.points).float().view(torch.int32).long()
    key = (range_bits << 32) | torch.arange(len(batch), device=batch.device)
    far = torch.iinfo(torch.int64).max
    nearest_key = torch.full((num_pixels,), far, device=batch.device).scatter_reduce_(0, pixel, key, "amin")
    is_occupied = nearest_key < far
    cell = is_occupied.cumsum(0) - 1
    occupied = is_occupied.nonzero().squeeze(1)
    nearest = nearest_key[occupied] & 0xFFFFFFFF
    return RangeImages(batch.num_scans, height_px, width_px, cell[pixel], occupied, nearest)


def image_channels(batch: PointBatch, images: RangeImages) -> Float[Tensor, "V 5"]:
    """Range, x, y, z (metres), intensity of the point each occupied pixel shows; ``paint`` makes it [B, 5, H, W]."""
    shown = batch.points[images.nearest]
    return torch.cat([ranges(shown)[:, None], shown], dim=1)


def pixel_labels(batch: PointBatch, images: RangeImages) -> Int[Tensor, "V"]:
    """Label of the point each occupied pixel shows; IGNORE stays IGNORE even where a farther point has a label."""
    return batch.labels[images.nearest]


def _pixels(batch: PointBatch, sensor: SensorSpec, height_px: int, width_px: int) -> Int[Tensor, "P"]:
    fov_rad = sensor.fov_up_rad - sensor.fov_down_rad
    row_ratio = (sensor.fov_up_rad - inclinations(batch.points)) / fov_rad
    column_ratio = 0.5 * (1 - azimuths(batch.points) / math.pi)
    row = (row_ratio * height_px).long().clamp(0, height_px - 1)
    column = (column_ratio * width_px).long().clamp(0, width_px - 1)
    return (batch.scan_idx * height_px + row) * width_px + column
