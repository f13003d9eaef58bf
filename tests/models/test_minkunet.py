import copy

import pytest
import torch

from ray_lidarseg.errors import RecipeError, ResourceError
from ray_lidarseg.models.minkunet import build_minkunet
from ray_lidarseg.recipe import schema
from ray_lidarseg.sample import PointBatch, SensorSpec
from ray_lidarseg.types import IGNORE
from tests.models.learning import losses_of

SENSOR = SensorSpec(
    num_beams=32, fov_up_rad=0.17, fov_down_rad=-0.52, min_range_m=1.0, max_range_m=20.0, intensity_scale=1.0
)
NARROW = schema.MinkUNet(depth=14, width_factor=0.25, voxel_size_m=0.5)


def _scan(num_points: int, seed: int = 0) -> PointBatch:
    """Ground, and a few boxes on it: class 1 where a point is above 0.5 m."""
    generator = torch.Generator().manual_seed(seed)
    xy = torch.rand(num_points, 2, generator=generator) * 30 - 15
    is_box = ((xy / 3).floor().sum(1) % 4 == 0) & (torch.rand(num_points, generator=generator) < 0.7)
    z = torch.where(is_box, torch.rand(num_points, generator=generator) * 2 + 0.6, torch.zeros(num_points))
    points = torch.cat([xy, z.unsqueeze(1), torch.rand(num_points, 1, generator=generator)], 1)
    return PointBatch.of_scan(points, is_box.to(torch.int64))


@pytest.mark.parametrize(("depth", "published_m"), [(18, 21.7), (34, 37.9)])
def test_parameter_count_is_the_published_one(depth, published_m):
    model = build_minkunet(schema.MinkUNet(depth=depth), SENSOR, num_classes=19, backend="torch")
    assert sum(parameter.numel() for parameter in model.parameters()) / 1e6 == pytest.approx(published_m, abs=0.05)


def test_width_factor_narrows_every_layer():
    model = build_minkunet(schema.MinkUNet(width_factor=0.5), SENSOR, num_classes=19, backend="torch")
    assert sum(parameter.numel() for parameter in model.parameters()) / 1e6 == pytest.approx(5.44, abs=0.01)
    assert model.feature_dim == 48


@pytest.mark.parametrize("depth", [14, 18, 34])
def test_shapes_and_gradients_of_every_parameter(depth):
    model = build_minkunet(NARROW.model_copy(update={"depth": depth}), SENSOR, num_classes=3, backend="torch")
    batch = PointBatch.pack([_scan(300), _scan(200, seed=1)])
    out = model(batch)
    assert out.point_logits.shape == (500, 3)
    assert out.point_features.shape == (500, model.feature_dim)
    assert len(out.cell_logits) == len(out.cells.targets) == int(out.cells.point_cell.max()) + 1
    torch.testing.assert_close(out.point_logits, out.cell_logits[out.cells.point_cell])
    out.point_logits.square().mean().backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in model.parameters())


def test_teacher_reuses_the_voxels_and_the_maps():
    model = build_minkunet(NARROW, SENSOR, num_classes=3, backend="torch").eval()
    batch = _scan(300)
    out = model(batch)
    built = dict(out.cells.geometry.geometry._maps)
    again = copy.deepcopy(model)(batch, out.cells)
    assert torch.equal(again.point_logits, out.point_logits)
    assert again.cells.geometry.geometry._maps == built
    assert len(built) == 5 + 4 + 4


def test_a_scan_says_the_same_alone_and_in_company():
    model = build_minkunet(NARROW, SENSOR, num_classes=3, backend="torch").eval()
    here, there = _scan(300), _scan(200, seed=1)
    empty = PointBatch.of_scan(torch.zeros(0, 4))
    together = model(PointBatch.pack([there, empty, here])).point_logits
    torch.testing.assert_close(together[200:], model(here).point_logits, rtol=1e-4, atol=1e-5)


def test_the_order_of_points_does_not_matter():
    model = build_minkunet(NARROW, SENSOR, num_classes=3, backend="torch").eval()
    batch, order = _scan(300), torch.randperm(300, generator=torch.Generator().manual_seed(3))
    shuffled = PointBatch.of_scan(batch.points[order], batch.labels[order])
    expected = model(batch).point_logits[order]
    torch.testing.assert_close(model(shuffled).point_logits, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("num_scans", [0, 2])
@pytest.mark.parametrize("training", [True, False])
def test_a_batch_without_points_is_legal(num_scans, training):
    model = build_minkunet(NARROW, SENSOR, num_classes=3, backend="torch").train(training)
    none = torch.zeros(0, dtype=torch.int64)
    out = model(PointBatch(torch.zeros(0, 4), none, none, num_scans))
    out.point_logits.sum().backward()
    assert out.point_logits.shape == (0, 3)
    assert all(parameter.grad is not None and not parameter.grad.any() for parameter in model.parameters())


def test_one_point_and_points_out_of_range_are_kept():
    model = build_minkunet(NARROW, SENSOR, num_classes=3, backend="torch")
    assert model(_scan(1)).point_logits.isfinite().all()
    far = PointBatch.of_scan(torch.tensor([[1e4, 0.0, 0.0, 0.5], [0.0, 0.0, -300.0, 0.5]]), torch.tensor([1, IGNORE]))
    cells = model.represent(far)
    assert cells.point_cell.sort().values.tolist() == [0, 1]
    assert cells.targets[cells.point_cell].tolist() == [1, IGNORE]


def test_inputs_are_scaled_means():
    model = build_minkunet(NARROW, SENSOR, num_classes=3, backend="torch")
    points = torch.tensor([[10.1, -5.1, 1.1, 0.2], [10.3, -5.3, 1.3, 0.4]])
    features = model.represent(PointBatch.of_scan(points)).geometry.features
    torch.testing.assert_close(features, torch.tensor([[0.51, -0.26, 0.6, 0.3]]))


def test_overfits_one_scan():
    torch.manual_seed(0)
    model = build_minkunet(NARROW, SENSOR, num_classes=2, backend="torch")
    losses = losses_of(model, _scan(400), steps=15, rate=1e-2)
    assert losses[-1] < 0.1 * losses[0]


def test_voxels_too_small_for_the_range_are_refused():
    with pytest.raises(RecipeError, match=r"raise model\.voxel_size_m"):
        build_minkunet(schema.MinkUNet(voxel_size_m=0.0005), SENSOR, num_classes=3, backend="torch")


def test_an_unknown_backend_is_refused():
    with pytest.raises(ResourceError, match="no sparse backend"):
        build_minkunet(NARROW, SENSOR, num_classes=3, backend="minkowski")
