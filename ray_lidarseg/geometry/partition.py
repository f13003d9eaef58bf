"""LaserMix areas: bands of equal inclination, optionally crossed with azimuth sectors. Radians.

Source: LaserMix (CVPR 2023), section 3.2 and the authors' code; the sectors are the paper's granularity ablation.
"""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import pad

from ray_lidarseg.geometry.spherical import azimuths, inclinations
from ray_lidarseg.sample import SensorSpec


def band_edges(num_areas: int, sensor: SensorSpec) -> Float[Tensor, "E"]:
    """The ``num_areas + 1`` edges of the bands, equally spaced in angle, from ``fov_up`` down to ``fov_down``.

    Returns:
        [num_areas + 1] descending inclinations, radians, on the CPU.

    Raises:
        ValueError: No band, or a field of view that is empty or cannot be radians.
    """
    up, down = sensor.fov_up_rad, sensor.fov_down_rad
    if num_areas < 1:
        raise ValueError(f"band_edges: expected at least one band, got num_areas={num_areas}")
    if not -math.pi / 2 <= down < up <= math.pi / 2:
        raise ValueError(
            f"band_edges: expected -π/2 <= fov_down_rad < fov_up_rad <= π/2, got {down} and {up}; "
            "a SensorSpec holds radians, convert degrees with math.radians"
        )
    return torch.linspace(up, down, num_areas + 1)


def bands(
    inclination_rad: Float[Tensor, "P"], scan_idx: Int[Tensor, "P"], edges_rad: Sequence[Float[Tensor, "_"]]
) -> Int[Tensor, "P"]:
    """Band of each inclination: band i, 0 at the top, holds ``edges[i + 1] < φ <= edges[i]``.

    Inclinations outside the field of view belong to the nearest band, as if clamped to
    (``fov_down + 1e-5``, ``fov_up - 1e-5``) first, so no point is ever lost. No scan is cut out of the batch: to know
    how long it is, the host would have to wait for a GPU.

    Args:
        inclination_rad: [P] radians.
        scan_idx: [P] scan of each, in [0, B).
        edges_rad: For each of the B scans, [n + 1] descending, from ``band_edges``; n may differ.

    Returns:
        [P] int64 in [0, n).
    """
    widest = max((len(edges) for edges in edges_rad), default=2)
    inner = [pad(edges[1:-1], (0, widest - len(edges)), value=-math.inf) for edges in edges_rad]
    band = torch.zeros_like(scan_idx)
    if inner:
        columns = torch.stack(inner, 1).to(inclination_rad.dtype).to(inclination_rad.device, non_blocking=True)
        for edge in columns:
            band += inclination_rad <= edge[scan_idx]
    return band


def sectors(azimuth_rad: Float[Tensor, "P"], num_sectors: int) -> Int[Tensor, "P"]:
    """Azimuth sector of each point: [P] int64 in [0, num_sectors), equal angles, sector 0 starts at -π."""
    turn_ratio = (azimuth_rad + math.pi) / (2 * math.pi)
    return (turn_ratio * num_sectors).long().clamp(0, num_sectors - 1)


def areas(
    points: Float[Tensor, "P D"],
    scan_idx: Int[Tensor, "P"],
    edges_rad: Sequence[Float[Tensor, "_"]],
    num_sectors: int = 1,
) -> Int[Tensor, "P"]:
    """Band plus sector of each point: neighbouring areas differ by one, so even and odd areas form a chequerboard.

    Args:
        points: [P, D], x, y, z in metres first.
        scan_idx: [P] scan of each point.
        edges_rad: For each scan, [n + 1] descending, from ``band_edges``.
        num_sectors: Azimuth sectors; 1 is LaserMix as published, more are its (kα, mφ) ablation.

    Returns:
        [P] int64 in [0, n + num_sectors - 1).
    """
    band = bands(inclinations(points), scan_idx, edges_rad)
    return band if num_sectors == 1 else band + sectors(azimuths(points), num_sectors)


def draw_num_areas(choices: Sequence[int], generator: torch.Generator) -> int:
    """One entry of ``choices``, all equally likely.

    Raises:
        ValueError: ``choices`` is empty.
    """
    if not choices:
        raise ValueError("draw_num_areas: expected at least one number of areas, got none")
    return choices[int(torch.randint(len(choices), (), generator=generator))]
