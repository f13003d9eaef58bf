import math

import pytest
import torch

from ray_lidarseg.losses.alignment import centred, cosine_distance, projected_distance


def test_by_hand():
    values = torch.tensor([[1.0, 0.0], [0.0, 2.0], [3.0, 3.0], [1.0, 0.0]])
    targets = torch.tensor([[5.0, 0.0], [0.0, -1.0], [1.0, 0.0], [0.0, 1.0]])  # cosines 1, -1, √½, 0
    assert float(cosine_distance(values, targets)) == pytest.approx((0 + 2 + (1 - math.sqrt(0.5)) + 1) / 4)
    group = torch.tensor([3, 3, 0, 3])  # no point in groups 1 and 2
    by_group = ((0 + 2 + 1) / 3 + (1 - math.sqrt(0.5))) / 2
    assert float(cosine_distance(values, targets, group)) == pytest.approx(by_group)


def test_lengths_do_not_matter_and_half_precision_targets_do():
    values, targets = torch.randn(5, 7), torch.randn(5, 7)
    expected = (1 - torch.nn.functional.cosine_similarity(values, targets)).mean()
    torch.testing.assert_close(cosine_distance(100 * values, 0.5 * targets), expected)
    torch.testing.assert_close(cosine_distance(values, targets.half()), expected, atol=1e-3, rtol=0)
    assert cosine_distance(values.bfloat16(), targets.half()).dtype == torch.float32


@pytest.mark.parametrize("group", [None, torch.zeros(0, dtype=torch.int64)])
def test_nothing_to_compare_is_zero_with_a_zero_gradient(group):
    head = torch.nn.Linear(4, 2)
    loss = cosine_distance(head(torch.randn(0, 4)), torch.randn(0, 2), group)
    loss.backward()
    assert float(loss.detach()) == 0.0
    assert torch.equal(head.weight.grad, torch.zeros(2, 4))
    assert torch.equal(head.bias.grad, torch.zeros(2))


def test_zero_rows_have_cosine_zero_and_a_finite_gradient():
    values = torch.tensor([[0.0, 0.0], [1.0, 1.0]], requires_grad=True)
    loss = cosine_distance(values, torch.tensor([[1.0, 0.0], [0.0, 0.0]]))
    loss.backward()
    assert float(loss.detach()) == pytest.approx(1.0)
    assert torch.isfinite(values.grad).all()
    assert torch.equal(values.grad[1], torch.zeros(2))
    assert values.grad.abs().max() <= 1000


@pytest.mark.parametrize("length", [1.0, 1e-4])  # of a value: long enough to count, and too short
def test_the_gradient_is_that_of_the_formula(length):
    generator = torch.Generator().manual_seed(1)
    values, targets = torch.randn(2, 4, 5, generator=generator, dtype=torch.float64).unbind()
    values = (length * torch.nn.functional.normalize(values)).requires_grad_()
    assert torch.autograd.gradcheck(lambda v: cosine_distance(v, targets), values, eps=1e-7)
    half = values.detach().bfloat16().requires_grad_()
    cosine_distance(half, targets.half()).backward()
    cosine_distance(values, targets).backward()
    assert half.grad.dtype == torch.bfloat16
    assert (half.grad - values.grad).norm() < 0.02 * values.grad.norm()


def test_no_gradient_to_the_targets():
    values, targets = torch.randn(3, 2, requires_grad=True), torch.randn(3, 2, requires_grad=True)
    cosine_distance(values, targets).backward()
    assert targets.grad is None
    assert values.grad.abs().sum() > 0


def test_a_shared_offset_hides_the_class_until_it_is_subtracted():
    targets = torch.tensor([[0.24, 0.20, 0.20]])  # as CLIP's cosines: close together, far from zero
    wrong, constant = torch.tensor([[0.0, 8.0, 0.0]]), torch.tensor([[8.0, 8.0, 8.0]])
    assert float(cosine_distance(constant, targets)) < 0.01  # saying nothing is nearly perfect
    assert float(cosine_distance(centred(constant), centred(targets))) == pytest.approx(1.0)
    assert float(cosine_distance(centred(wrong), centred(targets))) == pytest.approx(1.5)  # correlation -1/2
    assert float(cosine_distance(centred(8 * targets), centred(targets))) == pytest.approx(0.0, abs=1e-5)


def test_centred_by_hand():
    assert centred(torch.tensor([[1.0, 2.0, 6.0]])).tolist() == [[-2.0, -1.0, 3.0]]
    assert centred(torch.ones(2, 3, dtype=torch.float16)).dtype == torch.float32


def test_weights_scale_points_and_not_the_mean():
    values, targets = torch.tensor([[1.0, 0.0], [1.0, 0.0]]), torch.tensor([[0.0, 1.0], [-1.0, 0.0]])  # 1 and 2
    assert float(cosine_distance(values, targets, weight=torch.tensor([0.5, 0.25]))) == pytest.approx(0.5)
    group = torch.tensor([0, 1])
    assert float(cosine_distance(values, targets, group, torch.tensor([1.0, 0.0]))) == pytest.approx(0.5)


def test_classes_that_do_not_count_are_zero_and_take_no_part_in_the_mean():
    scores = torch.tensor([[1.0, 3.0, 100.0]])
    assert centred(scores, torch.tensor([True, True, False])).tolist() == [[-1.0, 1.0, 0.0]]
    assert centred(scores, torch.tensor([False, False, False])).tolist() == [[0.0, 0.0, 0.0]]


def _projection(dtype: torch.dtype = torch.float32, num_points: int = 50) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(2)
    sizes = (num_points, 6), (40, 6), (40,), (7, 40)
    features, weight, bias, targets = (torch.randn(size, generator=generator, dtype=dtype) for size in sizes)
    return *(part.requires_grad_() for part in (features, weight, bias)), targets


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_projected_distance_is_that_of_the_projected_values_with_its_gradients(dtype):
    *learned, targets = _projection(dtype)
    row = torch.arange(50) % 7
    targets[3] = 0
    values = torch.nn.functional.linear(*learned)
    pairs = [projected_distance(*learned, targets, row), cosine_distance(values, targets[row])]
    torch.testing.assert_close(*pairs)
    torch.testing.assert_close(*(torch.autograd.grad(loss, learned) for loss in pairs), rtol=1e-4, atol=1e-6)


def test_a_projected_distance_is_computed_in_float32_whatever_comes():
    features, weight, bias, targets = _projection()
    row = torch.arange(50) % 7
    whole = projected_distance(features, weight, bias, targets.half(), row)
    with torch.autocast("cpu", torch.bfloat16):
        half = projected_distance(features.bfloat16(), weight, bias, targets.half(), row)
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, whole, atol=5e-3, rtol=0)


def test_projected_values_of_length_zero_and_no_points_at_all_have_finite_gradients():
    for num_points in (0, 5):
        features, weight, bias, targets = _projection(num_points=num_points)
        with torch.no_grad():
            weight.zero_()
            bias.zero_()
        loss = projected_distance(features, weight, bias, targets, torch.arange(num_points))
        loss.backward()
        assert float(loss.detach()) == pytest.approx(float(num_points > 0))
        assert all(torch.isfinite(part.grad).all() for part in (features, weight, bias))
        assert bool(weight.grad.any()) == (num_points > 0)
