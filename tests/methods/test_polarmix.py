import math

import pytest
import torch

from ray_lidarseg.errors import RecipeError
from ray_lidarseg.geometry.polar_mix import polar_mix
from ray_lidarseg.losses.cross_entropy import cross_entropy
from ray_lidarseg.recipe import schema
from ray_lidarseg.sample import PointBatch
from ray_lidarseg.types import IGNORE

THINGS = {"instance_classes": (1, 2)}


def same(said, expected) -> bool:
    return all(
        a.terms.keys() == b.terms.keys() and all(torch.equal(a.terms[name], b.terms[name]) for name in b.terms)
        for a, b in zip(said, expected, strict=True)
    )


@pytest.mark.parametrize("partner", ["labelled", "unlabelled"])
def test_mix_weight_zero_is_mean_teacher_bit_for_bit(build, run, labelled, unlabelled, partner):
    plain, ours = build(schema.MeanTeacher()), build(schema.PolarMix(mix_weight=0.0, partner=partner, **THINGS))
    assert same(run(ours, labelled, unlabelled, 3), run(plain, labelled, unlabelled, 3))


def test_mixed_terms_are_those_of_the_mixed_scans(build, labelled, unlabelled):
    method = build(schema.PolarMix(confidence=0.3, mix_weight=0.5, sector_deg=90.0, swap_ratio=1.0, **THINGS))
    said = method(labelled, unlabelled, 0.0, torch.Generator().manual_seed(1)).terms
    probability, label = method.teacher(unlabelled).point_logits.softmax(1).max(1)
    pseudo = unlabelled.with_labels(torch.where(probability > 0.3, label, IGNORE))
    mixed = polar_mix(labelled, pseudo, (1, 2), math.pi / 2, 1.0, 1.0, torch.Generator().manual_seed(1))
    assert mixed.num_scans == 4
    output = method.student(mixed)
    torch.testing.assert_close(said["mix_cross_entropy"], 0.5 * cross_entropy(output.cell_logits, output.cells.targets))


def test_labelled_partners_are_the_augmentation_of_the_paper(build, labelled, unlabelled):
    method = build(schema.PolarMix(partner="labelled", consistency_weight=0.0, ramp_up_ratio=1.0, **THINGS))
    assert not method.uses_unlabelled
    nothing = unlabelled.select(unlabelled.scan_idx < 0)
    losses = method(labelled, nothing, 0.0, torch.Generator().manual_seed(1))
    swapped = PointBatch.pack([labelled.scan(1), labelled.scan(0)])
    mixed = polar_mix(labelled, swapped, (1, 2), math.pi, 0.5, 1.0, torch.Generator().manual_seed(1))
    output = method.student(mixed)
    # labels are true, so no ramp holds the term back
    torch.testing.assert_close(
        losses.terms["mix_cross_entropy"], cross_entropy(output.cell_logits, output.cells.targets)
    )
    assert losses.stats == {}


def test_one_scan_alone_and_none(build, labelled):
    method = build(schema.PolarMix(partner="labelled", consistency_weight=0.0, **THINGS))
    for batch in (labelled.scan(0), PointBatch(*(labelled.points[:0], labelled.scan_idx[:0], labelled.labels[:0]), 0)):
        assert torch.isfinite(method(batch, batch, 0.0, torch.Generator()).total)


def test_a_teacher_that_never_runs_cannot_gather_statistics(build):
    with pytest.raises(RecipeError, match="set ema_buffers to average or copy"):
        build(schema.PolarMix(partner="labelled", consistency_weight=0.0, ema_buffers="own", **THINGS))


def test_labels_of_the_unlabelled_stream_have_no_influence(build, run, labelled, unlabelled):
    leaky = unlabelled.with_labels(torch.arange(len(unlabelled)) % 4)
    recipe = schema.PolarMix(confidence=0.3, **THINGS)
    assert same(*(run(build(recipe), labelled, batch, 2) for batch in (unlabelled, leaky)))


def test_gradients_and_learning(build, run, labelled, unlabelled):
    method = build(schema.PolarMix(confidence=0.8, consistency_weight=10.0, ema_decay=0.9, **THINGS))
    said = run(method, labelled, unlabelled, 40)
    assert all(parameter.grad is None for parameter in method.teacher.parameters())
    assert all(parameter.grad is not None for parameter in method.student.parameters())
    assert said[-1].terms["cross_entropy"] < 0.5 * said[0].terms["cross_entropy"]
