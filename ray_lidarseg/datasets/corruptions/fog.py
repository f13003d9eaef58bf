"""Fog: what the air throws back drowns what lies behind it.

With r the range and I the intensity of a return, the target's echo is ``exp(-2 α r) I`` and the fog's
``I r² (β / β0) V(r)``, where V is the strongest echo of the air up to r and D where it comes from::

    V(r) = max over R ≤ r of ∫ sin²(π t / 2τ) exp(-2 α d) / d² ξ(d) dt,  t from 0 to 2τ,  d = R - c t / 2 > 0

ξ is the overlap of beam and receiver, 0 below 0.9 m and 1 from 1 m on. Where fog is louder the return comes from it.

Source: Hahner et al., "Fog Simulation on Real LiDAR Point Clouds" (ICCV 2021), as used by Robo3D; our own integration.
"""

from dataclasses import replace
from functools import lru_cache

import numpy as np
from jaxtyping import Float
from scipy.integrate import trapezoid

from ray_lidarseg.datasets.corruptions.severities import Setting
from ray_lidarseg.sample import Keyframe, SensorSpec
from ray_lidarseg.types import IGNORE

ATTENUATIONS_PER_M = (0.0, 0.005, 0.01, 0.02, 0.03, 0.06)
"""α: a scan draws one of them (authors' code)."""

_LIGHT_M_PER_S = 299_792_458.0
_HALF_PULSE_S = 20e-9
_TARGET_BACKSCATTER = 1e-6 / np.pi
_OVERLAP_FROM_M, _OVERLAP_TO_M = 0.9, 1.0
_GRID_M = np.linspace(0.0, 200.0, 2000)[:200]  # authors' grid; from 5 m on nothing is louder than before
_REACH_M, _STEP_M = 200.0, 0.1
_NOISE_M = 10.0


def fog(frame: Keyframe, setting: Setting, sensor: SensorSpec, rng: np.random.Generator) -> Keyframe:
    """Attenuates every return; those that fog outshines move towards the sensor and lose their label.

    A return in the fog lies at ``D / u`` of its position, u uniform in r ± 10 m. The number of points stays.
    Intensities that files keep as whole numbers are rounded after attenuation, as the authors do.
    """
    alpha = rng.choice(ATTENUATIONS_PER_M)
    range_m = np.linalg.norm(frame.points[:, :3].astype(np.float64), axis=1)
    intensity = frame.points[:, 3].astype(np.float64)
    target = _rounded(np.exp(-2 * alpha * range_m) * intensity, sensor)
    strength, origin_m = response(alpha)
    place = np.minimum((range_m / _STEP_M).round().astype(np.int64), len(strength) - 1)
    air = intensity * range_m**2 * setting.values["backscatter_per_m"] / _TARGET_BACKSCATTER * strength[place]
    is_fog = air > target
    points = frame.points.copy()
    points[:, 3] = np.where(is_fog, np.minimum(air, 1.0), target)  # no format holds an intensity above its highest
    spread_m = rng.uniform(range_m[is_fog] - _NOISE_M, range_m[is_fog] + _NOISE_M)
    points[is_fog, :3] *= (origin_m[place[is_fog]] / spread_m)[:, None]
    return replace(frame, points=points, labels=np.where(is_fog, np.uint8(IGNORE), frame.labels))


@lru_cache(maxsize=len(ATTENUATIONS_PER_M))
def response(alpha_per_m: float) -> tuple[Float[np.ndarray, "S"], Float[np.ndarray, "S"]]:
    """V and D for every 0.1 m of target range from 0 to 200 m; shared, not to be written to."""
    time_s = np.linspace(0.0, 2 * _HALF_PULSE_S, 2001)
    distance_m = _GRID_M[:, None] - _LIGHT_M_PER_S * time_s / 2
    reach = distance_m[distance_m > _OVERLAP_FROM_M]
    echo = np.zeros(distance_m.shape)
    overlap = np.clip((reach - _OVERLAP_FROM_M) / (_OVERLAP_TO_M - _OVERLAP_FROM_M), 0, 1)
    echo[distance_m > _OVERLAP_FROM_M] = np.exp(-2 * alpha_per_m * reach) / reach**2 * overlap
    received = trapezoid(echo * np.sin(np.pi * time_s / (2 * _HALF_PULSE_S)) ** 2, time_s, axis=1)
    strongest = np.maximum.accumulate(received)
    first = np.maximum.accumulate(np.where(received == strongest, np.arange(len(received)), 0))
    target_m = np.arange(0.0, _REACH_M + _STEP_M / 2, _STEP_M)
    last = np.searchsorted(_GRID_M, target_m, side="right") - 1
    return strongest[last], _GRID_M[first[last]]


def _rounded(intensity: np.ndarray, sensor: SensorSpec) -> np.ndarray:
    """Whole raw numbers where the format's are (0 … 255), else as it is."""
    scale = sensor.intensity_scale
    return np.round(intensity / scale) * scale if 0 < scale < 1 else intensity
