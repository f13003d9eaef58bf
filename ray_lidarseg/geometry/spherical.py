"""Points in spherical coordinates of the sensor frame: range, azimuth, inclination. Radians, finite at the origin."""

import torch
from jaxtyping import Float
from torch import Tensor


def ranges(points: Float[Tensor, "P D"]) -> Float[Tensor, "P"]:
    """Distance to the sensor, metres: ``sqrt(x² + y² + z²)``; columns behind z are not read."""
    return torch.linalg.vector_norm(points[:, :3], dim=1)


def azimuths(points: Float[Tensor, "P D"]) -> Float[Tensor, "P"]:
    """Angle in the horizontal plane, counter-clockwise from x: ``atan2(y, x)``, radians in [-π, π]; 0 at the origin."""
    return torch.atan2(points[:, 1], points[:, 0])


def inclinations(points: Float[Tensor, "P D"]) -> Float[Tensor, "P"]:
    """Angle above the horizon: ``atan2(z, sqrt(x² + y²))``, radians in [-π/2, π/2]; 0 at the origin."""
    return torch.atan2(points[:, 2], torch.hypot(points[:, 0], points[:, 1]))
