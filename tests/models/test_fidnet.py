import math

import pytest
import torch
from torch import nn

from ray_lidarseg.models.fidnet import FIDNet, channel_scale
from ray_lidarseg.sample import PointBatch, SensorSpec
from tests.models.learning import losses_of

SENSOR = SensorSpec(32, math.radians(10.0), math.radians(-30.0), 1.0, 50.0, 1.0)


def small(height_px: int = 8, width_px: int = 24) -> FIDNet:
    torch.manual_seed(0)
    return FIDNet(SENSOR, 5, height_px, width_px, width_factor=0.125, blocks=(1, 1, 1, 1))


def scan_of(num_points: int, seed: int = 0) -> PointBatch:
    generator = torch.Generator().manual_seed(seed)
    points = torch.randn(num_points, 4, generator=generator) * torch.tensor([15.0, 15.0, 3.0, 0.2])
    return PointBatch.of_scan(points, torch.randint(0, 5, (num_points,), generator=generator))


def test_published_size():
    """FIDNet's code: 6.05 M parameters with 20 classes, of which 1600 are biases in front of batch norms."""
    assert sum(parameter.numel() for parameter in FIDNet(SENSOR, 20, 32, 1920).parameters()) == 6_052_820


def test_width_factor_scales_every_layer():
    model = FIDNet(SENSOR, 20, 32, 256, width_factor=0.25)
    outputs = {layer.out_channels for layer in model.modules() if isinstance(layer, nn.Conv2d)}
    assert outputs == {16, 32, 64, 128}
    assert model.feature_dim == 32


def test_a_point_has_the_scores_and_features_of_its_pixel():
    model, batch = small().eval(), PointBatch.pack([scan_of(60), scan_of(40, 1)])
    output = model(batch)
    assert output.point_logits.shape == (100, 5)
    assert output.point_features.shape == (100, model.feature_dim)
    assert torch.equal(output.point_logits, output.cell_logits[output.cells.point_cell])
    torch.testing.assert_close(model.classifier(output.point_features), output.point_logits)


def test_targets_are_the_labels_of_the_nearest_points():
    batch = PointBatch.of_scan(torch.tensor([[9.0, 1.0, 0.0, 0.0], [3.0, 1 / 3, 0.0, 0.0]]), torch.tensor([1, 4]))
    assert small().represent(batch).targets.tolist() == [4]


def test_the_head_on_occupied_pixels_equals_the_dense_network():
    """The plain twin: every layer as a convolution over the whole image, then read at the occupied pixels."""
    model, batch = small().eval(), PointBatch.pack([scan_of(60), scan_of(40, 1)])
    cells = model.represent(batch)
    image = maps = model.stem(cells.geometry.images.paint(cells.geometry.channels))
    for stage in model.stages:
        image = stage(image)
        scaled = nn.functional.interpolate(image, maps.shape[2:], mode="bilinear", align_corners=True)
        maps = torch.cat([maps, scaled], 1)
    for linear, norm, activation in model.head:
        maps = activation(norm(nn.functional.conv2d(maps, linear.weight[:, :, None, None])))
    maps = nn.functional.conv2d(maps, model.classifier.weight[:, :, None, None], model.classifier.bias)
    dense = maps.permute(0, 2, 3, 1).reshape(-1, 5)[cells.geometry.images.pixel]
    torch.testing.assert_close(model(batch, cells).cell_logits, dense)


def test_scans_do_not_see_each_other_in_evaluation():
    model, first, second = small().eval(), scan_of(60), scan_of(40, 1)
    together = model(PointBatch.pack([first, second])).point_logits
    torch.testing.assert_close(together[:60], model(first).point_logits, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(together[60:], model(second).point_logits, atol=1e-5, rtol=1e-4)


def test_given_cells_are_used():
    model, batch = small().eval(), scan_of(50)
    cells = model.represent(batch)
    output = model(batch, cells)
    assert output.cells is cells
    assert torch.equal(output.point_logits, model(batch).point_logits)


@pytest.mark.parametrize(("height_px", "width_px"), [(1, 1), (3, 5), (7, 30), (8, 9), (33, 100)])
@pytest.mark.parametrize("sizes", [[0], [1], [0, 3, 0], [80, 1]])
def test_any_image_size_and_any_number_of_points_trains(height_px, width_px, sizes):
    model = small(height_px, width_px).train()
    output = model(PointBatch.pack([scan_of(size, size) for size in sizes]))
    output.cell_logits.square().sum().backward()
    assert output.point_logits.shape == (sum(sizes), 5)
    assert torch.isfinite(output.point_logits).all()
    assert all(parameter.grad is not None for parameter in model.parameters())
    assert all(torch.isfinite(value).all() for value in model.state_dict().values())


def test_a_batch_without_scans_gives_nothing():
    nothing = torch.zeros(0, dtype=torch.int64)
    output = small().train()(PointBatch(torch.zeros(0, 4), nothing, nothing, 0))
    output.cell_logits.sum().backward()
    assert output.point_logits.shape == (0, 5)


def test_scores_stay_float32_under_autocast():
    with torch.autocast("cpu", torch.bfloat16):
        assert small()(scan_of(50)).point_logits.dtype == torch.float32


def test_channels_are_scaled_by_the_reach_of_the_sensor():
    assert channel_scale(SENSOR).tolist() == pytest.approx([10.0, 10.0, 10.0, 1.0, 0.15])
    batch = PointBatch.of_scan(torch.tensor([[3.0, -4.0, 0.0, 0.3]]))
    channels = small().represent(batch).geometry.channels
    assert channels[0].tolist() == pytest.approx([0.5, 0.3, -0.4, 0.0, 2.0])


def test_it_learns_to_tell_near_from_far():
    model, batch = small().train(), scan_of(300)
    batch = batch.with_labels((batch.points[:, :3].norm(dim=1) > 15).long())
    losses_of(model, batch, steps=30, rate=0.01)
    cells = model.represent(batch)
    accuracy = model(batch, cells).cell_logits.argmax(1).eq(cells.targets).float().mean()
    assert accuracy > 0.95
