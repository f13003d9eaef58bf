import torch

from ray_lidarseg.losses.cross_entropy import cross_entropy
from ray_lidarseg.losses.lovasz import lovasz_softmax
from ray_lidarseg.recipe import schema
from ray_lidarseg.sample import PointBatch


def test_terms_are_computed_on_cells(build, labelled, unlabelled):
    method = build(schema.Supervised(lovasz_weight=3.0))
    losses = method(labelled, unlabelled, 0.0, torch.Generator())
    output = build(schema.Supervised()).student(labelled)
    assert torch.equal(losses.terms["cross_entropy"], cross_entropy(output.cell_logits, output.cells.targets))
    assert torch.equal(losses.terms["lovasz"], 3.0 * lovasz_softmax(output.cell_logits, output.cells.targets))
    assert not method.uses_unlabelled
    assert list(method.segmentors()) == ["student"]


def test_unlabelled_scans_are_not_needed(build, labelled, unlabelled):
    nothing = PointBatch(labelled.points[:0], labelled.scan_idx[:0], labelled.labels[:0], num_scans=0)
    with_them, without = (
        build(schema.Supervised())(labelled, batch, 0.0, torch.Generator()).total for batch in (unlabelled, nothing)
    )
    assert torch.equal(with_them, without)


def test_learns_a_world_it_can_tell_apart(build, run, labelled, unlabelled):
    method = build(schema.Supervised(lovasz_weight=1.0))
    said = run(method, labelled, unlabelled, steps=60)
    assert said[-1].total < 0.3 * said[0].total
    with torch.no_grad():
        logits = method.eval().student(labelled).point_logits
    is_known = labelled.labels != 255
    assert (logits.argmax(1) == labelled.labels)[is_known].float().mean() > 0.9


def test_all_ignored_is_finite_and_touches_every_parameter(build, labelled, unlabelled):
    method = build(schema.Supervised())
    method(labelled.unlabelled(), unlabelled, 0.0, torch.Generator()).total.backward()
    gradients = [parameter.grad for parameter in method.parameters()]
    assert all(gradient is not None and not gradient.any() for gradient in gradients)
