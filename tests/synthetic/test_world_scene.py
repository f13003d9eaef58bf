import numpy as np
import pytest

from ray_lidarseg.synthetic.presets import PRESETS
from ray_lidarseg.synthetic.scene import Scene, draw_nuisance
from ray_lidarseg.synthetic.seeds import generator


def test_the_same_seed_is_the_same_scene_and_another_is_not(tiny_scene):
    again = Scene(PRESETS["tiny"], 0, 1)
    np.testing.assert_array_equal(tiny_scene.fixed.centre, again.fixed.centre)
    np.testing.assert_array_equal(tiny_scene.solids(0.7).centre, again.solids(0.7).centre)
    other = Scene(PRESETS["tiny"], 1, 1)
    assert len(other.fixed) != len(tiny_scene.fixed) or not np.array_equal(other.fixed.centre, tiny_scene.fixed.centre)


def test_the_ego_vehicle_drives_in_its_lane_at_its_speed(tiny_scene):
    first, later = tiny_scene.ego_pose(0.0), tiny_scene.ego_pose(1.0)
    moved = np.linalg.norm(later[:2, 3] - first[:2, 3])
    assert moved == pytest.approx(tiny_scene.speed, rel=0.1)
    place = tiny_scene.road.place(first[:1, 3], first[1:2, 3])
    assert place.across[0] == pytest.approx(tiny_scene.lane, abs=0.3)
    np.testing.assert_allclose(first[:3, :3].T @ first[:3, :3], np.eye(3), atol=1e-12)
    assert np.linalg.det(first[:3, :3]) == pytest.approx(1)


def test_traffic_moves_and_houses_do_not(tiny_scene):
    before, after = tiny_scene.solids(0.0), tiny_scene.solids(0.5)
    fixed = len(tiny_scene.fixed)
    np.testing.assert_array_equal(before.centre[:fixed], after.centre[:fixed])
    speed = np.linalg.norm(after.centre[fixed:] - before.centre[fixed:], axis=1) / 0.5
    assert speed.min() > 0.3
    assert speed.max() < 14


def test_nothing_stands_where_the_ego_vehicle_drives():
    for index in range(4):
        scene = Scene(PRESETS["demo"], 3, index)
        for time_s in np.arange(0, scene.duration, 1.0):
            ego = scene.ego_pose(float(time_s))
            solids = scene.solids(float(time_s))
            local = (solids.centre - ego[:3, 3]) @ ego[:3, :3]
            inside = (np.abs(local[:, 0] - 1.0) < 2.0) & (np.abs(local[:, 1]) < 0.8) & (local[:, 2] < 2.5)
            assert not inside.any(), (index, time_s, np.unique(solids.label[inside]))


def test_nuisances_are_in_the_stated_ranges():
    for seed in range(20):
        nuisance = draw_nuisance(generator(seed))
        assert 0.75 <= nuisance.gain <= 1.3
        assert nuisance.sun[2] < 0
        assert np.linalg.norm(nuisance.sun) == pytest.approx(1, abs=1e-5)
