import math
from typing import Any

import numpy as np
import pytest
import yaml

from ray_lidarseg.datasets.ontology_taxonomy import doubts, sensor, taxonomy
from ray_lidarseg.recipe.ontology import Ontology, parse_ontology
from ray_lidarseg.sample import Keyframe
from ray_lidarseg.types import IGNORE

SENSOR = {
    "num_beams": 16,
    "fov_up_deg": 15,
    "fov_down_deg": -15,
    "min_range_m": 1.0,
    "max_range_m": 100.0,
    "intensity": [0, 1],
    "height_m": 2.0,
}


def ontology(**sensor_changes: Any) -> Ontology:
    classes = [{"name": "car", "raw_ids": [10, 252], "colour": [1, 2, 3]}, {"name": "road", "raw_ids": [40]}]
    content = {"name": "own", "classes": classes, "ignore_raw_ids": [0], "sensor": {**SENSOR, **sensor_changes}}
    return parse_ontology(yaml.safe_dump(content))


def scan() -> np.ndarray:
    """A flat ground 2 m below the sensor seen from 8 to 60 m, and a wall of returns above it."""
    rng = np.random.default_rng(0)
    azimuth, range_m = rng.uniform(-np.pi, np.pi, 2000), rng.uniform(8.0, 60.0, 2000)
    z = np.where(np.arange(2000) % 2, -2.0, rng.uniform(-1.0, 1.0, 2000))
    columns = (range_m * np.cos(azimuth), range_m * np.sin(azimuth), z, rng.uniform(0, 0.9, 2000))
    return np.stack(columns, axis=1).astype(np.float32)


def frame(points: np.ndarray) -> Keyframe:
    return Keyframe("0", "manifest", "0", "train", 0, "0.bin", points=points.astype(np.float32))


def test_taxonomy_maps_there_and_back() -> None:
    classes = taxonomy(ontology())
    assert classes.to_train(np.array([252, 40, 0, 10])).tolist() == [0, 1, IGNORE, 0]
    assert classes.to_raw(np.array([0, 1])).tolist() == [10, 40]
    assert classes.colours[0].tolist() == [1, 2, 3]
    assert classes.colours.shape == (2, 3)


def test_sensor_is_in_radians() -> None:
    lidar = sensor(ontology(intensity=[0, 50]))
    assert lidar.fov_up_rad == pytest.approx(math.pi / 12)
    assert lidar.fov_down_rad == pytest.approx(-math.pi / 12)
    assert lidar.intensity_scale == pytest.approx(0.02)
    assert sensor(ontology(intensity="none")).intensity_scale == 0.0


def test_a_scan_that_fits_raises_no_doubt() -> None:
    assert doubts(frame(scan()), ontology()) == []


@pytest.mark.parametrize(
    ("factors", "sensor_changes", "message"),
    [
        ((1, 1, 8, 1), {}, "of the points lie outside -15 … 15 deg"),
        ((1, 1, -1, 1), {}, "m below the sensor, height_m is 2"),
        ((1000, 1000, 1000, 1), {}, "100% of the points lie beyond max_range_m=100"),
        ((1e-3, 1e-3, 1e-3, 1), {}, "no point lies beyond min_range_m=1: are the points in metres"),
        ((1, 1, 1, 1e-3), {}, "of the given range: check sensor.intensity, or set it to none"),
        ((1, 1, 1, 0), {"intensity": [0, 1]}, "check sensor.intensity"),
    ],
)
def test_doubts_name_what_contradicts(factors: tuple[float, ...], sensor_changes: Any, message: str) -> None:
    assert message in "\n".join(doubts(frame(scan() * np.array(factors)), ontology(**sensor_changes)))


def test_clipped_intensity_is_doubted_unless_there_is_none() -> None:
    points = scan()
    points[:, 3] = 1.0
    assert "100% of the intensities" in doubts(frame(points), ontology())[0]
    assert doubts(frame(points), ontology(intensity="none")) == []
