from functools import partial

import numpy as np
import pytest

from ray_lidarseg.synthetic import structures
from ray_lidarseg.synthetic.solids import Kind

SINGLE_LABEL = {
    **dict.fromkeys((structures.tree, structures.bush, structures.thicket), structures.VEGETATION),
    **dict.fromkeys((structures.street_lamp, structures.bollard, structures.traffic_sign), structures.MANMADE),
    **dict.fromkeys((structures.traffic_light, structures.bus_shelter), structures.MANMADE),
    structures.barrier: structures.BARRIER,
    structures.cone: structures.CONE,
    structures.earth_heap: 27,
}


@pytest.mark.parametrize("build", SINGLE_LABEL, ids=lambda build: build.__name__)
def test_each_has_one_label(build):
    for seed in range(5):
        assert set(build(np.random.default_rng(seed)).label.tolist()) == {SINGLE_LABEL[build]}


def test_houses_stand_behind_their_front_and_reach_into_the_ground():
    for seed in range(10):
        solids = structures.house(np.random.default_rng(seed), 12.0, 9.0, 8.0)
        wall = np.flatnonzero(solids.kind == Kind.BOX)[0]
        corners = solids.corners()[wall]
        np.testing.assert_allclose(corners[:, 1].max(), 0, atol=1e-5)
        np.testing.assert_allclose(corners[:, 1].min(), -9, atol=1e-5)
        assert solids.corners()[..., 2].min() < -2  # sloping terrain leaves no gap


def test_trees_have_leaves_with_holes():
    assert (structures.tree(np.random.default_rng(0)).kind == Kind.LEAVES).sum() >= 1


def test_semantickitti_tells_trunk_pole_sign_and_fence_apart():
    ids = {
        structures.tree: {70, 71},
        structures.thicket: {70},
        structures.street_lamp: {80},
        structures.traffic_sign: {80, 81},
        structures.traffic_light: {80, 99},
        structures.bus_shelter: {52},
        structures.barrier: {51},
        structures.planter: {70, 99},
        partial(structures.fence, length=5.0): {51},
        partial(structures.house, length=12.0, depth=9.0, height=8.0): {50},
    }
    for build, expected in ids.items():
        assert set(build(np.random.default_rng(0)).kitti.tolist()) == expected


def test_hedges_and_fences_have_their_length():
    for build in (structures.hedge, structures.fence):
        x = partial(build, np.random.default_rng(1))(8.0).corners()[..., 0]
        assert 7.5 < x.max() - x.min() < 10.0


def test_clutter_is_ignored_by_the_sixteen_classes():
    ignored = {structures.DEBRIS, structures.PUSHABLE, structures.BICYCLE_RACK, structures.STATIC_OTHER}
    labels = {int(structures.clutter(np.random.default_rng(seed)).label[0]) for seed in range(40)}
    assert labels == ignored
