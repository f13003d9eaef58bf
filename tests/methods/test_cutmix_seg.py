from dataclasses import replace

import pytest
import torch

from ray_lidarseg.errors import RecipeError
from ray_lidarseg.geometry.polar_mix import cut_mix
from ray_lidarseg.methods.build import build_method
from ray_lidarseg.recipe import schema
from ray_lidarseg.sample import PointBatch
from tests.methods.conftest import NUM_CLASSES, SENSOR


def test_weight_zero_is_supervised_bit_for_bit(build, run, labelled, unlabelled):
    plain, ours = build(schema.Supervised()), build(schema.CutMixSeg(cutmix_weight=0.0))
    expected, said = run(plain, labelled, unlabelled, 3), run(ours, labelled, unlabelled, 3)
    assert all(torch.equal(a.total, b.total) for a, b in zip(said, expected, strict=True))
    assert not ours.uses_unlabelled


def test_the_term_by_hand(build, labelled, unlabelled):
    probability = build(schema.CutMixSeg()).teacher(unlabelled).point_logits.softmax(1)
    median = float(probability.max(1).values.median())  # so that about half of the points are sure
    method = build(schema.CutMixSeg(cutmix_weight=3.0, confidence=median))
    said = method(labelled, unlabelled, 0.0, torch.Generator().manual_seed(4))
    swapped = PointBatch.pack([unlabelled.scan(1), unlabelled.scan(0)])
    says = lambda batch: method.teacher(batch).point_logits.softmax(1)  # noqa: E731
    taught = [replace(batch, extras={"p": says(batch)}) for batch in (unlabelled, swapped)]
    mixed = cut_mix(*taught, method.sensor, 0.5, torch.Generator().manual_seed(4))
    student = method.student(mixed).point_logits.softmax(1)
    sure = (mixed.extras["p"].max(1).values > median).float().mean()
    assert 0 < sure < 1
    expected = 3 * sure * (student - mixed.extras["p"]).square().sum(1).mean()
    torch.testing.assert_close(said.terms["cutmix"], expected)
    torch.testing.assert_close(said.stats["confident_ratio"], sure)


@pytest.mark.parametrize("num_scans", [1, 0])
def test_a_single_scan_is_mixed_with_the_labelled_one_beside_it_and_none_with_nothing(build, labelled, num_scans):
    alone = replace(labelled.select(labelled.scan_idx < num_scans), num_scans=num_scans).unlabelled()
    method = build(schema.CutMixSeg(confidence=0.0))
    losses = method(labelled, alone, 0.0, torch.Generator().manual_seed(0))
    losses.total.backward()
    assert torch.isfinite(losses.total)
    assert all(parameter.grad is not None for parameter in method.student.parameters())


def test_labels_of_the_unlabelled_stream_have_no_influence(build, run, labelled, unlabelled):
    leaky = unlabelled.with_labels(torch.arange(len(unlabelled)) % 4)
    hidden, shown = (run(build(schema.CutMixSeg()), labelled, batch, 2) for batch in (unlabelled, leaky))
    assert all(torch.equal(a.total, b.total) for a, b in zip(hidden, shown, strict=True))


def test_no_gradient_to_the_teacher_which_follows(build, check_teacher, labelled, unlabelled):
    method = build(schema.CutMixSeg(ema_decay=0.9, confidence=0.0))
    check_teacher(method, labelled, unlabelled)


def test_learns(build, run, labelled, unlabelled):
    said = run(build(schema.CutMixSeg(ema_decay=0.9, confidence=0.5)), labelled, unlabelled, 40)
    assert said[-1].terms["cross_entropy"] < 0.5 * said[0].terms["cross_entropy"]
    assert max(float(losses.stats["confident_ratio"]) for losses in said) > 0.3


def test_a_teacher_with_statistics_of_its_own_that_never_runs_is_refused(build):
    with pytest.raises(RecipeError, match=r"cutmix_weight=0 the teacher never runs.*ema_buffers to average or copy"):
        build(schema.CutMixSeg(cutmix_weight=0.0, ema_buffers="own"))
    alone = schema.Recipe(method=schema.CutMixSeg(ema_buffers="own"), train=schema.Train(unlabelled_per_step=0))
    with pytest.raises(RecipeError, match=r"train.unlabelled_per_step=0 the teacher never runs"):
        build_method(alone, SENSOR, NUM_CLASSES)
    assert build(schema.CutMixSeg(ema_buffers="own")).uses_unlabelled
