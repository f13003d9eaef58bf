import pytest
import torch

from ray_lidarseg.errors import RecipeError
from ray_lidarseg.losses.cross_entropy import cross_entropy
from ray_lidarseg.methods.build import build_method
from ray_lidarseg.methods.pseudo_label import balanced_pseudo_labels, class_thresholds
from ray_lidarseg.recipe import schema
from tests.methods.conftest import NUM_CLASSES, SENSOR


def test_weight_zero_is_supervised_bit_for_bit(build, run, labelled, unlabelled):
    plain, ours = build(schema.Supervised()), build(schema.CBST(self_training_weight=0.0))
    expected, said = run(plain, labelled, unlabelled, 3), run(ours, labelled, unlabelled, 3)
    assert all(torch.equal(a.total, b.total) for a, b in zip(said, expected, strict=True))
    assert not ours.uses_unlabelled


def test_the_first_step_takes_the_batchs_own_thresholds(build, labelled, unlabelled):
    method = build(schema.CBST(portion=(0.3, 0.3), self_training_weight=0.5))
    said = method(labelled, unlabelled, 0.0, torch.Generator())
    probability = method.teacher(unlabelled).point_logits.softmax(1)
    thresholds, count = class_thresholds(probability, 0.3)
    pseudo = balanced_pseudo_labels(probability, thresholds)
    output = method.student(unlabelled.with_labels(pseudo))
    expected = 0.5 * cross_entropy(output.cell_logits, output.cells.targets)
    torch.testing.assert_close(said.terms["self_training_cross_entropy"], expected)
    assert float(said.stats["pseudo_keep_ratio"]) >= 0.3  # at least the portion of each class
    assert not method.thresholds.any()  # nothing moves before the optimiser has stepped
    method.after_step(0.0)
    torch.testing.assert_close(method.thresholds, torch.where(count > 0, thresholds, 0.0))


def test_thresholds_follow_the_batches_and_unseen_classes_keep_theirs(build, labelled, unlabelled):
    method = build(schema.CBST(threshold_decay=0.75))
    method.thresholds.copy_(torch.tensor([0.4, 0.4, 0.4, 0.4]))
    found = torch.tensor([0.8, 0.6, 1.0, 0.2])
    for thresholds, count in ((found, torch.tensor([1.0, 3, 0, 2])), (found + 0.1, torch.tensor([3.0, 1, 0, 2]))):
        method._notes.add(0.5, torch.stack([thresholds * count, count]))
    method.after_step(0.5)
    expected = [0.3 + 0.25 * (0.8 + 0.3 / 4), 0.3 + 0.25 * (0.6 + 0.1 / 4), 0.4, 0.3 + 0.25 * 0.25]
    assert method.thresholds.tolist() == pytest.approx(expected)


def test_the_portion_grows_with_progress(build, labelled, unlabelled):
    kept = [
        float(build(schema.CBST())(labelled, unlabelled, progress, torch.Generator()).stats["pseudo_keep_ratio"])
        for progress in (0.0, 0.5, 0.99)
    ]
    assert kept == sorted(kept)
    assert kept[0] < kept[2]


def test_no_gradient_to_the_teacher_and_all_of_the_student(build, check_teacher, labelled, unlabelled):
    method = build(schema.CBST(ema_decay=0.9))
    check_teacher(method, labelled, unlabelled)


def test_thresholds_are_state_and_learning_goes_on(build, run, labelled, unlabelled):
    method = build(schema.CBST(ema_decay=0.9))
    said = run(method, labelled, unlabelled, 40)
    assert "thresholds" in method.state_dict()
    assert ((method.thresholds > 0) & (method.thresholds <= 1)).all()
    assert said[-1].terms["cross_entropy"] < 0.5 * said[0].terms["cross_entropy"]


def test_nothing_unlabelled_is_no_error(build, labelled):
    nothing = labelled.select(labelled.scan_idx < 0)
    method = build(schema.CBST())
    assert torch.isfinite(method(labelled, nothing, 0.0, torch.Generator()).total)
    method.after_step(0.0)
    assert not method.thresholds.any()


def test_thresholds_are_over_the_points_of_all_ranks(build, monkeypatch):
    method = build(schema.CBST())
    method._notes.add(0.0, torch.tensor([[0.8, 0.6 * 3, 0.0, 0.0], [1.0, 3.0, 0.0, 0.0]]))
    elsewhere = torch.tensor([[0.4 * 3, 0.0, 0.5 * 2, 0.0], [3.0, 0.0, 2.0, 0.0]])  # sums and counts of another rank
    monkeypatch.setattr("torch.distributed.is_initialized", lambda: True)
    monkeypatch.setattr("torch.distributed.all_reduce", lambda total: total.add_(elsewhere))
    method.after_step(0.0)
    assert method.thresholds.tolist() == pytest.approx([(0.8 + 1.2) / 4, 0.6, 0.5, 0.0])


def test_a_teacher_with_statistics_of_its_own_that_never_runs_is_refused(build):
    with pytest.raises(
        RecipeError, match=r"self_training_weight=0 the teacher never runs.*ema_buffers to average or copy"
    ):
        build(schema.CBST(self_training_weight=0.0, ema_buffers="own"))
    alone = schema.Recipe(method=schema.CBST(ema_buffers="own"), train=schema.Train(unlabelled_per_step=0))
    with pytest.raises(RecipeError, match=r"train.unlabelled_per_step=0 the teacher never runs"):
        build_method(alone, SENSOR, NUM_CLASSES)
    assert build(schema.CBST(ema_buffers="own")).uses_unlabelled
