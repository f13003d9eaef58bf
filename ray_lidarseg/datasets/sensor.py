"""The sensor of a run: that of its data set, with the recipe's overrides for own LiDARs."""

import math
from dataclasses import replace

from ray_lidarseg.datasets.entries import dataset_of
from ray_lidarseg.errors import DataError
from ray_lidarseg.recipe.schema import Data
from ray_lidarseg.sample import ImageSensor, SensorSpec


def resolve_sensor(data: Data) -> SensorSpec:
    """The data set's LiDAR or pseudo camera with the recipe's overrides, degrees turned into radians.

    Raises:
        DataError: No such data set, a size for what is no image, or an empty field of view or range interval.
    """
    sensor = dataset_of(data).sensor
    if data.image_size is not None:
        if not isinstance(sensor, ImageSensor):
            raise DataError(f"data.image_size is for images: leave it out with {data.dataset}")
        height_px, width_px = data.image_size
        sensor = replace(sensor, num_beams=height_px, width_px=width_px)
    changes: dict[str, float] = {}
    for key, value in data.sensor.model_dump(exclude_none=True).items():
        changes[key.replace("_deg", "_rad")] = math.radians(value) if key.endswith("_deg") else value
    sensor = replace(sensor, **changes)  # type: ignore[arg-type]
    if sensor.fov_down_rad >= sensor.fov_up_rad:
        raise DataError("data.sensor: fov_down_deg must be below fov_up_deg")
    if sensor.min_range_m >= sensor.max_range_m:
        raise DataError("data.sensor: min_range_m must be below max_range_m")
    return sensor
