import numpy as np

from ray_lidarseg.synthetic.ground_paint import GroundPoints, paint_ground
from ray_lidarseg.synthetic.road import DRIVEABLE, TERRAIN


def _points(scene, x, y):
    x, y = np.asarray(x, np.float32), np.asarray(y, np.float32)
    return GroundPoints(x, y, scene.road.place(x, y), np.full(len(x), 0.01, np.float32))


def test_asphalt_is_grey_with_white_markings_and_grass_is_green(tiny_scene):
    rng = np.random.default_rng(0)
    points = _points(tiny_scene, rng.uniform(-40, 60, 40000), rng.uniform(-40, 40, 40000))
    label = tiny_scene.road.kind(points.place)
    colour, albedo = paint_ground(tiny_scene.road, points, label)
    road, grass = colour[label == DRIVEABLE], colour[label == TERRAIN]
    assert np.median(road.max(axis=1) - road.min(axis=1)) < 0.05
    assert 0.005 < (albedo[label == DRIVEABLE] > 0.6).mean() < 0.2
    assert (grass[:, 1] > grass[:, 2]).mean() > 0.9
    assert ((albedo > 0) & (albedo < 1)).all()


def test_markings_fade_into_grey_when_pixels_are_large(tiny_scene):
    rng = np.random.default_rng(1)
    near = _points(tiny_scene, rng.uniform(-10, 10, 20000), rng.uniform(-3, 3, 20000))
    far = GroundPoints(near.x, near.y, near.place, np.full(20000, 3.0, np.float32))
    label = np.full(20000, DRIVEABLE, np.uint8)
    sharp, blurred = (paint_ground(tiny_scene.road, points, label)[0][:, 0].std() for points in (near, far))
    assert blurred < sharp
