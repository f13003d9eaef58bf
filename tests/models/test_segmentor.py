"""What every model promises, whatever it does inside."""

import copy

import pytest
import torch
from torch import nn

from ray_lidarseg.errors import RecipeError
from ray_lidarseg.models.build import build_segmentor
from ray_lidarseg.models.segmentor import Segmentor
from ray_lidarseg.recipe import schema
from ray_lidarseg.sample import PointBatch, SensorSpec
from ray_lidarseg.types import IGNORE

SENSOR = SensorSpec(32, fov_up_rad=0.17, fov_down_rad=-0.52, min_range_m=1.0, max_range_m=20.0, intensity_scale=1.0)
CYLINDER = {"grid": (20, 18, 10), "radius_m": 15.0, "width_factor": 0.125}
MODELS = {
    "fidnet": schema.FIDNet(height_px=16, width_px=64, width_factor=0.125, blocks=(1, 1, 1, 1)),
    "minkunet": schema.MinkUNet(depth=14, width_factor=0.25, voxel_size_m=0.5),
    "spvcnn": schema.SPVCNN(depth=14, width_factor=0.25, voxel_size_m=0.5),
    "cylinder3d": schema.Cylinder3D(**CYLINDER),
    "cylinder3d, refined": schema.Cylinder3D(**CYLINDER, point_refinement=True),
}


@pytest.fixture(params=MODELS)
def model(request: pytest.FixtureRequest) -> Segmentor:
    torch.manual_seed(0)
    return build_segmentor(schema.Recipe(model=MODELS[request.param]), SENSOR, 3)


def scan(num_points: int, seed: int = 0) -> PointBatch:
    """Ground, and boxes on it: class 1 where a point is above 0.5 m."""
    generator = torch.Generator().manual_seed(seed)
    xy = torch.rand(num_points, 2, generator=generator) * 30 - 15
    is_box = ((xy / 3).floor().sum(1) % 4 == 0) & (torch.rand(num_points, generator=generator) < 0.7)
    z = torch.where(is_box, torch.rand(num_points, generator=generator) * 2 + 0.6, torch.zeros(num_points))
    points = torch.cat([xy, z.unsqueeze(1), torch.rand(num_points, 1, generator=generator)], 1)
    return PointBatch.of_scan(points, is_box.to(torch.int64))


def loss_of(output) -> torch.Tensor:
    """What methods do: the cells' scores, and the points' where the model asks for it."""
    loss = nn.functional.cross_entropy(output.cell_logits, output.cells.targets, ignore_index=IGNORE, reduction="sum")
    if output.cells.point_targets is None:
        return loss
    targets = output.cells.point_targets
    return loss + nn.functional.cross_entropy(output.point_logits, targets, ignore_index=IGNORE, reduction="sum")


def test_shapes_and_a_gradient_for_every_parameter(model):
    batch = PointBatch.pack([scan(300), scan(200, seed=1)])
    output = model(batch)
    assert output.point_logits.shape == (500, 3)
    assert output.point_features.shape == (500, model.feature_dim)
    assert output.cell_logits.shape == (len(output.cells.targets), 3)
    assert torch.equal(output.cells.point_cell.unique(), torch.arange(len(output.cells.targets)))
    loss_of(output).backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in model.parameters())
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


def test_a_scan_says_the_same_alone_and_in_company(model):
    model.eval()
    here, there, empty = scan(300), scan(200, seed=1), PointBatch.of_scan(torch.zeros(0, 4))
    together = model(PointBatch.pack([there, empty, here]))
    alone = model(here)
    torch.testing.assert_close(together.point_logits[200:], alone.point_logits, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(together.point_features[200:], alone.point_features, rtol=1e-4, atol=1e-5)


def test_the_order_of_points_does_not_matter(model):
    model.eval()
    batch, order = scan(300), torch.randperm(300, generator=torch.Generator().manual_seed(3))
    shuffled = PointBatch.of_scan(batch.points[order], batch.labels[order])
    expected = model(batch)
    torch.testing.assert_close(model(shuffled).point_logits, expected.point_logits[order], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("num_scans", [0, 2])
@pytest.mark.parametrize("training", [True, False])
def test_a_batch_without_points_is_legal_and_reaches_every_parameter(model, num_scans, training):
    none = torch.zeros(0, dtype=torch.int64)
    output = model.train(training)(PointBatch(torch.zeros(0, 4), none, none, num_scans))
    loss_of(output).backward()
    assert output.point_logits.shape == output.cell_logits.shape == (0, 3)
    assert output.point_features.shape == (0, model.feature_dim)
    assert all(parameter.grad is not None and not parameter.grad.any() for parameter in model.parameters())
    assert all(value.isfinite().all() for value in model.state_dict().values())


def test_a_single_point_trains(model):
    output = model(scan(1))
    loss_of(output).backward()
    assert output.point_logits.isfinite().all()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


def test_points_outside_the_range_and_at_the_origin_are_kept(model):
    points = [[1e4, 0.0, 0.0, 0.5], [0.0, 0.0, -300.0, 0.5], [0.0, 0.0, 300.0, 0.5], [-1e4, -1e4, 5.0, 0.0], [0.0] * 4]
    labels = torch.tensor([1, IGNORE, 0, 2, IGNORE])
    output = model(PointBatch.of_scan(torch.tensor(points), labels))
    assert len(output.point_logits) == 5
    assert output.point_logits.isfinite().all()
    targets = output.cells.targets[output.cells.point_cell]
    assert set(targets.tolist()) <= {0, 1, 2, IGNORE}


def test_a_teacher_says_the_same_over_the_students_cells(model):
    model.eval()
    batch = scan(300)
    output = model(batch)
    again = copy.deepcopy(model)(batch, output.cells)
    assert again.cells is output.cells
    assert torch.equal(again.point_logits, output.point_logits)


def test_half_precision_trains_and_is_near_full_precision(model):
    batch = scan(300)
    exact = model.eval()(batch).point_logits
    with torch.autocast("cpu", torch.bfloat16):
        half = model(batch).point_logits.float()
        loss_of(model.train()(batch)).backward()
    assert (half - exact).norm() / exact.norm() < 0.05
    assert all(
        parameter.grad.dtype == torch.float32 and parameter.grad.isfinite().all() for parameter in model.parameters()
    )


def test_features_of_the_cells_are_those_before_the_classifier_and_can_be_sampled_anywhere(model):
    """At a point whose cell has no neighbour the sample is the cell's feature, faded by the distance to its centre."""
    batch = PointBatch.pack([scan(300), scan(200, seed=1)])
    output = model(batch)
    assert output.cell_features.shape == (len(output.cells.targets), model.cell_feature_dim)
    if not model.is_spatial:
        with pytest.raises(RecipeError, match=r"set model\.name to cylinder3d, minkunet or spvcnn"):
            output.sample(batch.points, batch.scan_idx)
        return
    found = output.sample(batch.points, batch.scan_idx)
    assert found.shape == (500, model.cell_feature_dim)
    volume = output.cells.in_space
    corners = volume.corners(batch.points, batch.scan_idx)
    is_readable = corners.weights.sum(1) > 0
    assert is_readable.float().mean() > 0.7  # a point's own cell counts, unless it is a border cell
    expected = (corners.weights[..., None] * output.cell_features[corners.rows]).sum(1)
    torch.testing.assert_close(found, expected)
    beyond = torch.tensor([[200.0, 0.0, 0.0], [0.0, 0.0, 60.0]])
    assert not output.sample(beyond, torch.zeros(2, dtype=torch.int64)).any()
    found.sum().backward()
    assert any(parameter.grad is not None and parameter.grad.any() for parameter in model.parameters())


@pytest.mark.parametrize("name", ["minkunet", "spvcnn"])  # Cylinder3D's last layer is a convolution
def test_the_cells_scores_are_the_classifiers_of_their_features(name):
    torch.manual_seed(0)
    model = build_segmentor(schema.Recipe(model=MODELS[name]), SENSOR, 3)
    output = model(scan(300))
    torch.testing.assert_close(model.head(output.cell_features), output.cell_logits, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", MODELS)
def test_the_head_is_what_depends_on_the_classes_and_the_backbone_all_else(name):
    def shapes(num_classes: int) -> dict[str, torch.Size]:
        model = build_segmentor(schema.Recipe(model=MODELS[name]), SENSOR, num_classes)
        of_head.update({key: model.is_of_head(key) for key in model.state_dict()})
        return {key: value.shape for key, value in model.state_dict().items()}

    of_head: dict[str, bool] = {}
    three, five = shapes(3), shapes(5)
    assert {key: three[key] != five[key] for key in three} == of_head


def test_a_frozen_backbone_learns_nothing_and_stays_in_evaluation_mode(model):
    before = {key: value.clone() for key, value in model.state_dict().items()}
    model.freeze_backbone()
    model.train()
    output = model(scan(400))
    (output.point_logits.square().sum() + output.cell_logits.square().sum()).backward()
    changed = {key for key, value in model.state_dict().items() if not torch.equal(value, before[key])}
    assert changed == set()
    graded = {key for key, parameter in model.named_parameters() if parameter.grad is not None}
    assert graded == {key for key in before if model.is_of_head(key)}
    assert not any(module.training for module in model.modules())
