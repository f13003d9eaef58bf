import pytest
import torch

from ray_lidarseg.losses.consistency import consistency
from ray_lidarseg.losses.lovasz import lovasz_softmax
from ray_lidarseg.losses.softmax import class_probabilities
from ray_lidarseg.methods.pseudo_label import pseudo_labels


def test_half_precision_is_raised_and_double_is_kept():
    assert class_probabilities(torch.zeros(1, 4, dtype=torch.bfloat16)).dtype == torch.float32
    assert class_probabilities(torch.zeros(1, 4, dtype=torch.float64)).dtype == torch.float64
    assert class_probabilities(torch.zeros(1, 4)).tolist() == [[0.25] * 4]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_losses_of_half_precision_scores_are_those_of_the_same_scores_in_float32(dtype):
    generator = torch.Generator().manual_seed(0)
    logits, other = torch.randn(2, 50, 4, generator=generator).to(dtype)
    targets = torch.randint(4, (50,), generator=generator)
    assert torch.equal(lovasz_softmax(logits, targets), lovasz_softmax(logits.float(), targets))
    assert torch.equal(consistency(logits, other), consistency(logits.float(), other.float()))


def test_a_threshold_close_to_one_is_honoured_in_bfloat16():
    logits = torch.tensor([[6.5, 0.0]], dtype=torch.bfloat16)  # 0.9985: 1.0 in bfloat16
    assert pseudo_labels(logits, 0.998).tolist() == [0]
    assert pseudo_labels(logits, 0.999).tolist() == [255]
