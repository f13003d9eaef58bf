import math

import torch

from ray_lidarseg import recipe as schema
from ray_lidarseg.models.build import build_segmentor
from ray_lidarseg.models.fidnet import FIDNet
from ray_lidarseg.models.minkunet import MinkUNet
from ray_lidarseg.sample import PointBatch, SensorSpec

SENSOR = SensorSpec(32, math.radians(10.0), math.radians(-30.0), 1.0, 50.0, 1.0)


def test_fidnet_as_the_recipe_says():
    model = schema.FIDNet(height_px=16, width_px=128, width_factor=0.125, blocks=(1, 2, 1, 1))
    built = build_segmentor(schema.Recipe(model=model), SENSOR, 16)
    assert isinstance(built, FIDNet)
    assert (built.height_px, built.width_px, built.num_classes, built.feature_dim) == (16, 128, 16, 16)
    assert [len(stage) for stage in built.stages] == [1, 2, 1, 1]


def test_minkunet_as_the_recipe_says():
    model = schema.MinkUNet(depth=14, width_factor=0.125, voxel_size_m=0.5)
    built = build_segmentor(schema.Recipe(model=model), SENSOR, 16)
    assert isinstance(built, MinkUNet)
    batch = PointBatch.of_scan(torch.randn(30, 4) * 5)
    assert built.eval()(batch).point_logits.shape == (30, 16)
