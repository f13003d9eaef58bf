"""The laser channel of each point: as the file says, by the order of the points, or by their inclination."""

import numpy as np
from jaxtyping import Float, Int

from ray_lidarseg.sample import Keyframe, SensorSpec

_BEHIND, _BEFORE = 0.2, 0.8  # shares of a turn between which two neighbours cross the start of a ring


def channels(frame: Keyframe, sensor: SensorSpec) -> Int[np.ndarray, "P"]:
    """Channel of each point in [0, num_beams).

    The ring of the file where it has one. Files that go beam by beam from the top, each beam from straight ahead
    counter-clockwise (SemanticKITTI), are told by their jumps in azimuth: then channel 0 is the highest. Elsewhere the
    sensor's field of view is cut into equal parts, and channel 0 is the lowest.
    """
    if len(frame.ring):
        return np.minimum(frame.ring.astype(np.int64), sensor.num_beams - 1)
    starts = _starts(frame.points)
    if 0.9 * sensor.num_beams <= starts[-1:].sum() + 1 <= 1.1 * sensor.num_beams:
        return np.minimum(starts, sensor.num_beams - 1)
    return _by_inclination(frame.points, sensor)


def _starts(points: Float[np.ndarray, "P _"]) -> Int[np.ndarray, "P"]:
    """How many rings began before each point."""
    turn = 0.5 * (-np.arctan2(points[:, 1], -points[:, 0]) / np.pi + 1)
    begins = np.zeros(len(points), np.int64)
    begins[1:] = (turn[1:] < _BEHIND) & (turn[:-1] > _BEFORE)
    return np.cumsum(begins)


def _by_inclination(points: Float[np.ndarray, "P _"], sensor: SensorSpec) -> Int[np.ndarray, "P"]:
    inclination = np.arctan2(points[:, 2], np.hypot(points[:, 0], points[:, 1]))
    share = (inclination - sensor.fov_down_rad) / (sensor.fov_up_rad - sensor.fov_down_rad)
    return np.clip((share * sensor.num_beams).astype(np.int64), 0, sensor.num_beams - 1)
