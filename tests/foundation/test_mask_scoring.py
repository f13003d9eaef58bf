import pytest
import torch
from segment_anything.utils.amg import batched_mask_to_box, calculate_stability_score

from ray_lidarseg.foundation.mask_scoring import distinct, mask_boxes, measure, stability_scores


def ramp(*values: float) -> torch.Tensor:
    """One mask of one row."""
    return torch.tensor(values)[None, None]


def test_stability_by_hand():
    logits = ramp(-3, -0.5, 0.5, 2, 3)  # two above 1, four above -1
    assert stability_scores(logits, 1.0).tolist() == [0.5]


def test_mask_that_is_empty_even_below_has_no_stability():
    assert stability_scores(ramp(-5.0, -5.0), 1.0).tolist() == [0.0]


def test_box_by_hand():
    logits = torch.full((1, 6, 8), -1.0)
    logits[0, 2:4, 3:7] = 1.0
    assert mask_boxes(logits).tolist() == [[3, 2, 6, 3]]
    assert mask_boxes(torch.full((1, 6, 8), -1.0)).tolist() == [[0, 0, 0, 0]]


def test_measures_equal_segment_anythings():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(7, 12, 20, generator=generator).cumsum(1).cumsum(2) - 5
    identity = torch.eye(12), torch.eye(20)
    found = measure(logits, *identity, offset=0.7, masks_at_once=3)
    torch.testing.assert_close(found.stability, calculate_stability_score(logits, 0.0, 0.7).nan_to_num(0.0))
    assert found.boxes.tolist() == batched_mask_to_box(logits > 0).tolist()
    assert found.areas.tolist() == (logits > 0).flatten(1).sum(1).tolist()


def test_nothing_measured_of_nothing():
    found = measure(torch.zeros(0, 4, 4), torch.eye(4), torch.eye(4), 1.0, 8)
    assert (found.stability.shape, found.boxes.shape, found.areas.shape) == ((0,), (0, 4), (0,))


def test_better_of_two_overlapping_boxes_stays():
    boxes = torch.tensor([[0, 0, 10, 10], [0, 0, 10, 8], [0, 0, 10, 6]], dtype=torch.float32)  # IoU 0.8, 0.6 and 0.75
    scores, one_image = torch.tensor([0.9, 0.95, 0.8]), torch.zeros(3, dtype=torch.int64)
    assert distinct(boxes, scores, one_image, 0.7).tolist() == [1]
    assert distinct(boxes, scores, one_image, 0.76).tolist() == [1, 2]


@pytest.mark.parametrize(("images", "kept"), [((0, 0), [1]), ((0, 1), [1, 0])])
def test_masks_of_different_images_do_not_compete(images, kept):
    boxes = torch.tensor([[0, 0, 10, 10], [0, 0, 10, 10]], dtype=torch.float32)
    assert distinct(boxes, torch.tensor([0.5, 0.6]), torch.tensor(images), 0.7).tolist() == kept
