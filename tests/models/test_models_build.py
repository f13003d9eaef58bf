import math

import torch

from ray_lidarseg.models.build import build_segmentor
from ray_lidarseg.models.cylinder3d import Cylinder3D
from ray_lidarseg.models.fidnet import FIDNet
from ray_lidarseg.models.minkunet import MinkUNet
from ray_lidarseg.models.spvcnn import SPVCNN
from ray_lidarseg.recipe import schema
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


def test_spvcnn_as_the_recipe_says():
    model = schema.SPVCNN(depth=14, width_factor=0.125, voxel_size_m=0.5, dropout_ratio=0.1)
    built = build_segmentor(schema.Recipe(model=model), SENSOR, 16)
    assert isinstance(built, SPVCNN)
    assert built.network.dropout.p == 0.1
    assert built.grid.voxel_size_m == 0.5


def test_cylinder3d_as_the_recipe_and_its_data_set_say():
    model = schema.Cylinder3D(grid=(12, 9, 5), radius_m=30.0, width_factor=0.125, point_refinement=True)
    built = build_segmentor(schema.Recipe(model=model, data=schema.Data(dataset="semantickitti")), SENSOR, 16)
    assert isinstance(built, Cylinder3D)
    assert (built.grid.shape, built.grid.radius_m, built.grid.height_m) == ((12, 9, 5), 30.0, (-4.0, 2.0))
    assert built.refinement is not None
