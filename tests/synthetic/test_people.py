import numpy as np
import pytest

from ray_lidarseg.synthetic.people import ADULT, CHILD, CONSTRUCTION_WORKER, pedestrian, rider


@pytest.mark.parametrize(
    ("label", "low", "high"), [(ADULT, 1.55, 1.95), (CHILD, 1.0, 1.45), (CONSTRUCTION_WORKER, 1.55, 1.95)]
)
def test_people_are_as_tall_as_people(label, low, high):
    for seed in range(10):
        person = pedestrian(np.random.default_rng(seed), label)
        top = (person.centre[:, 2] + np.abs(person.axes[:, 2] * person.half).sum(axis=1)).max()
        assert low < top < high
        assert set(person.label.tolist()) == {label}


def test_a_rider_sits_above_the_saddle():
    body = rider(np.random.default_rng(0), 0.95)
    assert body.centre[:, 2].max() > 1.5
