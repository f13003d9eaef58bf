import math

import pytest

from ray_lidarseg.datasets.entries import dataset_named
from ray_lidarseg.datasets.sensor import resolve_sensor
from ray_lidarseg.errors import DataError
from ray_lidarseg.recipe.schema import Data, Sensor


def test_published_fields_of_view() -> None:
    nuscenes, kitti = dataset_named("nuscenes").sensor, dataset_named("semantickitti").sensor
    assert (nuscenes.num_beams, kitti.num_beams) == (32, 64)
    degrees = [math.degrees(value) for s in (nuscenes, kitti) for value in (s.fov_up_rad, s.fov_down_rad)]
    assert degrees == pytest.approx([10, -30, 3, -25])
    assert 255 * nuscenes.intensity_scale == pytest.approx(1.0)
    assert kitti.intensity_scale == 1.0


def test_overrides_are_degrees_and_keep_the_rest() -> None:
    data = Data(dataset="semantickitti", sensor=Sensor(num_beams=16, fov_up_deg=15.0, min_range_m=0.5))
    sensor = resolve_sensor(data)
    assert (sensor.num_beams, sensor.min_range_m) == (16, 0.5)
    assert sensor.fov_up_rad == pytest.approx(math.pi / 12)
    assert sensor.fov_down_rad == dataset_named("semantickitti").sensor.fov_down_rad


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"fov_up_deg": -40.0}, "fov_down_deg must be below fov_up_deg"),
        ({"min_range_m": 500.0}, "min_range_m must be below max_range_m"),
    ],
)
def test_an_empty_interval_is_refused(change: dict[str, float], message: str) -> None:
    with pytest.raises(DataError, match=message):
        resolve_sensor(Data(sensor=Sensor(**change)))


def test_a_size_is_for_images() -> None:
    with pytest.raises(DataError, match=r"data.image_size is for images: leave it out with nuscenes"):
        resolve_sensor(Data(image_size=(3, 4)))
