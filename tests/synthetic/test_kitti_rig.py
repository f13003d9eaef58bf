import numpy as np
import pytest

from ray_lidarseg.synthetic import kitti_rig
from ray_lidarseg.synthetic.options import with_options
from ray_lidarseg.synthetic.presets import PRESETS
from ray_lidarseg.synthetic.scene import Scene


def _scene(**options: float) -> Scene:
    return Scene(with_options(PRESETS["kitti"], {"columns": 360, "beams": 16, "frames": 2, **options}), 0, 1)


def test_the_sectors_follow_the_turn():
    assert kitti_rig.sector_time_s(360, 0, 360) == 0.0
    times = [kitti_rig.sector_time_s(360, first, first + 90) for first in range(0, 360, 90)]
    np.testing.assert_allclose(times, [0.0125, 0.0375, -0.0375, -0.0125])


def test_sectors_without_motion_see_what_one_turn_sees(monkeypatch):
    """The same rays in eight parts: every difference would be a ray lost at a seam."""
    monkeypatch.setattr(kitti_rig, "_TURN_S", 0.0)
    whole, parts = (kitti_rig.kitti_scan(_scene(sectors=count), 1) for count in (1, 8))
    np.testing.assert_array_equal(whole.labels, parts.labels)
    np.testing.assert_allclose(whole.points, parts.points, atol=1e-4)


def test_a_rolling_shutter_stretches_what_is_beside_the_vehicle():
    whole, parts = (kitti_rig.kitti_scan(_scene(sectors=count), 1) for count in (1, 8))
    assert len(whole.points) != len(parts.points)
    assert len(parts.points) == pytest.approx(len(whole.points), rel=0.05)


def test_rings_lie_in_two_blocks_of_which_the_upper_is_denser():
    degrees = np.degrees(kitti_rig.elevations(PRESETS["kitti"]))
    assert (len(degrees), degrees[0], degrees[-1]) == (64, -25, pytest.approx(3))
    np.testing.assert_allclose(np.diff(degrees)[:32], 16.8 / 32)
    np.testing.assert_allclose(np.diff(degrees)[32:], 11.2 / 31)


def test_the_projection_scales_with_the_image_and_has_a_fourth_column():
    full, half = (kitti_rig.projection(2, size) for size in ((1242, 376), (621, 188)))
    np.testing.assert_allclose(full[:2] / 2, half[:2])
    assert full[0, 3] == pytest.approx(45.3, abs=0.1)
    assert not kitti_rig.projection(0, (1242, 376))[:, 3].any()


def test_parking_is_the_strip_beside_the_lanes_and_never_another_ground():
    scene = next(s for s in (Scene(PRESETS["kitti"], 0, index) for index in range(11)) if s.road.plan.parking)
    plan = scene.road.plan
    far = plan.crossing_at - plan.crossing_half_width - 12
    spots = [
        scene.road.at(far, across)[:2] for across in (plan.half_width - 1, plan.half_width - 4, plan.half_width - 1)
    ]
    x, y = (np.array(values, np.float32) for values in zip(*spots, strict=True))
    label = np.array([24, 24, 26], np.uint8)
    assert kitti_rig.is_parking(scene.road, x, y, label).tolist() == [True, False, False]
