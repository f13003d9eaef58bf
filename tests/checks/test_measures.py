"""How many beams a scan has, from the order of its points alone."""

import math
from dataclasses import replace

import numpy as np
import pytest

from ray_lidarseg.checks.measures import measure
from ray_lidarseg.sample import Keyframe, SensorSpec

NUM_BEAMS, NUM_COLUMNS = 16, 360
SENSOR = SensorSpec(NUM_BEAMS, math.radians(15.0), math.radians(-15.0), 1.0, 100.0, 1.0)


def raster(stagger_deg: float = 0.0) -> np.ndarray:
    """[beams, columns, 4] returns 10 m away, from the highest ring; each ring fires a little to the side of its own."""
    inclination = np.radians(np.linspace(15.0, -15.0, NUM_BEAMS))[:, None]
    azimuth = np.radians(np.arange(-180.0, 180.0, 360 / NUM_COLUMNS))[None] + 1e-3
    azimuth = azimuth + np.radians(stagger_deg) * np.array([0.0, 1.0, 2.0, 3.0] * (NUM_BEAMS // 4))[:, None]
    x, y = np.cos(inclination) * np.cos(azimuth), np.cos(inclination) * np.sin(azimuth)
    points = np.stack([x, y, np.broadcast_to(np.sin(inclination), x.shape), np.zeros_like(x)], axis=-1) * 10.0
    return points.astype(np.float32)


def num_beams(points: np.ndarray, ring: np.ndarray | None = None) -> float:
    frame = Keyframe("a", "manifest", "s", "train", 0, "a.bin", points=points.reshape(-1, 4))
    frame = frame if ring is None else replace(frame, ring=ring)
    return measure(frame, SENSOR).num_beams


def test_rings_one_after_the_other_are_turns() -> None:
    assert num_beams(raster()) == NUM_BEAMS
    assert num_beams(raster()[::2]) == NUM_BEAMS // 2


@pytest.mark.parametrize("stagger_deg", [0.0, 2.1])
def test_columns_one_after_the_other_are_counted_by_their_length(stagger_deg: float) -> None:
    assert num_beams(raster(stagger_deg).transpose(1, 0, 2)) == NUM_BEAMS


def test_returns_that_are_missing_shorten_columns_but_not_the_fullest() -> None:
    points = raster(2.1).transpose(1, 0, 2).copy()
    points[::3, ::2] = 0.0  # an organised file writes zeros where nothing came back
    assert num_beams(points) == NUM_BEAMS


def test_a_ring_column_says_it_and_a_shuffled_file_says_nothing() -> None:
    points = raster().reshape(-1, 4)
    assert num_beams(points, ring=np.repeat(np.arange(0, 32, 2), NUM_COLUMNS).astype(np.uint8)) == NUM_BEAMS
    shuffled = np.random.default_rng(0).permutation(points)
    assert math.isnan(num_beams(shuffled))
