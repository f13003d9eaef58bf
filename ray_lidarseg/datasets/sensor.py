"""The LiDAR of each data set, and a recipe's overrides for own LiDARs."""

import math
from dataclasses import replace

from ray_lidarseg.datasets import ontology_taxonomy as ontology
from ray_lidarseg.errors import DataError
from ray_lidarseg.recipe.schema import Data
from ray_lidarseg.sample import SensorSpec


def _camera(rows: int, columns: int) -> SensorSpec:
    """The pseudo camera of images of a size; its field of view is arbitrary, ranges are 1 (``datasets.images``)."""
    return SensorSpec(rows, math.radians(45.0), math.radians(-45.0), 0.0, 2.0, 1.0, num_columns=columns)


# Fields of view as in the authors' range-view configurations. Minimum ranges are ours: below 2 m a nuScenes file holds
# ego-roof hits and no-return rays (24 % of a real scan lie below 1 m), a SemanticKITTI file a handful of ego hits.
# Maximum ranges are ours: what real files hold.
_SENSORS = {
    "nuscenes": SensorSpec(
        num_beams=32,
        fov_up_rad=math.radians(10.0),
        fov_down_rad=math.radians(-30.0),
        min_range_m=2.0,
        max_range_m=120.0,
        intensity_scale=1.0 / 255.0,
    ),
    "semantickitti": SensorSpec(
        num_beams=64,
        fov_up_rad=math.radians(3.0),
        fov_down_rad=math.radians(-25.0),
        min_range_m=2.0,
        max_range_m=80.0,
        intensity_scale=1.0,
    ),
    "cityscapes": _camera(512, 1024),  # half the stored size
    "world-images": _camera(126, 224),  # as the preset demo has them
}


def sensor_of(dataset: str) -> SensorSpec:
    """The LiDAR of ``nuscenes`` or ``semantickitti``, or the pseudo camera of an image data set.

    Raises:
        DataError: No such data set.
    """
    if dataset not in _SENSORS:
        raise DataError(f"unknown data set {dataset!r}: expected one of {', '.join(sorted(_SENSORS))}")
    return _SENSORS[dataset]


def resolve_sensor(data: Data) -> SensorSpec:
    """The data set's LiDAR or pseudo camera with the recipe's overrides, degrees turned into radians.

    Raises:
        DataError: The field of view or the range interval is empty.
    """
    changes: dict[str, float] = {}
    for key, value in data.sensor.model_dump(exclude_none=True).items():
        changes[key.replace("_deg", "_rad")] = math.radians(value) if key.endswith("_deg") else value
    default = sensor_of(data.dataset) if data.dataset != ontology.MANIFEST else ontology.sensor(ontology.required(data))
    if data.image_size is not None:
        changes["num_beams"], changes["num_columns"] = data.image_size
    sensor = replace(default, **changes)  # type: ignore[arg-type]
    if sensor.fov_down_rad >= sensor.fov_up_rad:
        raise DataError("data.sensor: fov_down_deg must be below fov_up_deg")
    if sensor.min_range_m >= sensor.max_range_m:
        raise DataError("data.sensor: min_range_m must be below max_range_m")
    return sensor
