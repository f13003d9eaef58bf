import pytest
import torch
from torch import nn

from ray_lidarseg.errors import RecipeError
from ray_lidarseg.models.minkunet import build_minkunet
from ray_lidarseg.models.spvcnn import build_spvcnn
from ray_lidarseg.recipe import schema
from ray_lidarseg.sample import PointBatch, SensorSpec
from tests.models.learning import losses_of

SENSOR = SensorSpec(32, fov_up_rad=0.17, fov_down_rad=-0.52, min_range_m=1.0, max_range_m=20.0, intensity_scale=1.0)
NARROW = schema.SPVCNN(depth=14, width_factor=0.125, voxel_size_m=0.5)


def _model(**changes):
    torch.manual_seed(0)
    return build_spvcnn(NARROW.model_copy(update=changes), SENSOR, 3, "torch")


def _scan(num_points: int, seed: int = 0) -> PointBatch:
    generator = torch.Generator().manual_seed(seed)
    points = torch.randn(num_points, 4, generator=generator) * torch.tensor([6.0, 6.0, 1.0, 0.3])
    return PointBatch.of_scan(points, (points[:, 2] > 0.3).to(torch.int64))


def test_parameter_count_is_minkunet18_and_three_point_layers():
    count = lambda model: sum(parameter.numel() for parameter in model.parameters())  # noqa: E731
    model = build_spvcnn(schema.SPVCNN(), SENSOR, 19, "torch")
    voxels = build_minkunet(schema.MinkUNet(), SENSOR, 19, "torch")
    layers = 32 * 256 + 256 * 128 + 128 * 96 + 2 * (256 + 128 + 96)
    assert count(model) - count(voxels) == layers
    assert count(model) / 1e6 == pytest.approx(21.8, abs=0.03)
    assert model.feature_dim == 96


def test_width_factor_narrows_the_point_layers_too():
    model = build_spvcnn(schema.SPVCNN(width_factor=0.5), SENSOR, 19, "torch")
    layers = [layer for layer in model.network.modules() if isinstance(layer, nn.Linear) and layer.in_features == 128]
    assert {layer.out_features for layer in layers} >= {64}
    assert model.feature_dim == 48


def test_points_reach_voxels_as_means_on_every_level():
    model, batch = _model(), PointBatch.pack([_scan(120), _scan(80, seed=1)])
    seen = model.represent(batch).geometry
    for level, exchange in seen.exchanges.items():
        coords = seen.geometry.coords(level)
        own = coords[exchange.voxels.point_cell]
        cells = model.grid.cells(batch.points) // 2**level
        assert torch.equal(own[:, 1:], cells)
        assert torch.equal(own[:, 0], batch.scan_idx.to(own.dtype))
        means = exchange.to_voxels(batch.points)
        row = int(exchange.voxels.point_cell.mode().values)
        torch.testing.assert_close(means[row], batch.points[exchange.voxels.point_cell == row].mean(0))
    assert sorted(seen.exchanges) == [0, 2, 4]


def test_interpolation_keeps_a_constant_also_at_the_rim_and_outside():
    model = _model()
    points = torch.cat([_scan(100).points, torch.tensor([[90.0, -90.0, 0.0, 0.0], [0.0, 0.0, 20.5, 0.0]])])
    seen = model.represent(PointBatch.of_scan(points)).geometry
    for level, exchange in seen.exchanges.items():
        ones = torch.ones(seen.geometry.num_voxels(level), 1)
        torch.testing.assert_close(exchange.to_points(ones), torch.ones(102, 1))


def test_points_of_one_voxel_differ_and_the_voxel_is_their_mean():
    model = _model(voxel_size_m=4.0).eval()
    output = model(_scan(200))
    row = int(output.cells.point_cell.mode().values)
    inside = output.cells.point_cell == row
    assert inside.sum() > 1
    assert output.point_logits[inside].std(0).min() > 0
    torch.testing.assert_close(output.cell_logits[row], output.point_logits[inside].mean(0))
    torch.testing.assert_close(model.head(output.point_features), output.point_logits)


def test_without_its_point_layers_a_scan_of_voxel_centres_is_the_voxel_network_at_the_finest_level():
    """One point at each centre of a coarse voxel meets exactly that voxel: exchange at level 0 changes nothing."""
    model = _model().eval()
    coords = torch.tensor([[0, 30, 30, 30], [0, 33, 40, 38], [0, 36, 50, 20]])
    points = (coords[:, 1:] + 0.5) * 0.5 + torch.tensor(model.grid.origin_m)
    batch = PointBatch.of_scan(torch.cat([points, torch.zeros(3, 1)], 1))
    exchange = model.represent(batch).geometry.exchanges[0]
    x = torch.randn(3, 5)
    torch.testing.assert_close(exchange.to_voxels(exchange.to_points(x)), x)


def test_dropout_acts_in_training_only():
    model, batch = _model(dropout_ratio=0.5), _scan(100)
    assert not torch.equal(model(batch).point_logits, model(batch).point_logits)
    model.eval()
    assert torch.equal(model(batch).point_logits, model(batch).point_logits)


def test_learns_above_from_below():
    losses = losses_of(_model(dropout_ratio=0.0), _scan(150), steps=8, rate=2e-2)
    assert losses[-1] < 0.3 * losses[0]


def test_voxels_too_small_for_the_range_are_refused():
    with pytest.raises(RecipeError, match=r"raise model\.voxel_size_m"):
        _model(voxel_size_m=0.0005)
