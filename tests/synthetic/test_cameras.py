from dataclasses import replace

import numpy as np
import pytest

from ray_lidarseg.synthetic.cameras import RIG, ego_SE3_camera, exposure_s, intrinsics, picture, stated_ego_SE3_camera
from ray_lidarseg.synthetic.presets import PRESETS
from ray_lidarseg.synthetic.scene import Scene
from ray_lidarseg.synthetic.shading import Light


def test_cameras_look_where_they_are_mounted():
    for mounting in RIG:
        forward = ego_SE3_camera(mounting)[:3, :3] @ [0, 0, 1]
        assert np.degrees(np.arctan2(forward[1], forward[0])) % 360 == pytest.approx(mounting.yaw_deg % 360, abs=1e-6)
        np.testing.assert_allclose(ego_SE3_camera(mounting)[:3, :3] @ [0, 1, 0], [0, 0, -1], atol=1e-12)


def test_intrinsics_scale_with_the_image():
    np.testing.assert_allclose(intrinsics(RIG[1], (1600, 900))[0], [1266.4, 0, 816.3])
    np.testing.assert_allclose(intrinsics(RIG[1], (400, 225))[1], [0, 1266.4 / 4, 491.5 / 4])


def test_exposures_precede_the_sweep(tiny_scene):
    assert [exposure_s(tiny_scene, 1, mounting) for mounting in RIG] == sorted(
        exposure_s(tiny_scene, 1, mounting) for mounting in RIG
    )
    assert exposure_s(tiny_scene, 1, RIG[0]) == pytest.approx(0.5 - 0.0431)


def test_a_late_image_is_taken_later_but_not_stated_so(tiny_scene):
    late = Scene(replace(PRESETS["tiny"], camera_time_error_ms=300.0), 0, 1)
    assert exposure_s(late, 1, RIG[1]) == exposure_s(tiny_scene, 1, RIG[1])
    now, then = (picture(s, Light(s), 0, RIG[1], Light(s).at(0.0)) for s in (tiny_scene, late))
    assert (now.labels != then.labels).mean() > 0.01


def test_a_calibration_error_is_stated_but_not_rendered(tiny_scene):
    off = Scene(replace(PRESETS["tiny"], calibration_error_deg=0.5), 0, 1)
    turned = stated_ego_SE3_camera(off, RIG[1])[:3, :3] @ ego_SE3_camera(RIG[1])[:3, :3].T
    assert np.degrees(np.arccos((np.trace(turned) - 1) / 2)) == pytest.approx(0.5)
    others = [stated_ego_SE3_camera(off, mounting)[:3, :3] @ ego_SE3_camera(mounting)[:3, :3].T for mounting in RIG]
    assert len({round(float(other[0, 1]), 9) for other in others}) == len(RIG)
    np.testing.assert_array_equal(stated_ego_SE3_camera(tiny_scene, RIG[1]), ego_SE3_camera(RIG[1]))


def test_a_picture_has_sky_above_and_ground_below_and_is_repeatable(tiny_scene):
    light = Light(tiny_scene)
    seen = picture(tiny_scene, light, 0, RIG[1], light.at(0.0))
    assert seen.colour.shape == (54, 96, 3)
    assert np.isinf(seen.depth[:8]).mean() > 0.15
    assert np.isin(seen.labels[-4:], (24, 25, 26, 27)).mean() > 0.5
    assert ((seen.labels == 0) == np.isinf(seen.depth)).all()
    assert seen.colour.std() > 20  # neither black nor burnt out
    again = Scene(PRESETS["tiny"], 0, 1)
    other = Light(again)
    np.testing.assert_array_equal(seen.colour, picture(again, other, 0, RIG[1], other.at(0.0)).colour)
