"""A toy small enough for a test: the claims hold on it, and are not those of any numbers."""

import pytest

from tests.bench.toy_distillation import LOSSES, broken_claims, cluster_points, plot, train

STEPS, POINTS = 250, 96


@pytest.fixture(scope="module")
def rows():
    return [{"clusters": 1, "loss": loss, "seed": 0, **train(1, loss, 0, STEPS, POINTS)} for loss in LOSSES]


def test_the_claims_of_the_paper_hold_on_one_cluster(rows):
    assert broken_claims(rows) == []


def test_a_contrastive_loss_that_kept_the_structure_would_be_found(rows):
    kept = [{**row, **({"U": row["source_U"]} if row["loss"] == "contrastive" else {})} for row in rows]
    assert broken_claims(kept)[0].startswith("contrastive moves U +0.00")


def test_clusters_are_unit_vectors_around_their_own_directions():
    points, labels = cluster_points(3, 300, 1)
    assert (points.norm(dim=1) - 1).abs().max() < 1e-5
    means = [points[labels == label].mean(dim=0) for label in range(3)]
    assert all(mean.norm() > 0.8 for mean in means)
    assert max(float(means[a] @ means[b]) for a, b in ((0, 1), (0, 2), (1, 2))) < 0.3


def test_a_plot_is_a_picture(rows, tmp_path):
    plot([*rows, *({**row, "clusters": 3} for row in rows)], tmp_path / "toy.png", 0)
    assert (tmp_path / "toy.png").read_bytes().startswith(b"\x89PNG")
