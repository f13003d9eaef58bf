import numpy as np
import pytest

from ray_lidarseg.synthetic.solids import Kind
from ray_lidarseg.synthetic.vehicles import BICYCLE, BUS, CAR, CONSTRUCTION, MOTORCYCLE, TRAILER, TRUCK, TYPES

LABEL = {
    "car": CAR, "truck": TRUCK, "trailer": TRAILER, "bus": BUS, "construction": CONSTRUCTION,
    "motorcycle": MOTORCYCLE, "bicycle": BICYCLE, "ridden_motorcycle": MOTORCYCLE, "ridden_bicycle": BICYCLE,
}  # fmt: skip


@pytest.mark.parametrize("name", TYPES)
def test_vehicles_fit_their_type(name):
    for seed in range(12):
        solids = TYPES[name].build(np.random.default_rng(seed))
        corners = solids.corners().reshape(-1, 3)
        length, width, _ = corners.max(axis=0) - corners.min(axis=0)
        assert corners[:, 2].min() > -0.12  # stands on the ground
        assert 0.6 * TYPES[name].length_m < length < 1.35 * TYPES[name].length_m
        assert width < TYPES[name].width_m + 0.75  # mirrors and shovels stand out
        allowed = {LABEL[name], TRUCK} if name == "trailer" else {LABEL[name]}
        assert set(solids.label.tolist()) <= allowed
        assert LABEL[name] in solids.label


@pytest.mark.parametrize("name", ["car", "truck", "bus", "trailer"])
def test_no_vehicle_is_a_box(name):
    solids = TYPES[name].build(np.random.default_rng(0))
    assert (solids.kind == Kind.CYLINDER).sum() >= 4  # wheels
    assert len(solids) >= 6
