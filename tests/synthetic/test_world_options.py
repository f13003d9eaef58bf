import numpy as np
import pytest

from ray_lidarseg.errors import DataError
from ray_lidarseg.synthetic import kitti_rig, lidar
from ray_lidarseg.synthetic.lidar import scan
from ray_lidarseg.synthetic.nuscenes_writer import dataset_id
from ray_lidarseg.synthetic.options import parse_options, with_options
from ray_lidarseg.synthetic.presets import PRESETS
from ray_lidarseg.synthetic.scene import Scene

TINY = PRESETS["tiny"]


def test_options_change_the_preset_and_its_name():
    changed = with_options(
        TINY, {"beams": "8", "rate_hz": 10, "image_width_px": 192, "fov_up_deg": "2.5", "val_scenes": 1}
    )
    assert (changed.num_beams, changed.frame_interval_s, changed.fov_up_deg) == (8, 0.1, 2.5)
    assert changed.image_size == (192, 108)
    assert changed.val_scenes == ("scene-0103",)
    assert dict(changed.options)["beams"] == "8"
    ids = {dataset_id(with_options(TINY, options), 0) for options in ({}, {"beams": 8}, {"beams": 9}, {"frames": 8})}
    assert len(ids) == 4
    assert with_options(TINY, {}) == TINY
    assert dataset_id(TINY, 0) == "ray-lidarseg-world-v2-tiny-seed0"


def test_the_lidar_has_the_rings_that_were_asked_for():
    changed = with_options(TINY, {"beams": 4, "columns": 32, "fov_down_deg": -20, "fov_up_deg": -5})
    points = scan(Scene(changed, 0, 1), 0).points
    assert len(points) == 4 * 32
    elevation = np.degrees(np.arctan2(points[:, 2], np.hypot(points[:, 0], points[:, 1])))
    np.testing.assert_allclose(elevation.reshape(32, 4), np.tile([-20, -15, -10, -5], (32, 1)), atol=1e-3)


@pytest.mark.parametrize(("preset", "rig"), [("tiny", lidar), ("kitti", kitti_rig)])
def test_the_lidar_sits_where_it_was_asked_to(preset, rig):
    as_is = rig.ego_SE3_lidar(Scene(PRESETS[preset], 0, 1))
    options = {"lidar_raise_m": 0.5, "lidar_forward_m": -1, "lidar_yaw_deg": 90}
    moved = rig.ego_SE3_lidar(Scene(with_options(PRESETS[preset], options), 0, 1))
    np.testing.assert_allclose(moved[:3, 3] - as_is[:3, 3], [-1, 0, 0.5], atol=1e-9)
    quarter_turn = np.array([[0, -1, 0], [1, 0, 0], [0, 0, 1]])
    np.testing.assert_allclose(moved[:3, :3], quarter_turn @ as_is[:3, :3], atol=1e-6)
    nose_down = rig.ego_SE3_lidar(Scene(with_options(PRESETS[preset], {"lidar_pitch_deg": 30}), 0, 1))
    assert np.degrees(np.arccos(nose_down[2, 2] / 1)) == pytest.approx(30, abs=2)  # the scene tilts it by less than 2


def test_a_higher_lidar_sees_the_road_from_higher_up():
    def ground_m(options) -> float:
        scanned = scan(Scene(with_options(TINY, {"columns": 64, **options}), 0, 1), 0)
        return float(np.median(scanned.points[scanned.labels == 24, 2]))  # driveable surface

    assert ground_m({"lidar_raise_m": 1}) == pytest.approx(ground_m({}) - 1, abs=0.1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"beam": 8}, r"no world option 'beam'; did you mean 'beams'.; options are beams, columns"),
        ({"beams": "many"}, r"beams=many: expected a whole number from 2 to 128 \(LiDAR rings\)"),
        ({"beams": 8.5}, "expected a whole number"),
        ({"rate_hz": 0}, r"rate_hz=0: expected a number from 0.1 to 100"),
        ({"rate_hz": "nan"}, "expected a number"),
        ({"fov_up_deg": -40}, "the lowest ring at -30.61 degrees is not below the highest at -40"),
        ({"val_scenes": 3}, "preset tiny has 2 of them"),
        ({"sectors": 4}, "sectors belongs to preset kitti"),
        ({"label_images": "maybe"}, r"label_images=maybe: expected yes or no, .*hidden truth"),
        ({"beams": "yes"}, "beams=yes: expected a whole number from 2"),
    ],
)
def test_wrong_options_say_what_to_do(options, message):
    with pytest.raises(DataError, match=message):
        with_options(TINY, options)


def test_label_images_are_asked_for_in_words_and_only_in_nuscenes_layout():
    assert not TINY.label_images
    assert not with_options(TINY, {"label_images": "no"}).label_images
    asked = with_options(TINY, {"label_images": "yes"})
    assert asked.label_images
    assert asked == with_options(TINY, {"label_images": 1})
    with pytest.raises(DataError, match="preset kitti writes no label images"):
        with_options(PRESETS["kitti"], {"label_images": "yes"})


def test_settings_of_the_command_line():
    assert parse_options(["beams=64", "rate_hz = 10"]) == {"beams": "64", "rate_hz": "10"}
    with pytest.raises(DataError, match=r"--set 'beams': expected KEY=VALUE, for example beams=64"):
        parse_options(["beams"])
