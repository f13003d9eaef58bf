import numpy as np

from ray_lidarseg.foundation.teachers import as_objects


def test_arrays_of_one_shape_stay_single_objects():
    batch = as_objects([np.zeros((2, 3)), np.ones((2, 3))])
    assert batch.shape == (2,)
    assert batch.dtype == object
    assert batch[1].sum() == 6


def test_no_arrays():
    assert as_objects([]).shape == (0,)
