import math

import pytest
import torch

from ray_lidarseg.losses.consistency import consistency


def test_by_hand():
    student = torch.tensor([[0.0, 0.0], [math.log(3.0), 0.0]])  # softmax 1/2 1/2 and 3/4 1/4
    teacher = torch.tensor([[math.log(3.0), 0.0], [math.log(3.0), 0.0]])  # 3/4 1/4 twice
    assert float(consistency(student, teacher)) == pytest.approx((2 * 0.25**2 + 0) / 4)


def test_gradient_reaches_the_student_only():
    student, teacher = torch.randn(2, 5, 3).unbind()
    student, teacher = student.requires_grad_(), teacher.requires_grad_()
    consistency(student, teacher).backward()
    assert student.grad.abs().sum() > 0
    assert teacher.grad is None


def test_agreement_is_zero_whatever_the_offset_of_the_scores():
    logits = torch.randn(9, 4)
    assert float(consistency(logits, logits + 5.0)) == pytest.approx(0.0, abs=1e-12)


def test_without_cells_it_is_zero_with_a_graph():
    student = torch.zeros(0, 4, requires_grad=True)
    loss = consistency(student, torch.zeros(0, 4))
    loss.backward()
    assert loss.item() == 0.0
