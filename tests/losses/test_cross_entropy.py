import math

import pytest
import torch

from ray_lidarseg.losses.cross_entropy import cross_entropy
from ray_lidarseg.types import IGNORE


def test_by_hand():
    logits = torch.tensor([[0.0, 0.0], [math.log(3.0), 0.0], [9.0, -9.0]])
    targets = torch.tensor([0, 1, IGNORE])
    assert float(cross_entropy(logits, targets)) == pytest.approx((math.log(2) + math.log(4)) / 2)


def test_over_all_cells_ignored_ones_count_in_the_denominator():
    logits = torch.tensor([[0.0, 0.0], [math.log(3.0), 0.0], [9.0, -9.0], [1.0, 1.0]])
    targets = torch.tensor([0, 1, IGNORE, IGNORE])
    assert float(cross_entropy(logits, targets, over_all=True)) == pytest.approx((math.log(2) + math.log(4)) / 4)


def test_ignored_cells_have_no_say():
    logits = torch.randn(20, 5, generator=torch.Generator().manual_seed(0))
    targets = torch.arange(20) % 5
    targets[10:] = IGNORE
    torch.testing.assert_close(cross_entropy(logits, targets), cross_entropy(logits[:10], targets[:10]))


@pytest.mark.parametrize("num_cells", [0, 7])
def test_nothing_left_is_zero_with_a_graph(num_cells):
    logits = torch.randn(num_cells, 3).requires_grad_()
    loss = cross_entropy(logits, torch.full((num_cells,), IGNORE))
    loss.backward()
    assert loss.item() == cross_entropy(logits, torch.full((num_cells,), IGNORE), over_all=True).item() == 0.0
    assert torch.equal(logits.grad, torch.zeros(num_cells, 3))


def test_an_id_beyond_the_head_is_refused():
    with pytest.raises(IndexError):
        cross_entropy(torch.zeros(2, 3), torch.tensor([0, 3]))
