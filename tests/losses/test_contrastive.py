import math

import pytest
import torch
from torch.nn import functional

from ray_lidarseg.losses.contrastive import info_nce, row_quantile, tolerant_info_nce
from ray_lidarseg.losses.row_blocks import paired_rows


def rows(count: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return functional.normalize(torch.randn(count, 5, generator=generator, dtype=torch.float64))


def slow_tolerant(points, images, temperature, min_quantile, max_quantile, drop, balanced):
    """The definition, anchor by anchor."""
    cosine = images @ images.T
    alike = torch.stack([sum(value for value in row.clamp(0, 1) if value >= 0.5) for row in cosine])
    weight = 1 - (alike - alike.min()) / alike.max() if balanced else torch.ones(len(points))
    losses = []
    for i, point in enumerate(points):
        distance = 1 - cosine[i].clamp(0, 1)
        low, high = torch.quantile(distance, min_quantile), torch.quantile(distance, max_quantile)
        total = 0.0
        for j, image in enumerate(images):
            is_kept = j == i or low <= distance[j] <= high
            if is_kept or drop == "zero_logit":
                total = total + ((point @ image / temperature).exp() if is_kept else 1.0)
        losses.append(-(point @ images[i]) / temperature + torch.log(total))
    return (weight * torch.stack(losses)).sum() / weight.sum()


def test_by_hand():
    points, images = torch.eye(2), torch.tensor([[1.0, 0.0], [0.6, 0.8]])
    # logits [1, .6] and [0, .8] over 0.5: one anchor each
    first = -2 + math.log(math.exp(2) + math.exp(1.2))
    second = -1.6 + math.log(1 + math.exp(1.6))
    assert float(info_nce(paired_rows(points, images), 0.5)) == pytest.approx((first + second) / 2)


@pytest.mark.parametrize("drop", ["zero_logit", "mask"])
@pytest.mark.parametrize("balanced", [True, False])
@pytest.mark.parametrize("quantiles", [(0.3, 1.0), (0.2, 0.7)])
def test_the_tolerant_loss_is_that_of_its_definition(drop, balanced, quantiles):
    points, images = rows(9, 0).requires_grad_(), rows(9, 1)
    found = tolerant_info_nce(paired_rows(points, images), 0.2, *quantiles, drop, balanced)
    (gradient,) = torch.autograd.grad(found, points)
    expected = slow_tolerant(points, images, 0.2, *quantiles, drop, balanced)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(gradient, torch.autograd.grad(expected, points)[0])


@pytest.mark.parametrize("count", [1, 2, 3, 5, 50, 101, 2001])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_quantiles_of_rows_are_torchs_to_the_bit(count, dtype):
    values = torch.rand(7, count, generator=torch.Generator().manual_seed(count), dtype=dtype)
    for share in (0.0, 0.01, 0.02, 0.3, 0.5, 0.77, 0.99, 1.0):
        assert torch.equal(row_quantile(values, share), values.quantile(share, dim=1, keepdim=True))


@pytest.mark.parametrize("drop", ["zero_logit", "mask"])
def test_with_nothing_dropped_and_no_balance_it_is_info_nce(drop):
    points, images = rows(12, 2).requires_grad_(), rows(12, 3)
    tolerant = tolerant_info_nce(paired_rows(points, images), 0.07, 0.0, drop=drop, balanced=False)
    plain = info_nce(paired_rows(points, images), 0.07)
    torch.testing.assert_close(tolerant, plain)
    gradients = [torch.autograd.grad(loss, points)[0] for loss in (tolerant, plain)]
    torch.testing.assert_close(*gradients)


def test_a_twin_of_the_anchor_is_not_pushed_away():
    images = functional.normalize(torch.tensor([[1.0, 0.0], [1.0, 0.01], [0.0, 1.0]]))
    points = images.clone().requires_grad_()
    pairs = paired_rows(points, images)
    (strict,) = torch.autograd.grad(info_nce(pairs), points)
    (tolerant,) = torch.autograd.grad(tolerant_info_nce(pairs, min_quantile=0.6, balanced=False), points)
    pushed = lambda gradient: float(gradient[0] @ images[1])  # noqa: E731 (positive: descent moves it away)
    assert pushed(strict) > pushed(tolerant)


def test_identical_images_weigh_alike():
    images = torch.tensor([[1.0, 0.0]] * 3)
    points = functional.normalize(torch.tensor([[1.0, 0.2], [1.0, -0.4], [0.3, 1.0]]))
    pairs = paired_rows(points, images)
    torch.testing.assert_close(tolerant_info_nce(pairs, min_quantile=0.0), info_nce(pairs))
