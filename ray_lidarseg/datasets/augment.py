"""Rigid augmentation of whole scans: flips, rotation about z, scale and shift, one draw a scan."""

import math
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from ray_lidarseg.recipe import schema
from ray_lidarseg.sample import PointBatch


def augment(batch: PointBatch, spec: schema.Augment, generator: torch.Generator) -> PointBatch:
    """Moves each scan, and its rays with it, by its own draw: x' = s R F x + t.

    F flips x and y independently, R turns about z, s scales, t is normal per axis. Intensity, labels and extras stay.
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
    xyz = torch.einsum("pij,pj->pi", linear[batch.scan_idx], batch.points[:, :3]) + shift_m[batch.scan_idx]
    points = torch.cat([xyz, batch.points[:, 3:]], dim=1)
    rays = None if batch.rays is None else batch.rays.moved(linear, shift_m)
    return replace(batch, points=points, rays=rays)


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
