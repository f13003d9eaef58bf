"""Augmentation of images that are scans: a mirror image, and a jitter of brightness, contrast and saturation."""

from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from ray_lidarseg.datasets.image_scans import luma
from ray_lidarseg.recipe import schema
from ray_lidarseg.sample import ImageSensor, PointBatch
from ray_lidarseg.types import COLOURS


def augment_image(
    scan: PointBatch, spec: schema.ImageAugment, sensor: ImageSensor, generator: torch.Generator
) -> PointBatch:
    """Changes one image by its own draw; directions stay, labels and extras move with their pixel.

    Brightness b, contrast c and saturation s are factors drawn from 1 ± the recipe's values, applied in this order,
    each result cut to [0, 1]: ``b x``, then ``m + c (x - m)`` with m the mean luma of the image, then ``l + s (x - l)``
    with l the pixel's luma. Four random numbers are consumed whatever the settings.

    Args:
        scan: One image from ``images.to_scan``, row by row.
        spec: Shares and strengths.
        sensor: Its pseudo camera.
        generator: CPU generator, the only source of randomness.

    Source: mirror image as CPS (CVPR 2021); the jitter is ours (CPS: none), with the usual definitions of its three
    parts. No random scale and crop (CPS has one): the whole image stays, as strips have their place in it.
    """
    draws = torch.rand(4, generator=generator)
    strengths = torch.tensor([spec.brightness, spec.contrast, spec.saturation])
    factors = 1 + (2 * draws[1:] - 1) * strengths
    pixels = torch.arange(len(scan)).view(sensor.height_px, sensor.width_px)
    pixels = (pixels.flip(1) if draws[0] < spec.flip_ratio else pixels).flatten()
    extras = {name: value[pixels] for name, value in scan.extras.items()}
    extras[COLOURS] = _jittered(extras[COLOURS], *factors.tolist())
    points = torch.cat([scan.points[:, :3], luma(extras[COLOURS])[:, None]], dim=1)
    return replace(scan, points=points, labels=scan.labels[pixels], extras=extras)


def _jittered(
    colours: Float[Tensor, "P 3"], brightness: float, contrast: float, saturation: float
) -> Float[Tensor, "P 3"]:
    colours = (brightness * colours).clamp(0, 1)
    mean = luma(colours).mean()
    colours = (mean + contrast * (colours - mean)).clamp(0, 1)
    grey = luma(colours)[:, None]
    return (grey + saturation * (colours - grey)).clamp(0, 1)
