import math
from typing import Any

import numpy as np
import pytest
import yaml

from ray_lidarseg.datasets.ontology_taxonomy import sensor, taxonomy
from ray_lidarseg.recipe.ontology import Ontology, parse_ontology
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
    assert lidar.height_m == 2.0
    assert sensor(ontology(height_m=None)).height_m is None
    assert sensor(ontology(intensity="none")).intensity_scale == 0.0
