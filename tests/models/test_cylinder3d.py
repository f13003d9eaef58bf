import math

import pytest
import torch
from torch import nn

from ray_lidarseg.datasets import nuscenes
from ray_lidarseg.errors import ResourceError
from ray_lidarseg.models.build import build_segmentor
from ray_lidarseg.models.cylinder3d import build_cylinder3d
from ray_lidarseg.recipe import schema
from ray_lidarseg.sample import PointBatch
from ray_lidarseg.types import IGNORE
from tests.models.learning import losses_of

HEIGHT_M = (-5.0, 3.0)
TINY = schema.Cylinder3D(grid=(20, 18, 10), radius_m=15.0, width_factor=0.125)


def _tiny(**changes):
    torch.manual_seed(0)
    return build_cylinder3d(TINY.model_copy(update=changes), HEIGHT_M, 3, "torch")


def _scan(num_points: int, seed: int = 0) -> PointBatch:
    generator = torch.Generator().manual_seed(seed)
    points = torch.randn(num_points, 4, generator=generator) * torch.tensor([6.0, 6.0, 1.0, 0.3])
    return PointBatch.of_scan(points, (points[:, 2] > 0.3).to(torch.int64))


def _count(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize(("num_classes", "published_m"), [(17, 55.84), (20, 55.85)])
def test_parameter_count_is_the_published_one(num_classes, published_m):
    """The published count holds all weights of the cubic kernels, also those its shared neighbour map never uses."""
    model = build_cylinder3d(schema.Cylinder3D(), HEIGHT_M, num_classes, "torch")
    assert _count(model) / 1e6 == pytest.approx(published_m, abs=0.005)


def test_half_width_is_near_the_published_base_of_16():
    """14.1 M in the code, whose point layers stay wide; ours are halved, too."""
    model = build_cylinder3d(schema.Cylinder3D(width_factor=0.5), HEIGHT_M, 17, "torch")
    wide_points = build_cylinder3d(TINY.model_copy(update={"width_factor": 1.0}), HEIGHT_M, 17, "torch").points
    assert (_count(model) - _count(model.points) + _count(wide_points)) / 1e6 == pytest.approx(14.1, abs=0.05)


@pytest.mark.parametrize(
    ("dataset", "height_m", "expected"),
    [
        ("semantickitti", None, (-4.0, 2.0)),
        ("nuscenes", None, (-5.0, 3.0)),
        ("manifest", None, (-5.0, 3.0)),
        ("nuscenes", (-4.0, 2.0), (-4.0, 2.0)),
    ],
)
def test_height_is_the_data_sets_unless_the_recipe_says_so(dataset, height_m, expected):
    recipe = schema.Recipe(model=TINY.model_copy(update={"height_m": height_m}), data=schema.Data(dataset=dataset))
    model = build_segmentor(recipe, nuscenes.SPEC.sensor, 3)
    assert model.grid.height_m == expected


def test_point_inputs_by_hand():
    model = _tiny(grid=(16, 5, 9), radius_m=15.0, height_m=(-4.0, 4.0))  # steps 1 m, 90 deg, 1 m
    seen = model.represent(PointBatch.of_scan(torch.tensor([[3.0, 4.0, 0.2, 0.7]]))).geometry
    azimuth = math.atan2(4.0, 3.0)
    expected = [-0.5, azimuth - 0.25 * math.pi, -0.3, 5.0, azimuth, 0.2, 3.0, 4.0, 0.7]
    torch.testing.assert_close(seen.point_inputs, torch.tensor([expected]))
    assert seen.geometry.coords(0).tolist() == [[0, 5, 2, 4]]


def test_points_beyond_the_grid_join_the_border_cells():
    model = _tiny(grid=(16, 5, 9), radius_m=15.0, height_m=(-4.0, 4.0))
    far = PointBatch.of_scan(torch.tensor([[90.0, 1.0, -9.0, 0.0], [14.9, 15.0, 50.0, 0.0]]), torch.tensor([2, IGNORE]))
    cells = model.represent(far)
    assert cells.geometry.geometry.coords(0).tolist() == [[0, 15, 2, 0], [0, 15, 2, 8]]
    assert cells.targets.tolist() == [2, IGNORE]


def test_a_cell_takes_the_maximum_of_its_points():
    model = _tiny().eval()
    batch = _scan(200)
    twice = PointBatch.of_scan(batch.points.repeat(2, 1), batch.labels.repeat(2))
    torch.testing.assert_close(model(twice).cell_logits, model(batch).cell_logits, rtol=1e-4, atol=1e-5)


def test_no_convolution_crosses_the_seam_behind_the_x_axis():
    """Two points a hand's breadth apart on both sides of -x do not know of each other: as published."""
    model = _tiny().eval()
    left, right = torch.tensor([[-8.0, 0.05, 0.0, 0.5]]), torch.tensor([[-8.0, -0.05, 0.0, 0.5]])
    together = model(PointBatch.of_scan(torch.cat([left, right]))).point_logits
    torch.testing.assert_close(together[:1], model(PointBatch.of_scan(left)).point_logits)
    ahead = torch.tensor([[8.0, 0.05, 0.0, 0.5], [8.0, 0.9, 0.0, 0.5]])  # the same distance apart or more, in front
    alone = model(PointBatch.of_scan(ahead[:1])).point_logits
    assert not torch.allclose(model(PointBatch.of_scan(ahead)).point_logits[:1], alone)


def test_without_refinement_a_point_has_the_scores_of_its_cell():
    output = _tiny().eval()(_scan(200))
    assert torch.equal(output.point_logits, output.cell_logits[output.cells.point_cell])
    assert output.cells.point_targets is None


def test_refined_points_of_one_cell_differ_and_have_their_labels_as_targets():
    model, batch = _tiny(point_refinement=True).eval(), _scan(200)
    output = model(batch)
    assert output.cells.point_targets is batch.labels
    assert output.point_features.shape == (200, model.feature_dim) == (200, 32)
    torch.testing.assert_close(model.refinement.classifier(output.point_features), output.point_logits)
    crowded = output.cells.point_cell == output.cells.point_cell.mode().values
    assert crowded.sum() > 1
    assert output.point_logits[crowded].std(0).min() > 0


def test_learns_above_from_below():
    losses = losses_of(_tiny(), _scan(150), steps=8, rate=2e-2)
    assert losses[-1] < 0.3 * losses[0]


def test_another_backend_is_refused_before_anything_runs():
    with pytest.raises(ResourceError, match=r"set sparse\.backend=torch"):
        build_cylinder3d(TINY, HEIGHT_M, 3, "torchsparse")


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"height_m": (3.0, -5.0)}, "lowest, highest"), ({"grid": (9, 1, 9)}, "at least two cells")],
)
def test_an_empty_grid_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        schema.Cylinder3D(**changes)
