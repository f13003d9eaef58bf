"""Wet ground: a film of water mirrors light away, and what comes back too weak is lost.

Source: Hahner et al. (CVPR 2022, with the snowfall simulation), as used by Robo3D; our own formulation.
"""

from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Float

from ray_lidarseg.datasets.corruptions.severities import Setting
from ray_lidarseg.sample import Keyframe, SensorSpec

MIN_GROUND_POINTS = 1000
"""Scans with fewer stay as they are (authors' code)."""

_AIR, _WATER = 1.0003, 1.33
_FULL_FILM_M = 0.0012
_POWER_FACTOR = 15.0
_HISTOGRAM_M, _BINS = (10.0, 70.0), (50, 2555)
_LOWEST_EDGE = 5.0
_LEAST_COSINE = 1e-3  # ours: a ground point level with the sensor is met at no angle below


@dataclass(frozen=True)
class Ground:
    """The ground of a scan as the beams meet it.

    Attributes:
        idx: Its points' indices, ascending.
        range_m: Their ranges.
        cosine: Of the angle between beam and vertical, ``-z / r``.
        slope: Of the line through intensity over cosine against range, and
        offset: where it starts.
        floor: Weakest ``intensity / cosine`` that still returns, by range.
    """

    idx: np.ndarray
    range_m: Float[np.ndarray, "P"]
    cosine: Float[np.ndarray, "P"]
    slope: float
    offset: float
    floor: Float[np.ndarray, "P"]


def wet_ground(frame: Keyframe, setting: Setting, sensor: SensorSpec, ground: tuple[int, ...]) -> Keyframe:
    """Weakens the ground by what a film of water mirrors away and deletes what falls below the noise.

    With θ the angle of incidence, P = 15 (p0 r + p1) the emitted power and ρ = I / cosθ / P the ground's albedo, a film
    of height h leaves ``I' = P cosθ ((1 - f) ρ + f t / θ)``, at most I, with f = h / 1.2 mm and t the light that enters
    the film, is scattered, and leaves it (the division by θ itself is the authors'). Survivors follow all other points.

    Args:
        frame: A labelled scan.
        setting: Film and noise.
        sensor: Tells formats with whole-number intensities from remissions.
        ground: Class ids of the ground.
    """
    is_ground = np.isin(frame.labels, ground)
    if is_ground.sum() < MIN_GROUND_POINTS:
        return frame
    lowest = 0.0 if 0 < sensor.intensity_scale < 1 else _LOWEST_EDGE
    intensity = frame.points[:, 3].astype(np.float64)
    found = ground_of(frame.points, intensity, is_ground, setting.values["noise_floor"], lowest)
    own = intensity[found.idx]
    power = _POWER_FACTOR * (found.slope * found.range_m + found.offset)
    with np.errstate(divide="ignore", invalid="ignore"):
        albedo = np.nan_to_num(own / found.cosine / power)
    share = np.clip(setting.values["water_m"] / _FULL_FILM_M, 0, 1)
    angle = np.arccos(found.cosine)
    wet = (1 - share) * albedo + share * _through_film(albedo, angle) / np.maximum(angle, _LEAST_COSINE)
    weakened = np.clip(power * found.cosine * wet, 0, own)
    is_kept = weakened > found.floor * found.cosine
    points = frame.points.copy()
    points[found.idx, 3] = weakened
    order = np.concatenate([np.flatnonzero(~is_ground), found.idx[is_kept]])
    ring = frame.ring[order] if len(frame.ring) else frame.ring
    return replace(frame, points=points[order], labels=frame.labels[order], ring=ring)


def ground_of(
    points: Float[np.ndarray, "P 4"],
    intensity: Float[np.ndarray, "P"],
    is_ground: Bool[np.ndarray, "P"],
    noise_floor: float,
    lowest_edge: float,
) -> Ground:
    """Range, angle, brightness and noise of the ground.

    The noise is a line through the sparsest cells of a histogram of range and ``intensity / cosine``, one a range bin,
    above 5; where no more than three are, the line of the brightness itself, both times the noise floor.

    Args:
        points: Of the scan, metres.
        intensity: On the scale that the histogram's edges refer to.
        is_ground: Which points are ground.
        noise_floor: Factor of the line.
        lowest_edge: Where the histogram begins.
    """
    idx = np.flatnonzero(is_ground)
    xyz = points[idx, :3].astype(np.float64)
    range_m = np.maximum(np.linalg.norm(xyz, axis=1), 1e-6)
    cosine = np.clip(-xyz[:, 2] / range_m, _LEAST_COSINE, 1.0)
    bright = intensity[idx] / cosine
    slope, offset = np.polyfit(range_m, bright, 1)
    noise = _noise_line(range_m, bright, lowest_edge) or (slope, offset)
    return Ground(idx, range_m, cosine, slope, offset, noise_floor * np.polyval(noise, range_m))


def _noise_line(range_m: np.ndarray, bright: np.ndarray, lowest_edge: float) -> tuple[float, float] | None:
    if bright.max() <= lowest_edge:
        return None
    counts, range_edges, edges = np.histogram2d(
        range_m, bright, bins=_BINS, range=(_HISTOGRAM_M, (lowest_edge, bright.max()))
    )
    counts[counts == 0] = len(range_m)
    sparse = edges[np.argpartition(counts, 2, axis=1)[:, 0]]
    is_known = sparse > _LOWEST_EDGE
    if is_known.sum() <= 3:
        return None
    slope, offset = np.polyfit(range_edges[:-1][is_known], sparse[is_known], 1)
    return slope, offset


def _through_film(albedo: np.ndarray, angle: np.ndarray) -> np.ndarray:
    """Share of the light that enters the water, is thrown back and leaves: ``T ρ T' / (1 - ρ R')``, the better
    polarisation; by reciprocity the film lets out what it lets in (T' = T, R' = R).
    """
    cosine = np.cos(angle)
    inside = np.sqrt(1 - (_AIR / _WATER * np.sin(angle)) ** 2)
    albedo = np.clip(albedo, 0.05, 1.0)
    across = ((_AIR * cosine - _WATER * inside) / (_AIR * cosine + _WATER * inside)) ** 2
    along = ((_AIR * inside - _WATER * cosine) / (_AIR * inside + _WATER * cosine)) ** 2
    return np.maximum(*((1 - lost) ** 2 * albedo / (1 - albedo * lost) for lost in (across, along)))
