from dataclasses import replace

import numpy as np
import pytest

from ray_lidarseg.synthetic.populate import Mover
from ray_lidarseg.synthetic.presets import PRESETS
from ray_lidarseg.synthetic.scene import Scene
from ray_lidarseg.synthetic.vehicles import car


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


def test_every_primitive_has_an_object_and_only_movers_move(tiny_scene):
    solids = tiny_scene.solids(0.0)
    assert len(solids) == len(tiny_scene.instance) == len(tiny_scene.is_moving)
    num_moving = sum(len(mover.solids) for mover in tiny_scene.movers)
    np.testing.assert_array_equal(
        np.flatnonzero(tiny_scene.is_moving), np.arange(len(solids) - num_moving, len(solids))
    )
    last = tiny_scene.instance[-len(tiny_scene.movers[-1].solids) :]
    assert set(last.tolist()) == {int(tiny_scene.instance.max())}
    assert (np.diff(tiny_scene.instance.astype(int)) >= 0).all()


def test_a_suburb_has_narrow_streets_between_gardens():
    town, suburb = (
        [Scene(replace(PRESETS["bench"], is_suburb=flag), 0, index) for index in range(12)] for flag in (False, True)
    )
    width, green = (
        [[measure(scene) for scene in scenes] for scenes in (town, suburb)]
        for measure in (lambda scene: scene.road.plan.half_width, lambda scene: (scene.fixed.label == 30).mean())
    )
    assert np.mean(width[1]) < 0.75 * np.mean(width[0])
    assert np.mean(green[1]) > np.mean(green[0])
