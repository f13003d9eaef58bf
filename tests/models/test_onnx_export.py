"""The exported graph says what the model says, pixel by pixel and point by point."""

import json
import math

import numpy as np
import pytest
import torch
from torch import nn

from ray_lidarseg.errors import RecipeError
from ray_lidarseg.models.build import build_segmentor
from ray_lidarseg.models.fidnet import FIDNet
from ray_lidarseg.models.onnx_export import DenseFIDNet, largest_difference, to_onnx
from ray_lidarseg.recipe.load import override
from ray_lidarseg.recipe.schema import Recipe
from ray_lidarseg.sample import PointBatch, SensorSpec
from tests.models.learning import losses_of

SENSOR = SensorSpec(16, math.radians(10.0), math.radians(-30.0), 1.0, 50.0, 1.0)


@pytest.fixture(scope="module")
def model() -> FIDNet:
    """Trained for a few steps, so that batch norms have statistics of their own."""
    torch.manual_seed(0)
    made = FIDNet(SENSOR, 5, 8, 24, width_factor=0.125, blocks=(1, 1, 1, 1))
    losses_of(made, batch(), 3, 0.01)
    return made.eval()


def batch() -> PointBatch:
    generator = torch.Generator().manual_seed(1)
    scans = [torch.randn(count, 4, generator=generator) * torch.tensor([15.0, 15.0, 3.0, 0.2]) for count in (90, 60)]
    return PointBatch.pack([PointBatch.of_scan(scan, torch.arange(len(scan)) % 5) for scan in scans])


def test_the_dense_network_says_of_every_point_what_the_model_says(model):
    points = batch()
    view = model.represent(points).geometry
    images = view.images.paint(view.channels * model.channel_scale)
    with torch.no_grad():
        dense = DenseFIDNet(model)(images)
        expected = model(points).point_logits
    torch.testing.assert_close(view.images.gather(dense)[view.images.point_cell], expected, atol=1e-4, rtol=1e-4)
    assert not any(type(layer) is nn.Linear for layer in DenseFIDNet(model).modules())


def test_onnxruntime_says_of_every_point_what_the_model_says(model):
    onnxruntime = pytest.importorskip("onnxruntime", reason="needs the packages of the extra onnx")
    graph = to_onnx(model, tuple("abcde"), use_intensity=False)
    assert largest_difference(graph, model, num_images=1) < 1e-4
    metadata = {entry.key: entry.value for entry in graph.metadata_props}
    assert json.loads(metadata["class_names"]) == list("abcde")
    assert (metadata["fov_up_deg"], metadata["height_px"], metadata["use_intensity"]) == ("10", "8", "false")
    points = batch()
    view = model.represent(points).geometry
    session = onnxruntime.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
    images = _by_the_documented_rule(points)
    np.testing.assert_allclose(images, view.images.paint(view.channels * model.channel_scale), atol=1e-5)
    (logits,) = session.run(None, {"range_image": images})
    with torch.no_grad():
        expected = model(points).point_logits
    said = view.images.gather(torch.from_numpy(logits))[view.images.point_cell]
    torch.testing.assert_close(said, expected, atol=1e-4, rtol=1e-4)


def _by_the_documented_rule(points: PointBatch) -> np.ndarray:
    """The module's docstring, point by point."""
    images = np.zeros((points.num_scans, 5, 8, 24), np.float32)
    for scan, (x, y, z, intensity) in zip(points.scan_idx.tolist(), points.points.numpy(), strict=True):
        distance = math.sqrt(x * x + y * y + z * z)
        column = min(23, math.floor((1 - math.atan2(y, x) / math.pi) / 2 * 24))
        row = math.floor((math.radians(10) - math.asin(z / distance)) / math.radians(40) * 8)
        pixel = images[scan, :, min(7, max(0, row)), column]
        if not pixel[0] or distance < pixel[0]:
            pixel[:] = distance, x, y, z, intensity
    return images


def test_models_on_voxels_are_out_of_scope():
    recipe = override(Recipe(), {"model": {"name": "minkunet", "width_factor": 0.0625}})
    with pytest.raises(RecipeError, match=r"is not exported: ONNX has no sparse convolution, so only range views are"):
        to_onnx(build_segmentor(recipe, SENSOR, 5), tuple("abcde"))
