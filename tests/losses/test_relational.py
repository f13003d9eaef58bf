import math

import pytest
import torch
from torch.nn import functional

from ray_lidarseg.losses.relational import cross_modal, intra_modal, similarity
from ray_lidarseg.losses.row_blocks import paired_rows


def rows(count: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return functional.normalize(torch.randn(count, 5, generator=generator, dtype=torch.float64))


def slow(points, images, relation, is_cross, temperature=0.07):
    """The definitions, pair by pair."""
    count = len(points)
    others = images if is_cross else points
    diagonal = sum(1 - points[i] @ images[i] for i in range(count)) / count
    if relation in ("l1", "mse"):
        size = abs if relation == "l1" else (lambda value: value**2)
        difference = [[size(points[i] @ others[j] - images[i] @ images[j]) for j in range(count)] for i in range(count)]
        off = sum(difference[i][j] for i in range(count) for j in range(count) if i != j) / (count * (count - 1))
        return off + (sum(difference[i][i] for i in range(count)) / count if is_cross else 0)
    if relation == "kl":
        total = 0.0
        for i in range(count):
            rest = [j for j in range(count) if j != i]
            wanted = torch.stack([images[i] @ images[j] for j in rest]).div(temperature).softmax(0)
            given = torch.stack([points[i] @ others[j] for j in rest]).div(temperature).softmax(0)
            total = total + (wanted * (wanted / given).log()).sum()
        return total / count + (diagonal if is_cross else 0)
    if is_cross:
        return diagonal
    distances = [torch.stack([(a - b).norm() for i, a in enumerate(x) for j, b in enumerate(x) if i != j])
                 for x in (points, images)]  # fmt: skip
    total = functional.smooth_l1_loss(*(part / part.mean() for part in distances))
    angles = [
        torch.stack([_angle(x, i, j, k) for i in range(count) for j in range(count) for k in range(count)])
        for x in (points, images)
    ]
    return total + 2 * functional.smooth_l1_loss(*angles)


def _angle(x, i, j, k):
    if i in (j, k):
        return x.new_zeros(())
    one, other = x[j] - x[i], x[k] - x[i]
    return one @ other / (one.norm() * other.norm())


@pytest.mark.parametrize("relation", ["l1", "mse", "kl", "rkd"])
@pytest.mark.parametrize("is_cross", [True, False])
def test_value_and_gradient_are_those_of_the_definition(relation, is_cross):
    free, images = rows(7, 0).requires_grad_(), rows(7, 1)
    points = functional.normalize(free)  # lengths are given: a gradient along them says nothing
    found = (cross_modal if is_cross else intra_modal)(paired_rows(points, images), relation)
    expected = slow(points, images, relation, is_cross)
    torch.testing.assert_close(found, expected)
    gradients = [torch.autograd.grad(loss, free, retain_graph=True)[0] for loss in (found, expected)]
    torch.testing.assert_close(*gradients)


def test_by_hand():
    points, images = torch.tensor([[1.0, 0.0], [1.0, 0.0]]), torch.eye(2)
    pairs = paired_rows(points, images)
    # K Qᵀ = [[1, 0], [1, 0]], Q Qᵀ = I: C = [[0, 0], [1, 1]]; K Kᵀ is 1 everywhere
    assert float(cross_modal(pairs)) == pytest.approx(1 / 2 + 1 / 2)
    assert float(intra_modal(pairs)) == pytest.approx(1.0)
    assert float(similarity(pairs)) == pytest.approx(1 / 2)
    assert float(similarity(pairs, "l2")) == pytest.approx(math.sqrt(2) / 2)


def test_the_diagonal_is_the_similarity_loss_and_equal_features_have_none():
    points, images = rows(8, 2), rows(8, 3)
    pairs = paired_rows(points, images)
    off = (points @ images.T - images @ images.T).abs()
    off_mean = (off.sum() - off.diagonal().sum()) / (8 * 7)
    torch.testing.assert_close(cross_modal(pairs) - off_mean, similarity(pairs))
    same = paired_rows(images, images)
    for relation in ("l1", "mse", "kl", "rkd"):
        assert float(cross_modal(same, relation)) == pytest.approx(0, abs=1e-12)
        assert float(intra_modal(same, relation)) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("relation", ["l1", "mse", "kl", "rkd"])
def test_relations_within_points_do_not_see_a_rotation_and_those_across_do(relation):
    points, images = rows(8, 4), rows(8, 5)
    turn, _ = torch.linalg.qr(torch.randn(5, 5, generator=torch.Generator().manual_seed(6), dtype=torch.float64))
    turned = paired_rows(points @ turn, images)
    straight = paired_rows(points, images)
    torch.testing.assert_close(intra_modal(turned, relation), intra_modal(straight, relation))
    assert abs(float(cross_modal(turned, relation) - cross_modal(straight, relation))) > 1e-3


def test_equal_rows_have_finite_gradients():
    points = torch.ones(3, 2, dtype=torch.float64).div(math.sqrt(2)).requires_grad_()
    pairs = paired_rows(points, torch.ones(3, 2, dtype=torch.float64) / math.sqrt(2))
    for loss in (intra_modal(pairs, "rkd"), similarity(pairs, "l2"), intra_modal(pairs)):
        (gradient,) = torch.autograd.grad(loss, points, retain_graph=True)
        assert torch.isfinite(gradient).all()
