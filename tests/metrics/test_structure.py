import math

import numpy as np
import pytest
import torch
from torch.nn import functional

from ray_lidarseg.metrics.structure import (
    FeatureReservoir,
    Structure,
    alignment_gap,
    modality_gap,
    tolerance,
    uniformity,
)


def von_mises_fisher(kappa: float, count: int, seed: int = 0) -> torch.Tensor:
    """Unit vectors in space around z, by the closed inverse of the height's distribution."""
    rng = np.random.default_rng(seed)
    height = 1 + np.log(rng.uniform(size=count) * (1 - math.exp(-2 * kappa)) + math.exp(-2 * kappa)) / kappa
    angle, radius = rng.uniform(0, 2 * math.pi, count), np.sqrt(1 - height**2)
    return torch.tensor(np.stack([radius * np.cos(angle), radius * np.sin(angle), height], axis=1))


def rows(count: int, seed: int = 0) -> torch.Tensor:
    return functional.normalize(torch.randn(count, 4, generator=torch.Generator().manual_seed(seed)))


def test_a_cluster_whose_values_are_known():
    """Exact integration at κ = 5.3 gives U = 0.896 and T = 0.658: the paper's toy source."""
    cluster = von_mises_fisher(5.3, 20_000)
    assert uniformity(cluster.float()) == pytest.approx(0.896, abs=0.02)
    assert tolerance(cluster, torch.zeros(20_000, dtype=torch.int64)) == pytest.approx(0.658, abs=0.01)


def test_by_hand():
    features = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]])  # squared distances 2, 0, 2
    assert uniformity(features) == pytest.approx(-math.log((2 * math.exp(-4) + 1) / 3))
    assert tolerance(features, torch.tensor([0, 0, 0])) == pytest.approx(1 / 3)
    assert tolerance(features, torch.tensor([5, 2, 5])) == pytest.approx(1.0)
    assert modality_gap(features, -features) == pytest.approx(2 * math.hypot(2 / 3, 1 / 3))
    assert alignment_gap(features, features.flip(1)) == pytest.approx(1.0)
    assert math.isnan(uniformity(features[:1]))
    assert math.isnan(tolerance(features, torch.tensor([0, 1, 2])))


def test_tolerance_is_the_mean_over_all_pairs_of_a_class():
    features, labels = rows(40).double(), torch.arange(40) % 3
    pairs = [
        features[i] @ features[j] for i in range(40) for j in range(40) if i != j and int(labels[i]) == int(labels[j])
    ]
    assert tolerance(features, labels) == pytest.approx(float(torch.stack(pairs).mean()), rel=1e-12)


def test_uniformity_sees_neither_rotation_nor_blocks(monkeypatch):
    features = functional.normalize(rows(50).double())
    turn, _ = torch.linalg.qr(rows(4, 1).double())
    expected = uniformity(features)
    assert uniformity(features @ turn) == pytest.approx(expected, rel=1e-12)
    monkeypatch.setattr("ray_lidarseg.metrics.structure._BLOCK_PAIRS", 120)
    assert uniformity(features) == pytest.approx(expected, rel=1e-12)
    pairs = [math.exp(-2 * float((a - b).square().sum())) for i, a in enumerate(features) for b in features[i + 1 :]]
    assert expected == pytest.approx(-math.log(sum(pairs) / len(pairs)), rel=1e-12)


def _frames(count: int):
    return [(f"f{i}", 3 * rows(30, i), rows(30, 100 + i), torch.arange(30) % 4) for i in range(count)]


def _filled(frames, per_class: int = 8) -> FeatureReservoir:
    reservoir = FeatureReservoir(3, per_class, seed=1)  # class 3 is none of its classes
    for frame in frames:
        reservoir.add(*frame)
    return reservoir


def test_reservoirs_of_parts_merge_into_that_of_the_whole_in_any_order():
    frames = _frames(6)
    whole = _filled(frames)
    merged = _filled(frames[4:]).merge(_filled([])).merge(_filled(frames[:4][::-1]))
    for one, other in zip(whole.sample(), merged.sample(), strict=True):
        assert torch.equal(one, other)
    assert whole.structure() == merged.structure()
    assert whole.structure().counts == (8, 8, 8)
    points, images, _ = whole.sample()
    torch.testing.assert_close(points.norm(dim=1), torch.ones(24))
    assert not torch.equal(points, images)


def test_frames_whose_names_end_alike_have_draws_of_their_own():
    rows = torch.eye(30)
    frames = [(f"{name}/0000-lidar-top", rows, rows, torch.zeros(30, dtype=torch.int64)) for name in "abc"]
    drawn = [set(_filled([frame]).sample()[0].argmax(dim=1).tolist()) for frame in frames]
    assert drawn[0] != drawn[1] != drawn[2] != drawn[0]
    merged = _filled(frames[2:]).merge(_filled(frames[:2][::-1]))
    assert all(torch.equal(*pair) for pair in zip(_filled(frames).sample(), merged.sample(), strict=True))


def test_a_rare_class_brings_what_it_has_and_the_draw_is_fair():
    reservoir = _filled(_frames(2), per_class=1000)
    assert reservoir.structure().counts == (16, 16, 14)
    counts = np.zeros(20)
    for seed in range(400):
        small = FeatureReservoir(1, 5, seed)
        values = torch.nn.functional.one_hot(torch.arange(20), 20).float()
        small.add("a", values, values, torch.zeros(20, dtype=torch.int64))
        counts += small.sample()[0].sum(dim=0).numpy()
    assert abs(counts / 400 - 0.25).max() < 0.1  # each of 20 is among 5 in a quarter of the draws


def test_nothing_kept_has_no_structure():
    reservoir = FeatureReservoir(3)
    assert reservoir.structure() is None
    assert len(reservoir.sample()[2]) == 0
    reservoir.add("f", torch.zeros(2, 4), torch.zeros(2, 4), torch.tensor([255, 255]))
    assert reservoir.structure() is None


def test_the_structural_gap_adds_both_differences():
    assert Structure(1.4, 0.6, 1.5, 0.7, 0.0, 0.0, ()).structural_gap == pytest.approx(0.2)
