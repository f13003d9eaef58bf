"""Rigid augmentation of whole scans: flips, rotation about z, scale and shift, one draw a scan."""

import math
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from ray_lidarseg.recipe import schema
from ray_lidarseg.sample import PointBatch


def augment(batch: PointBatch, spec: schema.Augment, generator: torch.Generator) -> PointBatch:
    """Moves each scan, and its rays with it, by its own draw: x' = s R F x + t.

    F flips x and y independently, R turns about z, s scales, t is normal per axis. Intensity, labels and extras stay:
    a scan is one product ``[x, y, z, i] [[(s R F)^T, 0], [0, 1]] + [t, 0]``.
    Every scan consumes the same number of random numbers whatever the settings.

    Args:
        batch: Scans, points in metres.
        spec: Intervals; degrees.
        generator: CPU generator, the only source of randomness.

    Source: LaserMix, authors' Cylinder3D configurations (order and kinds).
    """
    uniform = torch.rand(batch.num_scans, 4, generator=generator)
    normal = torch.randn(batch.num_scans, 3, generator=generator)
    linear = _linear(uniform, spec).to(batch.device)
    shift_m = (normal * spec.translation_std_m).to(batch.device)
    scans = batch.points.split(_sizes(batch)) if batch.num_scans else ()
    moved = [
        torch.mm(scan, matrix).add_(shift)
        for scan, matrix, shift in zip(scans, _homogeneous(linear), functional.pad(shift_m, (0, 1)), strict=True)
    ]
    points = moved[0] if len(moved) == 1 else torch.cat([batch.points[:0], *moved])
    rays = None if batch.rays is None else batch.rays.moved(linear, shift_m)
    return replace(batch, points=points, rays=rays)


def _sizes(batch: PointBatch) -> list[int]:
    """Points of each scan."""
    one = batch.num_scans == 1
    return [len(batch)] if one else torch.bincount(batch.scan_idx, minlength=batch.num_scans).tolist()


def _homogeneous(linear: Float[Tensor, "B 3 3"]) -> Float[Tensor, "B 4 4"]:
    """Transposed, for rows from the left, with a last column that keeps its value."""
    matrix = functional.pad(linear.transpose(1, 2), (0, 1, 0, 1))
    matrix[:, 3, 3] = 1.0
    return matrix


def _linear(uniform: Float[Tensor, "B 4"], spec: schema.Augment) -> Float[Tensor, "B 3 3"]:
    flip = 1.0 - 2.0 * (uniform[:, :2] < spec.flip_ratio).float()
    low_rad, high_rad = (math.radians(angle) for angle in spec.rotation_deg)
    angle_rad = low_rad + (high_rad - low_rad) * uniform[:, 2]
    scale = spec.scale[0] + (spec.scale[1] - spec.scale[0]) * uniform[:, 3]
    cos, sin = torch.cos(angle_rad), torch.sin(angle_rad)
    linear = torch.zeros(len(uniform), 3, 3)
    linear[:, 0, 0], linear[:, 0, 1] = cos * flip[:, 0], -sin * flip[:, 1]
    linear[:, 1, 0], linear[:, 1, 1] = sin * flip[:, 0], cos * flip[:, 1]
    linear[:, 2, 2] = 1.0
    return linear * scale[:, None, None]
