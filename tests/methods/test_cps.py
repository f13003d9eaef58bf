import torch
from torch import nn

from ray_lidarseg.losses.cross_entropy import cross_entropy
from ray_lidarseg.recipe import schema
from ray_lidarseg.training.loop import Ranks, synchronise_batch_norm


def test_weight_zero_trains_the_first_student_as_supervised(build, run, labelled, unlabelled):
    plain, ours = build(schema.Supervised()), build(schema.CPS(cross_weight=0.0))
    expected, said = run(plain, labelled, unlabelled, 3), run(ours, labelled, unlabelled, 3)
    for a, b in zip(said, expected, strict=True):
        assert all(torch.equal(a.terms[name], b.terms[name]) for name in b.terms)
    assert not ours.uses_unlabelled


def test_the_students_start_differently_and_the_first_is_deployed(build):
    method = build(schema.CPS())
    assert list(method.segmentors()) == ["student", "second"]
    pairs = zip(method.student.parameters(), method.second.parameters(), strict=True)
    assert any(not torch.equal(a, b) for a, b in pairs)


def test_cross_terms_by_hand(build, labelled, unlabelled):
    method = build(schema.CPS(cross_weight=2.0))
    said = method(labelled, unlabelled, 0.0, torch.Generator())
    first, second = (
        torch.cat([model(batch).cell_logits for batch in (labelled, unlabelled)])
        for model in (method.student, method.second)
    )
    torch.testing.assert_close(said.terms["cross"], 2 * cross_entropy(first, second.argmax(1)))
    torch.testing.assert_close(said.terms["second_cross"], 2 * cross_entropy(second, first.argmax(1)))
    expected = (first.argmax(1) == second.argmax(1)).float().mean()
    torch.testing.assert_close(said.stats["agreement_ratio"], expected)


def test_each_cross_term_reaches_one_student_only(build, labelled, unlabelled):
    method = build(schema.CPS())
    method(labelled, unlabelled, 0.0, torch.Generator()).terms["cross"].backward()
    assert all(parameter.grad is not None for parameter in method.student.parameters())
    assert all(parameter.grad is None for parameter in method.second.parameters())


def test_every_parameter_has_a_gradient(build, labelled, unlabelled):
    method = build(schema.CPS())
    method(labelled, unlabelled, 0.0, torch.Generator()).total.backward()
    assert all(parameter.grad is not None for parameter in method.parameters())


def test_both_students_learn_and_come_to_agree(build, labelled, unlabelled):
    method = build(schema.CPS())
    optimiser = torch.optim.AdamW(method.parameters(), lr=0.01)
    said = []
    for _ in range(40):
        losses = method(labelled, unlabelled, 0.0, torch.Generator())
        optimiser.zero_grad()
        losses.total.backward()
        optimiser.step()
        said.append(losses)
    for name in ("cross_entropy", "second_cross_entropy"):
        assert said[-1].terms[name].detach() < 0.5 * said[0].terms[name].detach()
    assert said[-1].stats["agreement_ratio"] > said[0].stats["agreement_ratio"]


def test_batch_norms_of_both_students_are_synchronised_and_of_no_teacher(build):
    both, taught = build(schema.CPS()), build(schema.MeanTeacher())
    for method in (both, taught):
        synchronise_batch_norm(method, torch.device("cuda"), Ranks(0, 2))
    has_synchronised = lambda model: any(isinstance(part, nn.SyncBatchNorm) for part in model.modules())  # noqa: E731
    assert has_synchronised(both.student)
    assert has_synchronised(both.second)
    assert has_synchronised(taught.student)
    assert not has_synchronised(taught.teacher)
