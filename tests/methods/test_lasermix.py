import pytest
import torch

from ray_lidarseg.geometry.mixing import mix_pairs
from ray_lidarseg.losses.cross_entropy import cross_entropy
from ray_lidarseg.recipe import schema
from ray_lidarseg.sample import PointBatch
from ray_lidarseg.types import IGNORE


def same(said: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> bool:
    return said.keys() == expected.keys() and all(torch.equal(said[name], expected[name]) for name in said)


@pytest.mark.parametrize("rule", ["average", "copy", "own"])
def test_mix_weight_zero_is_mean_teacher_bit_for_bit(build, run, labelled, unlabelled, rule):
    taught = build(schema.MeanTeacher(ema_buffers=rule))
    mixing = build(schema.LaserMix(ema_buffers=rule, mix_weight=0.0))
    expected, said = run(taught, labelled, unlabelled, 4), run(mixing, labelled, unlabelled, 4)
    assert all(same(a.terms, b.terms) for a, b in zip(said, expected, strict=True))
    state = taught.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in mixing.state_dict().items())


def test_all_weights_zero_trains_as_supervised(build, run, labelled, unlabelled):
    expected = run(build(schema.Supervised()), labelled, unlabelled, 3)
    said = run(build(schema.LaserMix(mix_weight=0.0, consistency_weight=0.0)), labelled, unlabelled, 3)
    assert all(same(a.terms, b.terms) for a, b in zip(said, expected, strict=True))


def test_mixed_terms_are_those_of_the_mixed_scans(build, labelled, unlabelled):
    method = build(schema.LaserMix(confidence=0.3, num_areas=(5,), mix_weight=0.5))
    terms = method(labelled, unlabelled, 0.0, torch.Generator().manual_seed(1)).terms
    probability, label = method.teacher(unlabelled).point_logits.softmax(1).max(1)
    pseudo = torch.where(probability > 0.3, label, IGNORE)
    mixed = mix_pairs(labelled, unlabelled.with_labels(pseudo), method.sensor, (5,), torch.Generator().manual_seed(1))
    assert mixed.num_scans == 4
    output = method.student(mixed)
    expected = 0.5 * cross_entropy(output.cell_logits, output.cells.targets)
    torch.testing.assert_close(terms["mix_cross_entropy"], expected)


def test_confidence_one_keeps_nothing_and_still_touches_every_parameter(build, labelled, unlabelled):
    method = build(schema.LaserMix(confidence=1.0))
    losses = method(labelled, unlabelled, 0.0, torch.Generator())
    assert float(losses.stats["pseudo_keep_ratio"]) == 0.0
    assert torch.isfinite(losses.total)
    losses.total.backward()
    assert all(parameter.grad is not None for parameter in method.student.parameters())
    assert all(parameter.grad is None for parameter in method.teacher.parameters())


def test_confidence_zero_keeps_everything(build, labelled, unlabelled):
    losses = build(schema.LaserMix(confidence=0.0))(labelled, unlabelled, 0.0, torch.Generator())
    assert float(losses.stats["pseudo_keep_ratio"]) == 1.0


@pytest.mark.parametrize("recipe", [schema.MeanTeacher(), schema.LaserMix(confidence=0.3)])
def test_labels_of_the_unlabelled_stream_have_no_influence(build, run, labelled, unlabelled, recipe):
    leaky = unlabelled.with_labels(torch.arange(len(unlabelled)) % 4)
    hidden, shown = (run(build(recipe), labelled, batch, 3) for batch in (unlabelled, leaky))
    assert all(same(a.terms | a.stats, b.terms | b.stats) for a, b in zip(hidden, shown, strict=True))


def test_the_generator_alone_decides(build, run, labelled, unlabelled):
    recipe = schema.LaserMix(confidence=0.3, num_areas=(3, 4, 5, 6))
    torch.manual_seed(1)
    first = run(build(recipe), labelled, unlabelled, 3, seed=0)
    torch.rand(7)  # the global generator has no say once the weights exist
    again = run(build(recipe), labelled, unlabelled, 3, seed=0)
    other = run(build(recipe), labelled, unlabelled, 3, seed=1)
    assert all(same(a.terms, b.terms) for a, b in zip(first, again, strict=True))
    assert not all(same(a.terms, b.terms) for a, b in zip(first, other, strict=True))


def test_ramp_up_reaches_both_unlabelled_terms(build, labelled, unlabelled):
    recipe = schema.LaserMix(confidence=0.3)
    full, ramped = (
        build(schema.LaserMix(**{**recipe.model_dump(), "ramp_up_ratio": ratio}))(
            labelled, unlabelled, 0.0, torch.Generator().manual_seed(0)
        ).terms
        for ratio in (0.0, 1.0)
    )
    for name, share in {"lovasz": 1.0, "mix_lovasz": 0.006738, "mix_cross_entropy": 0.006738}.items():
        torch.testing.assert_close(ramped[name], share * full[name], rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(ramped["consistency"], 0.006738 * full["consistency"], rtol=1e-4, atol=1e-6)


def test_extras_travel_through_the_step(build, labelled, unlabelled):
    carry = lambda batch: PointBatch(  # noqa: E731
        batch.points, batch.scan_idx, batch.labels, batch.num_scans, {"feature": torch.zeros(len(batch), 3)}
    )
    losses = build(schema.LaserMix())(carry(labelled), carry(unlabelled), 0.0, torch.Generator())
    assert torch.isfinite(losses.total)


@pytest.mark.parametrize(("model", "steps", "share_left"), [("fidnet", 60, 0.5), ("minkunet", 12, 0.8)])
def test_learns_with_every_model(build, run, labelled, unlabelled, model, steps, share_left):
    method = build(schema.LaserMix(confidence=0.8, consistency_weight=10.0, ema_decay=0.9), model)
    said = run(method, labelled, unlabelled, steps)
    supervised = [losses.terms["cross_entropy"] + losses.terms["lovasz"] for losses in said]
    assert supervised[-1] < share_left * supervised[0]
    assert all(torch.isfinite(losses.total) for losses in said)
    assert all(parameter.grad is not None for parameter in method.student.parameters())
