import numpy as np
import pytest

from ray_lidarseg.world.populate import Mover
from ray_lidarseg.world.vehicles import car


def test_a_mover_keeps_its_speed_and_faces_its_way(tiny_scene):
    for speed in (8.0, -8.0):
        mover = Mover(car(np.random.default_rng(0)), 5.0, 2.0, speed)
        before, after = (mover.at(tiny_scene.road, time_s).centre.mean(axis=0) for time_s in (0.0, 0.5))
        assert np.linalg.norm(after[:2] - before[:2]) == pytest.approx(4.0, rel=0.1)
        front = mover.at(tiny_scene.road, 0.0).axes[0] @ [1, 0, 0]
        assert (after - before) @ front > 0


def test_every_class_is_in_some_scene_and_streets_are_full(tiny_scenes):
    labels = set()
    for scene in tiny_scenes:
        labels |= set(scene.solids(0.0).label.tolist())
        assert 300 < len(scene.fixed) < 4000
    assert {9, 12, 14, 16, 17, 18, 21, 22, 23, 28, 30} | {2, 3, 4} <= labels
