from dataclasses import replace

import pytest
import torch
from torch.nn import functional

from ray_lidarseg.datasets.evidence import TextEmbeddings
from ray_lidarseg.errors import DataError, RecipeError, RunError
from ray_lidarseg.losses.relational import cross_modal
from ray_lidarseg.losses.row_blocks import paired_rows
from ray_lidarseg.methods.build import build_method
from ray_lidarseg.methods.distill import Distill, _pooled, require_features
from ray_lidarseg.models.cylinder3d import build_cylinder3d
from ray_lidarseg.models.spvcnn import build_spvcnn
from ray_lidarseg.recipe import schema
from ray_lidarseg.sample import PointBatch
from ray_lidarseg.types import IMAGE_FEATURES, IMAGE_SEGMENT
from tests.methods.conftest import MODELS, NUM_CLASSES, SENSOR, scan

DIM = 6
TEACHER = functional.normalize(torch.randn(NUM_CLASSES, DIM, generator=torch.Generator().manual_seed(3)))
LOSSES = {
    "relational": schema.Distill(),
    "mse": schema.Distill(relation="mse"),
    "kl": schema.Distill(relation="kl"),
    "rkd": schema.Distill(relation="rkd"),
    "similarity": schema.Distill(loss="similarity"),
    "contrastive": schema.Distill(loss="contrastive"),
    "tolerant": schema.Distill(loss="st_contrastive"),
    "points": schema.Distill(loss="contrastive", level="points", max_points=100),
}
NO_SCANS = PointBatch(torch.zeros(0, 4), *[torch.zeros(0, dtype=torch.int64)] * 2, 0)


def seen(seed: int) -> PointBatch:
    """A scan whose points the teacher sees rightly: three segments a class; the last tenth is seen by no camera."""
    batch = scan(seed)
    classes = scan(seed).labels.clamp(max=NUM_CLASSES - 1)
    is_paired = torch.arange(len(batch)) < 0.9 * len(batch)
    segment = torch.where(is_paired, 1 + 3 * classes + torch.arange(len(batch)) % 3, 0)
    features = functional.pad(TEACHER.repeat_interleave(3, dim=0), (0, 0, 1, 0)).half()
    seen = PointBatch.of_scan(batch.points, batch.labels, {IMAGE_SEGMENT: segment})
    return replace(seen, segments={IMAGE_FEATURES: features})


@pytest.fixture
def scans() -> PointBatch:
    return PointBatch.pack([seen(0), seen(1)]).unlabelled()


def test_pooling_by_hand():
    points = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0], [0.0, 4.0]])
    means, numbers = _pooled(points, torch.tensor([9, 4, 9, 9]))
    assert means.tolist() == [[0.0, 1.0], [pytest.approx(2 / 3), pytest.approx(4 / 3)]]
    assert numbers.tolist() == [4, 9]
    assert [len(part) for part in _pooled(points[:0], torch.zeros(0, dtype=torch.int64))] == [0, 0]


def test_the_loss_is_that_of_unit_means_of_each_segment_of_each_scan(build, scans):
    method = build(schema.Distill(intra_weight=0.0))
    losses = method(NO_SCANS, scans, 0.0, torch.Generator())
    method.eval(), method.train()
    with torch.no_grad():
        points = functional.normalize(method.head(method.student(scans).point_features), dim=1)
    rows = []
    for index in range(2):
        for number in range(3 * NUM_CLASSES):  # packing numbers the second scan's segments behind the first one's
            mine = (scans.scan_idx == index) & (scans.extras[IMAGE_SEGMENT] == 1 + number + 3 * NUM_CLASSES * index)
            feature = TEACHER[number // 3].half().float()
            rows.append((functional.normalize(points[mine].mean(0), dim=0), feature))
    k, q = (torch.stack(part) for part in zip(*rows, strict=True))
    torch.testing.assert_close(k.norm(dim=1), torch.ones(len(k)))
    expected = cross_modal(paired_rows(k, functional.normalize(q, dim=1)))
    torch.testing.assert_close(losses.terms["cross_modal"].detach(), expected, rtol=1e-4, atol=1e-5)
    assert float(losses.stats["pairs_count"]) == len(k)
    assert float(losses.stats["paired_ratio"]) == pytest.approx(0.9)


@pytest.mark.parametrize("name", LOSSES)
def test_every_loss_brings_points_to_their_images(build, run, scans, name):
    method = build(LOSSES[name])
    optimiser = torch.optim.AdamW([p for p in method.parameters() if p.requires_grad], lr=0.01)
    cosines, totals = [], []
    for step in range(25):
        losses = method(NO_SCANS, scans, step / 25, torch.Generator().manual_seed(step))
        optimiser.zero_grad()
        losses.total.backward()
        optimiser.step()
        cosines.append(float(losses.stats["paired_cosine"]))
        totals.append(float(losses.total.detach()))
    assert totals[-1] < totals[0]
    assert cosines[-1] > cosines[0] + 0.2


def _models():
    yield "fidnet", None
    yield "minkunet", None
    yield (
        "spvcnn",
        build_spvcnn(schema.SPVCNN(depth=14, width_factor=0.125, voxel_size_m=1.0), SENSOR, NUM_CLASSES, "torch"),
    )
    grid = schema.Cylinder3D(grid=(32, 32, 8), width_factor=0.125, point_refinement=True)
    yield "cylinder3d", build_cylinder3d(grid, (-4.0, 2.0), NUM_CLASSES, "torch")


@pytest.mark.parametrize(("name", "model"), list(_models()))
def test_on_every_backbone_all_that_is_trainable_gets_a_gradient_and_the_classifier_is_not(build, scans, name, model):
    method = build(schema.Distill(), name) if model is None else Distill(model, schema.Distill(), DIM)
    for batch in (scans, scans.select(scans.extras[IMAGE_SEGMENT] == 0)):
        method.zero_grad()
        losses = method(NO_SCANS, batch, 0.0, torch.Generator())
        losses.total.backward()
        for parameter_name, parameter in method.named_parameters():
            of_student = parameter_name.removeprefix("student.")
            is_classifier = of_student != parameter_name and method.student.is_of_head(of_student)
            assert (parameter.grad is not None) != is_classifier, parameter_name
    assert float(losses.total.detach()) == 0.0  # no pair was left


def test_labels_are_not_looked_at(build, scans):
    said = [
        build(schema.Distill())(NO_SCANS, batch, 0.0, torch.Generator()).total
        for batch in (scans, scans.with_labels(torch.zeros_like(scans.labels)))
    ]
    assert torch.equal(*said)


def test_with_words_it_labels_and_without_it_says_what_to_do(build, scans):
    method = build(schema.Distill())
    assert method.classifiers() == {}
    with pytest.raises(RunError, match=r"distilled from features without text.*start.run"):
        method.classifier  # noqa: B018
    method.read_words(TextEmbeddings(TEACHER.numpy(), torch.arange(NUM_CLASSES).numpy(), ("a", "b", "c", "d")))
    optimiser = torch.optim.AdamW([p for p in method.parameters() if p.requires_grad], lr=0.01)
    for _ in range(40):
        losses = method(NO_SCANS, scans, 0.0, torch.Generator())
        optimiser.zero_grad()
        losses.total.backward()
        optimiser.step()
    truth = torch.cat([scan(0).labels, scan(1).labels])
    found = method.classifier(scans).point_logits.argmax(dim=1)
    is_known = truth != 255
    assert (found == truth)[is_known].float().mean() > 0.8  # no label was read
    again = build(schema.Distill())
    again.load_state_dict(method.state_dict())
    assert torch.equal(again.eval().classifier(scans).point_logits, method.eval().classifier(scans).point_logits)


def test_recipes_that_make_no_sense_are_refused():
    with pytest.raises(ValueError, match="cross_weight"):
        schema.Distill(cross_weight=0.0)  # relations within points alone do not see a rotation
    with pytest.raises(ValueError, match="relation has no effect with loss similarity"):
        schema.Distill(loss="similarity", relation="mse")
    with pytest.raises(ValueError, match="drop has no effect with loss contrastive"):
        schema.Distill(loss="contrastive", drop="mask")
    with pytest.raises(ValueError, match=r"unlabelled_per_step must be at least 1"):
        schema.Recipe(method=schema.Distill(), train=schema.Train(unlabelled_per_step=0))
    with pytest.raises(RecipeError, match=r"method distill learns from image features.*data.evidence=auto"):
        require_features(0)


@pytest.mark.parametrize("is_frozen", [False, True])
def test_a_frozen_backbone_stays_frozen_and_only_the_projection_learns(is_frozen):
    data = schema.Data(evidence="layer", evidence_dim=DIM)
    start = schema.Start(run="before", frozen=is_frozen)
    recipe = schema.Recipe(data=data, model=MODELS["fidnet"], method=schema.Distill(), start=start)
    method = build_method(recipe, SENSOR, NUM_CLASSES)
    assert {parameter.requires_grad for parameter in method.student.backbone_parameters()} == {not is_frozen}
    assert all(parameter.requires_grad for parameter in method.head.parameters())
    of_head = [value for name, value in method.student.named_parameters() if method.student.is_of_head(name)]
    assert of_head
    assert not any(parameter.requires_grad for parameter in of_head)


def test_words_of_another_number_of_classes_are_refused(build):
    words = TextEmbeddings(TEACHER.numpy()[:3], torch.arange(3).numpy(), ("a", "b", "c"))
    with pytest.raises(DataError, match=r"words are of 3 classes, the network has 4: prepare"):
        build(schema.Distill()).read_words(words)
