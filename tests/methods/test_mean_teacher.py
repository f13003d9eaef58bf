import math

import pytest
import torch

from ray_lidarseg.errors import RecipeError
from ray_lidarseg.losses.consistency import consistency
from ray_lidarseg.recipe import schema
from ray_lidarseg.sample import PointBatch


def same(said: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> bool:
    return said.keys() == expected.keys() and all(torch.equal(said[name], expected[name]) for name in said)


def test_weight_zero_is_supervised_bit_for_bit(build, run, labelled, unlabelled):
    plain, taught = build(schema.Supervised()), build(schema.MeanTeacher(consistency_weight=0.0))
    expected, said = run(plain, labelled, unlabelled, 4), run(taught, labelled, unlabelled, 4)
    assert all(same(a.terms, b.terms) for a, b in zip(said, expected, strict=True))
    weights = plain.student.state_dict()
    assert all(torch.equal(value, weights[name]) for name, value in taught.student.state_dict().items())


def test_consistency_is_over_the_cells_of_both_streams(build, labelled, unlabelled):
    method = build(schema.MeanTeacher(consistency_weight=7.0))
    with torch.no_grad():
        for parameter in method.teacher.parameters():
            parameter.mul_(1.1)
    term = method(labelled, unlabelled, 0.0, torch.Generator()).terms["consistency"]
    student = [method.student(batch).cell_logits for batch in (labelled, unlabelled)]
    teacher = [method.teacher(batch).cell_logits for batch in (labelled, unlabelled)]
    assert min(len(logits) for logits in student) > 0
    expected = 7.0 * consistency(torch.cat(student), torch.cat(teacher))
    assert expected > 0
    torch.testing.assert_close(term, expected)


def test_ramp_up_scales_the_consistency_only(build, labelled, unlabelled):
    full = build(schema.MeanTeacher())(labelled, unlabelled, 0.25, torch.Generator()).terms
    ramped = build(schema.MeanTeacher(ramp_up_ratio=0.5))(labelled, unlabelled, 0.25, torch.Generator()).terms
    assert torch.equal(full["cross_entropy"], ramped["cross_entropy"])
    torch.testing.assert_close(ramped["consistency"], math.exp(-1.25) * full["consistency"])


def test_only_the_student_has_gradients_and_the_teacher_follows(build, check_teacher, labelled, unlabelled):
    method = build(schema.MeanTeacher(ema_decay=0.9))
    check_teacher(method, labelled, unlabelled)


def test_without_unlabelled_scans_it_still_trains(build, labelled):
    nothing = PointBatch(labelled.points[:0], labelled.scan_idx[:0], labelled.labels[:0], num_scans=0)
    losses = build(schema.MeanTeacher())(labelled, nothing, 0.0, torch.Generator())
    assert torch.isfinite(losses.total)


def test_the_teacher_is_deployed(build):
    method = build(schema.MeanTeacher())
    assert list(method.segmentors()) == ["student", "teacher"]
    assert method.segmentors()["teacher"] is not method.student
    assert method.uses_unlabelled


@pytest.mark.parametrize(("rule", "expected"), [("average", False), ("copy", False), ("own", True)])
def test_train_keeps_the_mode_the_buffer_rule_asks_for(build, rule, expected):
    method = build(schema.MeanTeacher(ema_buffers=rule))
    method.segmentors()["teacher"].eval()
    method.train()
    assert method.segmentors()["teacher"].training == expected
    assert method.student.training


def test_a_teacher_that_never_runs_cannot_gather_statistics(build):
    with pytest.raises(RecipeError, match="ema_buffers to average or copy"):
        build(schema.MeanTeacher(consistency_weight=0.0, ema_buffers="own"))


def test_learns(build, run, labelled, unlabelled):
    said = run(build(schema.MeanTeacher(consistency_weight=10.0)), labelled, unlabelled, 40)
    supervised = [losses.terms["cross_entropy"] + losses.terms["lovasz"] for losses in said]
    assert supervised[-1] < 0.5 * supervised[0]
