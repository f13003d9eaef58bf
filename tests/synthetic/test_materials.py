import numpy as np
import pytest

from ray_lidarseg.synthetic.materials import FINISH, Material, Paint, Surface, fade


def _surface(count: int = 4000) -> Surface:
    rng = np.random.default_rng(0)
    half = np.tile(np.array([2.2, 0.9, 0.5], np.float32), (count, 1))
    face = rng.integers(0, 6, count).astype(np.int8)
    local = rng.uniform(-1, 1, (count, 3)).astype(np.float32) * half
    local[np.arange(count), face // 2] = half[0, face // 2] * np.where(face % 2, -1, 1)
    ones = np.ones(count, np.float32)
    taper = np.zeros((count, 3), np.float32)
    return Surface(local, half, taper, face, np.full((count, 3), 0.5, np.float32), 0.4 * ones, 0.7 * ones, 0.01 * ones)


@pytest.mark.parametrize("material", Material)
def test_every_material_paints_colours_and_reflectivities(material):
    surface = _surface()
    paint = Paint(surface)
    FINISH[material](surface, paint)
    assert np.isfinite(paint.colour).all()
    assert paint.colour.min() > -0.05
    assert paint.colour.max() < 1.8
    assert ((paint.albedo > 0) & (paint.albedo <= 1)).all()
    assert np.allclose(surface.colour, 0.5)  # the input is not written to
    if material not in (Material.PLAIN, Material.ROOF):
        assert paint.colour.std(axis=0).max() > 0.005


def test_cabins_are_glass_that_hardly_reflects_laser_light():
    surface = _surface()
    paint = Paint(surface)
    FINISH[Material.CAR_CABIN](surface, paint)
    assert (paint.albedo[surface.face < 4] < 0.05).mean() > 0.5
    assert (paint.albedo[surface.face == 4] == np.float32(0.4)).all()


def test_fine_patterns_fade_with_distance():
    np.testing.assert_allclose(fade(0.2, np.array([0.0, 0.09, 1.0])), [1, 0.5, 0])
