import numpy as np

from ray_lidarseg.synthetic.noise import TILE_CELLS, fractal, hash01, texture


def test_hash_is_constant_in_a_cell_and_uniform_over_cells():
    assert hash01(np.array([0.1, 0.9]), np.zeros(2), 0.0).std() == 0
    cells = hash01(np.arange(20000) % 100, np.arange(20000) // 100, 0.0)
    counts, _ = np.histogram(cells, bins=10, range=(0, 1))
    assert (np.abs(counts - 2000) < 250).all()
    assert abs(np.corrcoef(cells[:-1], cells[1:])[0, 1]) < 0.05


def test_salt_makes_independent_fields():
    x = np.arange(5000)
    assert abs(np.corrcoef(hash01(x, x * 0, 0.0, 0.25), hash01(x, x * 0, 0.0, 0.5))[0, 1]) < 0.05


def test_texture_is_normalised_and_repeats():
    assert abs(fractal().mean()) < 1e-3
    assert abs(fractal().std() - 1) < 1e-3
    at = np.array([1.25, -3.55])
    period_m = TILE_CELLS * 0.1
    np.testing.assert_array_equal(texture(at, at, 0.1), texture(at + period_m, at - period_m, 0.1))
