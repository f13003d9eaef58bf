import math
import os
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
import torch.distributed as dist
from torch.nn import functional
from torch.nn.parallel import DistributedDataParallel

from ray_lidarseg.errors import RecipeError
from ray_lidarseg.geometry.mixing import mix_pairs
from ray_lidarseg.methods.build import build_method
from ray_lidarseg.methods.lasermix_pp import LaserMixPP, _sure
from ray_lidarseg.models.fidnet import FIDNet
from ray_lidarseg.recipe import schema
from ray_lidarseg.sample import PointBatch, SensorSpec
from ray_lidarseg.types import IMAGE_FEATURES, IMAGE_SEGMENT, LANGUAGE_LOGITS

SENSOR = SensorSpec(16, math.radians(10.0), math.radians(-30.0), 1.0, 50.0, 1.0)
EVIDENCE_DIM, NUM_CLASSES = 6, 4
PLAIN = {"confidence": 0.3, "num_areas": (4, 5)}
NOTHING = {"distillation_weight": 0.0, "language_weight": 0.0}


def with_evidence(batch: PointBatch, truth: torch.Tensor, paired_ratio: float = 0.7, seed: int = 0) -> PointBatch:
    """Per class one feature direction and CLIP-like cosines around 0.2, every paired point on a segment of its own."""
    generator = torch.Generator().manual_seed(seed)
    truth = truth.clamp(max=NUM_CLASSES - 1)
    has_segment = torch.rand(len(batch), generator=generator) < paired_ratio
    table = torch.randn(NUM_CLASSES, EVIDENCE_DIM, generator=torch.Generator().manual_seed(99))
    features = functional.normalize(table[truth] + 0.05 * torch.randn(len(batch), EVIDENCE_DIM, generator=generator))
    noise = 0.01 * torch.randn(len(batch), NUM_CLASSES, generator=generator)
    logits = 0.2 + 0.05 * functional.one_hot(truth, NUM_CLASSES) + noise
    segment = torch.where(has_segment, 1 + torch.arange(len(batch)), 0)
    nothing = (0, 0, 1, 0)
    segments = {
        IMAGE_FEATURES: functional.pad(features, nothing).half(),
        LANGUAGE_LOGITS: functional.pad(logits, nothing).half(),
    }
    return replace(batch, extras={IMAGE_SEGMENT: segment}, segments=segments)


def is_paired(batch: PointBatch) -> torch.Tensor:
    return batch.extras[IMAGE_SEGMENT] > 0


def make(method: schema.Supervised, evidence_dim: int = EVIDENCE_DIM) -> LaserMixPP:
    torch.manual_seed(0)
    model = schema.FIDNet(height_px=16, width_px=64, width_factor=0.125, blocks=(1, 1, 1, 1))
    data = schema.Data(evidence="auto", evidence_dim=evidence_dim)
    return build_method(schema.Recipe(model=model, method=method, data=data), SENSOR, NUM_CLASSES).train()


@pytest.fixture
def seen_l(labelled) -> PointBatch:
    return with_evidence(labelled, labelled.labels)


@pytest.fixture
def seen_u(unlabelled) -> PointBatch:
    return with_evidence(unlabelled, torch.arange(len(unlabelled)) % NUM_CLASSES, seed=1)


def says(method, labelled, unlabelled, progress=0.0):
    return method(labelled, unlabelled, progress, torch.Generator().manual_seed(5))


@pytest.mark.parametrize("rule", ["average", "own"])
@pytest.mark.parametrize("mixing", [{}, {"mix_weight": 0.0}, {"consistency_weight": 0.0}])
def test_weights_of_zero_are_lasermix_bit_for_bit(run, seen_l, seen_u, rule, mixing):
    plain = make(schema.LaserMix(**PLAIN, **mixing, ema_buffers=rule), 0)
    ours = make(schema.LaserMixPP(**PLAIN, **mixing, **NOTHING, ema_buffers=rule), 0)
    expected, said = run(plain, seen_l, seen_u, 3), run(ours, seen_l, seen_u, 3)
    for a, b in zip(said, expected, strict=True):
        assert a.terms.keys() == b.terms.keys()
        assert all(torch.equal(a.terms[name], b.terms[name]) for name in b.terms)
        assert a.stats.keys() == b.stats.keys()
    assert ours.state_dict().keys() == plain.state_dict().keys()
    assert all(torch.equal(value, plain.state_dict()[name]) for name, value in ours.state_dict().items())
    assert ours.extras == frozenset()


@pytest.mark.parametrize("temperature", [0.0, 0.01])
def test_under_bf16_float16_evidence_is_read_and_mixed(seen_l, seen_u, temperature):
    weights = {"distillation_weight": 1.0, "language_weight": 1.0, "multimodal_mix_weight": 1.0}
    method = make(schema.LaserMixPP(**{**PLAIN, "confidence": 0.0}, **weights, language_temperature=temperature))
    whole = says(method, seen_l, seen_u).terms
    with torch.autocast("cpu", torch.bfloat16):
        half = says(method, seen_l, seen_u).total
    half.backward()
    assert half.item() == pytest.approx(sum(value.item() for value in whole.values()), rel=0.05)
    assert all(parameter.grad is not None for parameter in method.head.parameters())
    assert {"distillation", "language", "mix_distillation", "mix_language"} <= whole.keys()


def test_balanced_guidance_counts_a_rare_class_like_a_common_one(seen_l, seen_u):
    recipe = schema.LaserMixPP(**PLAIN, distillation_weight=0.0, multimodal_mix_weight=0.0, language_balanced=True)
    method = make(recipe)
    with torch.no_grad():
        said = says(method, seen_l, seen_u).terms["language"]
        mask = is_paired(seen_u)
        scores, words = method.student(seen_u).point_logits[mask], seen_u.of_segments(LANGUAGE_LOGITS)[mask]
    named, (scores, words) = (
        words.argmax(1),
        (rows.float() - rows.float().mean(1, keepdim=True) for rows in (scores, words)),
    )
    classes = [cosine_by_hand(scores[named == c], words[named == c]) for c in named.unique()]
    assert float(said) == pytest.approx(sum(classes) / len(classes), rel=1e-3)
    assert len(classes) == NUM_CLASSES


def test_the_same_draws_whatever_the_weights(seen_l, seen_u):
    plain, ours = make(schema.LaserMix(**PLAIN)), make(schema.LaserMixPP(**PLAIN))
    generators = [torch.Generator().manual_seed(5) for _ in range(2)]
    expected = plain(seen_l, seen_u, 0.0, generators[0]).terms
    said = ours(seen_l, seen_u, 0.0, generators[1]).terms
    assert all(torch.equal(said[name], expected[name]) for name in expected)  # the first step, before weights differ
    assert torch.equal(*(torch.rand(3, generator=generator) for generator in generators))


def cosine_by_hand(values, targets) -> float:
    rows = [1 - torch.dot(v, t) / (v.norm() * t.norm()) for v, t in zip(values.float(), targets.float(), strict=True)]
    return float(sum(rows) / len(rows))


def test_terms_by_hand(seen_l, seen_u):
    method = make(schema.LaserMixPP(**PLAIN, distillation_weight=2.0, language_weight=3.0, multimodal_mix_weight=0.5))
    with torch.no_grad():
        terms = says(method, seen_l, seen_u).terms
        outputs = method.student(seen_l), method.student(seen_u)
        paired = [is_paired(batch) for batch in (seen_l, seen_u)]
        features = torch.cat([output.point_features[mask] for output, mask in zip(outputs, paired, strict=True)])
        images = torch.cat([b.of_segments(IMAGE_FEATURES)[m] for b, m in zip((seen_l, seen_u), paired, strict=True)])
        assert float(terms["distillation"]) == pytest.approx(
            2 * cosine_by_hand(method.head(features), images), rel=1e-4
        )
        scores, words = outputs[1].point_logits[paired[1]], seen_u.of_segments(LANGUAGE_LOGITS)[paired[1]].float()
        scores, words = scores - scores.mean(1, keepdim=True), words - words.mean(1, keepdim=True)
        assert float(terms["language"]) == pytest.approx(3 * cosine_by_hand(scores, words), rel=1e-4)
        pseudo = method.teacher(seen_u).point_logits.softmax(1).max(1)
        pseudo = torch.where(pseudo.values > 0.3, pseudo.indices, 255)
        generator = torch.Generator().manual_seed(5)
        mixed = mix_pairs(seen_l, seen_u.with_labels(pseudo), SENSOR, (4, 5), generator)
        output, mask = method.student(mixed), is_paired(mixed)
        images = mixed.of_segments(IMAGE_FEATURES)[mask]
        expected = 2 * 0.5 * cosine_by_hand(method.head(output.point_features[mask]), images)
        assert float(terms["mix_distillation"]) == pytest.approx(expected, rel=1e-4)
        scores, words = output.point_logits[mask], mixed.of_segments(LANGUAGE_LOGITS)[mask].float()
        scores, words = scores - scores.mean(1, keepdim=True), words - words.mean(1, keepdim=True)
        assert float(terms["mix_language"]) == pytest.approx(3 * 0.5 * cosine_by_hand(scores, words), rel=1e-4)


def test_switches_leave_terms_out(seen_l, seen_u):
    names = lambda **fields: set(says(make(schema.LaserMixPP(**PLAIN, **fields)), seen_l, seen_u).terms)  # noqa: E731
    plain = {"cross_entropy", "lovasz", "mix_cross_entropy", "mix_lovasz", "consistency"}
    ours = {"distillation", "language", "mix_distillation", "mix_language"}
    assert names() == plain | ours
    assert names(distillation_weight=0.0) == plain | {"language", "mix_language"}
    assert names(language_weight=0.0) == plain | {"distillation", "mix_distillation"}
    assert names(multimodal_mix_weight=0.0) == plain | {"distillation", "language"}
    assert names(unmixed_evidence_weight=0.0) == plain | {"mix_distillation", "mix_language"}
    assert names(multimodal_mix_weight=0.0, unmixed_evidence_weight=0.0) == plain
    assert names(mix_weight=0.0) == plain - {"mix_cross_entropy", "mix_lovasz"} | ours
    assert names(**NOTHING) == plain


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, {IMAGE_FEATURES, LANGUAGE_LOGITS, IMAGE_SEGMENT}),
        ({"language_weight": 0.0}, {IMAGE_FEATURES, IMAGE_SEGMENT}),
        ({"distillation_weight": 0.0}, {LANGUAGE_LOGITS, IMAGE_SEGMENT}),
    ],
)
def test_it_asks_for_exactly_the_extras_it_reads(seen_l, seen_u, fields, expected):
    method = make(schema.LaserMixPP(**PLAIN, **fields))
    assert method.extras == expected
    only = [
        replace(b, segments={name: rows for name, rows in b.segments.items() if name in expected})
        for b in (seen_l, seen_u)
    ]
    assert torch.equal(says(method, *only).total, says(method, seen_l, seen_u).total)


def test_a_forward_is_skipped_with_the_last_term_that_needs_it(seen_l, seen_u, monkeypatch):
    def forwards(**fields) -> list[int]:
        method, seen = make(schema.LaserMixPP(**PLAIN, **fields)), []
        forward = FIDNet.forward
        monkeypatch.setattr(
            FIDNet, "forward", lambda self, batch, *rest: seen.append(batch.num_scans) or forward(self, batch, *rest)
        )
        says(method, seen_l, seen_u)
        monkeypatch.undo()
        return seen

    assert forwards() == [2, 2, 4, 2, 2]  # student l, teacher u, student mixed, student u, teacher l
    assert forwards(consistency_weight=0.0) == [2, 2, 4, 2]
    assert forwards(consistency_weight=0.0, **NOTHING) == [2, 2, 4]
    assert forwards(consistency_weight=0.0, unmixed_evidence_weight=0.0) == [2, 2, 4]
    assert forwards(consistency_weight=0.0, mix_weight=0.0, multimodal_mix_weight=0.0) == [2, 2, 2]


def test_a_head_is_built_only_where_something_reads_the_evidence(seen_l, seen_u):
    nowhere = {"unmixed_evidence_weight": 0.0, "multimodal_mix_weight": 0.0}
    method = make(schema.LaserMixPP(**PLAIN, **nowhere))
    says(method, seen_l, seen_u).total.backward()  # DDP stops at the first parameter without a gradient
    assert all(parameter.grad is not None for parameter in method.parameters() if parameter.requires_grad)
    assert not hasattr(method, "head")
    for name in nowhere:
        assert hasattr(make(schema.LaserMixPP(**PLAIN, **{name: 0.0})), "head")


def test_the_terms_on_scans_as_they_are_have_a_weight_of_their_own(seen_l, seen_u):
    whole, half = (
        says(make(schema.LaserMixPP(**PLAIN, unmixed_evidence_weight=share)), seen_l, seen_u).terms
        for share in (1.0, 0.5)
    )
    for name in whole:
        share = 0.5 if name in ("distillation", "language") else 1.0
        assert half[name].item() == pytest.approx(share * whole[name].item(), rel=1e-5), name


def test_each_part_has_its_own_ramp(seen_l, seen_u):
    full = says(make(schema.LaserMixPP(**PLAIN)), seen_l, seen_u).terms
    ramps = {"distillation_ramp_up_ratio": 1.0, "language_ramp_up_ratio": 0.5, "multimodal_mix_ramp_up_ratio": 0.25}
    ramped = says(make(schema.LaserMixPP(**PLAIN, **ramps)), seen_l, seen_u, progress=0.125).terms
    shares = {
        "distillation": math.exp(-5 * 0.875**2),
        "language": math.exp(-5 * 0.75**2),
        "mix_distillation": math.exp(-5 * (0.875**2 + 0.5**2)),
        "mix_language": math.exp(-5 * (0.75**2 + 0.5**2)),
        "mix_cross_entropy": 1.0,
        "consistency": 1.0,
    }
    for name, share in shares.items():
        torch.testing.assert_close(ramped[name], share * full[name], rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("weights", [{}, {"language_weight": 0.0}, {"distillation_weight": 0.0}])
def test_without_a_paired_point_the_terms_are_zero_and_every_parameter_has_a_gradient(seen_l, seen_u, weights):
    method = make(schema.LaserMixPP(**PLAIN, **weights))
    blind = [with_evidence(batch, torch.zeros_like(batch.labels), paired_ratio=0.0) for batch in (seen_l, seen_u)]
    losses = says(method, *blind)
    assert all(float(losses.terms[name].detach()) == 0.0 for name in losses.terms if "dist" in name or "lang" in name)
    losses.total.backward()
    trained = [parameter for parameter in method.parameters() if parameter.requires_grad]
    assert all(parameter.grad is not None and torch.isfinite(parameter.grad).all() for parameter in trained)
    if hasattr(method, "head"):
        assert not method.head.weight.grad.any()
    assert float(losses.stats["paired_ratio"]) == 0.0


def test_zero_evidence_of_paired_points_gives_no_nan(seen_l, seen_u):
    method = make(schema.LaserMixPP(**PLAIN))
    zeros = lambda batch: {name: torch.zeros_like(rows) for name, rows in batch.segments.items()}  # noqa: E731
    empty = [replace(batch, segments=zeros(batch)) for batch in (seen_l, seen_u)]
    losses = says(method, *empty)
    losses.total.backward()
    assert float(losses.terms["distillation"].detach()) == pytest.approx(1.0)
    assert all(torch.isfinite(p.grad).all() for p in method.parameters() if p.requires_grad)


def test_empty_batches(seen_l, seen_u):
    nothing = [replace(batch.select(batch.scan_idx < 0), num_scans=0) for batch in (seen_l, seen_u)]
    losses = says(make(schema.LaserMixPP(**PLAIN)).eval(), *nothing)
    assert float(losses.total.detach()) == 0.0


def test_the_teacher_follows_without_gradient_and_the_head_stays_with_the_method(check_teacher, seen_l, seen_u):
    method = make(schema.LaserMixPP(**PLAIN, ema_decay=0.9))
    check_teacher(method, seen_l, seen_u)
    assert method.head.weight.grad.abs().sum() > 0
    assert {"head.weight", "head.bias"} <= set(method.state_dict())
    for segmentor in method.segmentors().values():
        assert set(segmentor.state_dict()) == set(make(schema.Supervised()).student.state_dict())


def test_language_switches(seen_l, seen_u):
    term = lambda **fields: float(  # noqa: E731
        says(make(schema.LaserMixPP(**PLAIN, **fields)), seen_l, seen_u).terms["language"].detach()
    )
    values = [term(), term(language_centred=False), term(language_temperature=0.01)]
    assert len({round(value, 4) for value in values}) == 3
    assert all(0 <= value <= 2 for value in values)


def test_what_is_missing_is_said_with_a_remedy(seen_l, seen_u):
    with pytest.raises(RecipeError, match=r"data.evidence_dim is 0: run `ray-lidarseg prepare` with --masks and --fea"):
        make(schema.LaserMixPP(), 0)
    method = make(schema.LaserMixPP())
    no_text = [replace(b, segments={IMAGE_FEATURES: b.segments[IMAGE_FEATURES]}) for b in (seen_l, seen_u)]
    with pytest.raises(RecipeError, match=r"no text embeddings.*--features clip.*method.language_weight=0"):
        says(method, *no_text)
    with pytest.raises(RecipeError, match=r"needs image_features, image_segment: set data.evidence"):
        says(make(schema.LaserMixPP(language_weight=0.0)), seen_l, replace(seen_u, extras={}, segments={}))


def test_evidence_terms_fall_and_language_teaches_the_unlabelled_scans(run, labelled, unlabelled):
    from tests.methods.conftest import scan

    truth = torch.cat([scan(2).labels, scan(3).labels])
    seen_l, seen_u = with_evidence(labelled, labelled.labels, 1.0), with_evidence(unlabelled, truth, 1.0, seed=1)
    recipe = schema.LaserMixPP(confidence=0.9, consistency_weight=0.0, cross_entropy_weight=0.0, lovasz_weight=0.0)
    method = make(recipe)  # no label is looked at: what it knows of classes comes from language alone
    said = run(method, seen_l, seen_u, 60)
    assert all(torch.isfinite(losses.total) for losses in said)
    for name in ("distillation", "language", "mix_distillation", "mix_language"):
        assert said[-1].terms[name] < 0.5 * said[0].terms[name]
    predicted = method.student(unlabelled).point_logits.argmax(dim=1)
    is_known = truth != 255
    assert (predicted == truth)[is_known].float().mean() > 0.8


def _rank(port: str, folder: str, number: str) -> None:
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=port)
    rank = int(number)
    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=rank, world_size=2)
    method = make(schema.LaserMixPP(**PLAIN))
    wrapped = DistributedDataParallel(method, broadcast_buffers=False)
    optimizer = torch.optim.SGD([p for p in method.parameters() if p.requires_grad], lr=0.1)
    for step in range(3):
        points = torch.randn(200, 4, generator=torch.Generator().manual_seed(10 * step + rank)) * 10
        scan = PointBatch.of_scan(points, torch.arange(200) % NUM_CLASSES)
        # only rank 0 has cameras, and in the last step no rank
        seen = with_evidence(scan, scan.labels, 0.5 if (rank, step) in ((0, 0), (0, 1)) else 0.0)
        losses = wrapped(seen, seen.unlabelled(), 0.0, torch.Generator().manual_seed(step))
        losses.total.backward()
        optimizer.step()
        optimizer.zero_grad()
        method.after_step(0.0)
    torch.save([p.detach() for p in method.parameters() if p.requires_grad], f"{folder}/{rank}.pt")
    dist.destroy_process_group()
    os._exit(0)  # no interpreter end: a thread of gloo that DDP started may ask it for the lock then, and aborts


def test_two_ranks_of_which_one_sees_no_pixel_do_not_hang(tmp_path):
    port = 40_000 + os.getpid() % 20_000
    ranks = [subprocess.Popen([sys.executable, __file__, str(port), str(tmp_path), str(rank)]) for rank in (0, 1)]
    try:
        assert [rank.wait(timeout=120) for rank in ranks] == [0, 0]
    finally:
        for rank in ranks:
            rank.kill()
    one, other = (torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1))
    assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))
    assert len(one) == len([p for p in make(schema.LaserMixPP()).parameters() if p.requires_grad])


if __name__ == "__main__":
    _rank(*sys.argv[1:])


def test_a_word_the_teacher_never_says_teaches_nothing_about_its_class(run, labelled, unlabelled, seen_l, seen_u):
    """CLIP calls every point of the last class by the first one's word: guidance would teach that it is the first."""

    def misnamed(batch: PointBatch, truth: torch.Tensor) -> PointBatch:
        named = torch.where(truth == NUM_CLASSES - 1, 0, torch.where(truth < NUM_CLASSES, truth, 0))
        words = functional.pad(functional.one_hot(named, NUM_CLASSES), (0, 0, 1, 0))
        return replace(batch, segments={LANGUAGE_LOGITS: words.half()})

    scans_l = misnamed(seen_l, labelled.labels)
    trusting = make(schema.LaserMixPP(distillation_weight=0.0))
    checking = make(schema.LaserMixPP(distillation_weight=0.0, language_reliable=True, language_min_recall=0.5))
    run(checking, scans_l, misnamed(seen_u, torch.arange(len(seen_u)) % NUM_CLASSES), 1)
    assert checking.words.known.tolist() == [True] * (NUM_CLASSES - 1) + [False]
    logits = torch.randn(len(scans_l), NUM_CLASSES, requires_grad=True)
    gradients = {}
    for name, method in (("trusting", trusting), ("checking", checking)):
        output = replace(method.student(scans_l), point_logits=logits)
        (gradients[name],) = torch.autograd.grad(method._language([(scans_l, output)]), logits)
    assert gradients["trusting"][:, -1].abs().max() > 0
    assert gradients["checking"][:, -1].abs().max() == 0
    words = scans_l.of_segments(LANGUAGE_LOGITS)
    first, second = (is_paired(scans_l) & (words.argmax(1) == number) for number in (0, 1))
    # the first word is right for some of its points only, the second for all of them
    assert (checking.words.weight(words)[first] < 1).all()
    assert (checking.words.weight(words)[second] == 1).all()


def test_the_least_certain_points_are_left_out():
    targets = torch.tensor([[0.9, 0.1], [0.5, 0.5], [0.4, 0.6], [0.0, 1.0]])
    assert _sure(targets, 0.5).tolist() == [1.0, 0.0, 0.0, 1.0]
    assert _sure(targets, 0.0).tolist() == [1.0] * 4
    assert _sure(targets[:0], 0.5).shape == (0,)
