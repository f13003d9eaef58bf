import pytest
import torch
from torch import nn

from ray_lidarseg.datasets import image_scans as images
from ray_lidarseg.datasets.entries import dataset_named
from ray_lidarseg.datasets.sensor import resolve_sensor
from ray_lidarseg.errors import RecipeError
from ray_lidarseg.models.build import build_segmentor
from ray_lidarseg.models.image_unet import ImageUNet
from ray_lidarseg.recipe import schema
from ray_lidarseg.sample import PointBatch
from ray_lidarseg.types import COLOURS

DATA = schema.Data(dataset="world-images", image_size=(12, 20))
CAMERA = resolve_sensor(DATA)


@pytest.fixture
def model() -> ImageUNet:
    torch.manual_seed(0)
    return ImageUNet(CAMERA, 5, width_factor=0.25, num_levels=3)


def image(seed: int = 0) -> PointBatch:
    generator = torch.Generator().manual_seed(seed)
    colours = torch.rand(240, 3, generator=generator)
    points = torch.cat([images.directions(CAMERA), images.luma(colours)[:, None]], 1)
    return PointBatch.of_scan(points, torch.randint(5, (240,), generator=generator), {COLOURS: colours})


def test_shapes_and_a_gradient_for_every_parameter(model):
    batch = PointBatch.pack([image(), image(1)])
    output = model(batch)
    assert output.point_logits.shape == output.cell_logits.shape == (480, 5)
    assert output.point_features.shape == (480, model.feature_dim)
    assert torch.equal(output.cells.point_cell, torch.arange(480))
    assert torch.equal(output.cells.targets, batch.labels)
    nn.functional.cross_entropy(output.cell_logits, output.cells.targets).backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in model.parameters())


def test_the_network_sees_the_image_it_was_given(model):
    view = model.represent(PointBatch.pack([image(), image(1)])).geometry
    painted = view.images.paint(view.colours)
    assert torch.equal(painted[1].permute(1, 2, 0).reshape(-1, 3), image(1).extras[COLOURS])


def test_neither_the_order_of_pixels_nor_company_matters(model):
    model.eval()
    alone, order = model(image()), torch.randperm(240, generator=torch.Generator().manual_seed(1))
    shuffled = model(image().select(order))
    torch.testing.assert_close(shuffled.point_logits, alone.point_logits[order])
    nothing = PointBatch.of_scan(torch.zeros(0, 4), extras={COLOURS: torch.zeros(0, 3)})
    together = model(PointBatch.pack([image(1), nothing, image()]))
    torch.testing.assert_close(together.point_logits[240:], alone.point_logits, rtol=1e-4, atol=1e-5)


def test_points_without_colours_are_grey(model):
    grey = image()
    grey.extras[COLOURS] = grey.points[:, 3:].expand(-1, 3)
    bare = PointBatch.of_scan(grey.points)
    assert torch.equal(model(bare).point_logits, model(grey).point_logits)


@pytest.mark.parametrize("num_scans", [0, 2])
def test_a_batch_without_points_is_legal_and_reaches_every_parameter(model, num_scans):
    none = torch.zeros(0, dtype=torch.int64)
    output = model(PointBatch(torch.zeros(0, 4), none, none, num_scans))
    output.cell_logits.sum().backward()
    assert output.point_logits.shape == output.cell_logits.shape == (0, 5)
    assert all(parameter.grad is not None and not parameter.grad.any() for parameter in model.parameters())


def test_points_beyond_the_image_and_at_the_origin_are_kept(model):
    output = model(PointBatch.of_scan(torch.tensor([[0.0, 0, 9, 1], [0, 0, -9, 1], [0, 0, 0, 0], [1e4, 0, 0, 0]])))
    assert output.point_logits.shape == (4, 5)
    assert output.point_logits.isfinite().all()


def test_one_level_and_sizes_that_do_not_halve_evenly():
    data = schema.Data(dataset="cityscapes", image_size=(7, 5))
    for num_levels in (1, 5):
        model = schema.ImageUNet(width_factor=0.25, num_levels=num_levels)
        built = build_segmentor(schema.Recipe(model=model, data=data), resolve_sensor(data), 19)
        points = torch.cat([images.directions(resolve_sensor(data)), torch.ones(35, 1)], 1)
        assert built(PointBatch.of_scan(points)).point_logits.shape == (35, 19)


def test_widths_and_parameters_of_the_default():
    model = ImageUNet(CAMERA, 16)
    assert (model.feature_dim, model.encoder[-1].second[0].out_channels) == (32, 256)
    assert sum(parameter.numel() for parameter in model.parameters()) == 1_647_824


def test_a_lidar_is_refused():
    with pytest.raises(RecipeError, match=r"image_unet sees images: set data.dataset to a data set of images"):
        ImageUNet(dataset_named("nuscenes").sensor, 16)


def test_the_head_is_the_classifier():
    few, many = (ImageUNet(CAMERA, count, 0.25, 2) for count in (3, 5))
    shapes = {name: value.shape for name, value in many.state_dict().items()}
    differ = {name for name, value in few.state_dict().items() if value.shape != shapes[name]}
    assert differ == {name for name in shapes if few.is_of_head(name)} == {"classifier.weight", "classifier.bias"}
