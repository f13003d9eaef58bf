"""What a sensor itself does wrong: shaken, with dead beams, disturbed by its like, deaf to echoes, or another model.

Source of all: Robo3D (ICCV 2023), authors' code; our own formulation.
"""

from dataclasses import replace

import numpy as np
from jaxtyping import Bool, Int

from ray_lidarseg.datasets.corruptions.severities import Setting
from ray_lidarseg.sample import Keyframe, SensorSpec
from ray_lidarseg.types import IGNORE

_CLIP_STD = 3.0
_JITTER_STD = np.array([0.1, 0.1, 0.05])
_CROSSTALK_STD = 3.0  # metres, and as many steps of the file's intensity
_LEAST_ECHO_POINTS = 10
_STEPS = {0.25: 4.0, 0.5: 2.0, 0.75: 1.33}


def motion_blur(frame: Keyframe, setting: Setting, rng: np.random.Generator) -> Keyframe:
    """Shifts the scan by one draw of N(0, σ²) an axis, and each point by a tenth of it (z: a twentieth).

    Every draw is cut at three of its own standard deviations.
    """
    std_m = setting.values["std_m"]
    shift = std_m * _cut(rng.standard_normal(3))
    jitter = std_m * _JITTER_STD * _cut(rng.standard_normal((len(frame.points), 3)))
    points = frame.points.copy()
    points[:, :3] += (shift + jitter).astype(np.float32)
    return replace(frame, points=points)


def beam_missing(
    frame: Keyframe, channel: Int[np.ndarray, "P"], setting: Setting, sensor: SensorSpec, rng: np.random.Generator
) -> Keyframe:
    """Deletes the points of beams drawn with replacement from all but the outermost ones, as the authors do.

    Of 32 beams 8, 16 and 24 draws from the 27 inner ones hit 7.0, 12.2 and 16.1 on average.
    """
    beams, border = sensor.num_beams, sensor.num_beams // 16
    drawn = rng.choice(np.arange(border, beams - border - 1), round(setting.values["beams_ratio"] * beams))
    return chosen(frame, ~np.isin(channel, drawn))


def crosstalk(frame: Keyframe, setting: Setting, sensor: SensorSpec, rng: np.random.Generator) -> Keyframe:
    """Throws a share of the points off by N(0, 3²) in x, y, z and intensity; they lose their label.

    Intensities may leave [0, 1], as in the published sets.
    """
    count = int(setting.values["points_ratio"] * len(frame.points))
    idx = rng.choice(len(frame.points), count, replace=False)
    noise = _CROSSTALK_STD * rng.standard_normal((count, 4))
    noise[:, 3] *= sensor.intensity_scale
    points, labels = frame.points.copy(), frame.labels.copy()
    points[idx, :4] += noise.astype(np.float32)
    labels[idx] = IGNORE
    return replace(frame, points=points, labels=labels)


def incomplete_echo(frame: Keyframe, setting: Setting, vehicles: tuple[int, ...], rng: np.random.Generator) -> Keyframe:
    """Deletes a share of the points of every class of vehicle that has more than ten."""
    is_kept = np.ones(len(frame.points), bool)
    for train in vehicles:
        own = np.flatnonzero(frame.labels == train)
        if len(own) > _LEAST_ECHO_POINTS:
            is_kept[rng.choice(own, int(setting.values["drop_ratio"] * len(own)), replace=False)] = False
    return chosen(frame, is_kept)


def cross_sensor(frame: Keyframe, channel: Int[np.ndarray, "P"], setting: Setting, sensor: SensorSpec) -> Keyframe:
    """What a sensor of fewer beams would see: regularly chosen beams go, then every second point in file order.

    A nuScenes file goes column by column, so there it is every second remaining beam that the second step deletes, and
    on SemanticKITTI, beam by beam, half the resolution in azimuth: as in the published sets.
    """
    step = _STEPS[setting.values["beams_ratio"]]
    dropped = np.arange(1, sensor.num_beams, step).astype(np.int64)
    left = chosen(frame, ~np.isin(channel, dropped))
    return chosen(left, np.arange(len(left.points)) % 2 == 0)


def chosen(frame: Keyframe, is_kept: Bool[np.ndarray, "P"]) -> Keyframe:
    """The frame with these points alone."""
    ring = frame.ring[is_kept] if len(frame.ring) else frame.ring
    return replace(frame, points=frame.points[is_kept], labels=frame.labels[is_kept], ring=ring)


def _cut(draws: np.ndarray) -> np.ndarray:
    return np.clip(draws, -_CLIP_STD, _CLIP_STD)
