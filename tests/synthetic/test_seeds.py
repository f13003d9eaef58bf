import numpy as np

from ray_lidarseg.synthetic.seeds import generator, stratified


def test_one_generator_per_key():
    assert generator(0, 1, 2, 3).random() == generator(0, 1, 2, 3).random()
    keys = [(0, 1, 2, 3), (1, 1, 2, 3), (0, 2, 2, 3), (0, 1, 3, 3), (0, 1, 2, 4)]
    assert len({generator(*key).random() for key in keys}) == len(keys)


def test_features_are_spread_evenly_over_scenes():
    for seed in range(20):
        values = np.array([stratified(seed, index, 5) for index in range(10)])
        assert ((values >= 0) & (values < 1)).all()
        assert 4 <= (values < 0.5).sum() <= 6
        assert min(stratified(seed, 1, 5), stratified(seed, 6, 5)) < 0.62  # one of mini_val's two scenes has it
