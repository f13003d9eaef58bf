import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ray_lidarseg.losses.lovasz import lovasz_softmax
from ray_lidarseg.types import IGNORE

CERTAIN = 1e4


def random_cells(num_cells: int, num_classes: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(num_cells, num_classes, generator=generator, dtype=torch.float64)
    targets = torch.randint(num_classes + 1, (num_cells,), generator=generator)
    return logits, torch.where(targets == num_classes, IGNORE, targets)


def jaccard_loss(wrong: set[int], target: set[int]) -> float:
    """1 - |y ∩ ŷ| / |y ∪ ŷ| of the prediction that is wrong at exactly the cells ``wrong``."""
    predicted = target ^ wrong
    return 1.0 - len(target & predicted) / len(target | predicted)


def slow_lovasz(logits: torch.Tensor, targets: torch.Tensor) -> float:
    """The Lovász extension by its definition, set by set: Σ m_(k) (Δ({worst k}) - Δ({worst k - 1}))."""
    used = [i for i, target in enumerate(targets.tolist()) if target != IGNORE]
    probability = logits.softmax(1).tolist()
    losses = []
    for c in sorted({int(targets[i]) for i in used}):
        target = {i for i in used if targets[i] == c}
        error = {i: 1 - probability[i][c] if i in target else probability[i][c] for i in used}
        worst = sorted(used, key=lambda i: -error[i])
        chain = [jaccard_loss(set(worst[:k]), target) for k in range(len(worst) + 1)]
        losses.append(sum(error[i] * (b - a) for i, (a, b) in zip(worst, itertools.pairwise(chain), strict=True)))
    return sum(losses) / len(losses) if losses else 0.0


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 25), st.integers(2, 5), st.integers(0, 10_000))
def test_parity_with_the_definition(num_cells, num_classes, seed):
    logits, targets = random_cells(num_cells, num_classes, seed)
    assert float(lovasz_softmax(logits, targets)) == pytest.approx(slow_lovasz(logits, targets), abs=1e-6)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 40), st.integers(2, 5), st.integers(0, 10_000))
def test_is_the_jaccard_loss_where_predictions_are_certain(num_cells, num_classes, seed):
    logits, targets = random_cells(num_cells, num_classes, seed)
    predicted = logits.argmax(1)
    one_hot = CERTAIN * torch.nn.functional.one_hot(predicted, num_classes).double()
    used = targets != IGNORE
    ious = [
        ((predicted == c) & (targets == c)).sum() / (((predicted == c) & used) | (targets == c)).sum()
        for c in targets[used].unique()
    ]
    expected = 1 - sum(float(iou) for iou in ious) / len(ious) if ious else 0.0
    assert float(lovasz_softmax(one_hot, targets)) == pytest.approx(expected, abs=1e-6)


def test_by_hand():
    # One class of two cells, errors 0.25 (target) and 0.75 (not): order is the second, then the first.
    # J of {second wrong} = 1 - 1/2; J of both wrong = 1 - 0/2. Loss = 0.75 · 0.5 + 0.25 · 0.5.
    probability = torch.tensor([[0.75, 0.25], [0.75, 0.25]], dtype=torch.float64)
    only_first = torch.tensor([0, 1])
    # Class 1: errors 0.25 (not target) and 0.75 (target): the second alone wrong is J = 1, so the loss is 0.75.
    assert float(lovasz_softmax(probability.log(), only_first)) == pytest.approx((0.5 + 0.75) / 2)


def test_gradient_is_the_numerical_one():
    logits, targets = random_cells(12, 3, seed=1)
    assert torch.autograd.gradcheck(lambda x: lovasz_softmax(x, targets), logits.requires_grad_(), eps=1e-7, atol=1e-5)


def test_classes_absent_from_the_truth_do_not_dilute():
    logits = torch.tensor([[3.0, 1.0], [2.0, 0.0]])
    more_classes = torch.cat([logits, torch.full((2, 6), -CERTAIN)], dim=1)
    targets = torch.tensor([0, 1])
    torch.testing.assert_close(lovasz_softmax(more_classes, targets), lovasz_softmax(logits, targets))


def test_bounds():
    targets = torch.tensor([0, 1, 2, 0])
    right = CERTAIN * torch.nn.functional.one_hot(targets, 3).float()
    assert float(lovasz_softmax(right, targets)) == 0.0
    assert float(lovasz_softmax(right.roll(1, dims=1), targets)) == 1.0


@pytest.mark.parametrize("num_cells", [0, 7])
def test_nothing_left_is_zero_with_a_graph(num_cells):
    logits = torch.randn(num_cells, 3).requires_grad_()
    loss = lovasz_softmax(logits, torch.full((num_cells,), IGNORE))
    loss.backward()
    assert loss.item() == 0.0
    assert torch.equal(logits.grad, torch.zeros(num_cells, 3))


@pytest.mark.parametrize("num_cells", [1, 7, 3000])
def test_float32_on_a_cpu_is_the_general_form(num_cells):
    logits, targets = random_cells(num_cells, 4, seed=3)
    targets[targets == 2] = 1  # one class is absent
    results = []
    for scores in (logits.float().requires_grad_(), logits.clone().requires_grad_()):
        loss = lovasz_softmax(scores, targets)
        results.append((loss.detach(), *torch.autograd.grad(loss, scores)))
    for value, expected in zip(*results, strict=True):
        torch.testing.assert_close(value.double(), expected, rtol=1e-4, atol=1e-6)


def test_a_score_that_is_no_number_is_not_lost():
    logits, targets = random_cells(20, 3, seed=5)
    logits[4] = torch.nan
    targets[4] = 0
    assert lovasz_softmax(logits.float(), targets).isnan()


def test_float32_on_a_cpu_is_the_general_form_across_blocks():
    logits, targets = random_cells(70_001, 3, seed=7)  # more than two blocks, the last of them small
    results = []
    for scores in (logits.float().requires_grad_(), logits.clone().requires_grad_()):
        loss = lovasz_softmax(scores, targets)
        results.append((loss.detach(), *torch.autograd.grad(2 * loss, scores)))
    (value, gradient), (expected, expected_gradient) = results
    assert float(value) == pytest.approx(float(expected), abs=1e-6)
    assert float((gradient - expected_gradient).norm() / expected_gradient.norm()) < 1e-3
