import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ray_lidarseg.errors import DataError
from ray_lidarseg.foundation.mask_painting import index_map, without_gaps
from tests.foundation.mask_agreement import paint_slowly


def painted(masks: torch.Tensor, masks_at_once: int = 2) -> np.ndarray:
    """Masks as they are, without enlargement."""
    logits = masks.float() - 0.5
    areas = masks.flatten(1).sum(1, dtype=torch.int32)
    return index_map(logits, areas, torch.eye(masks.shape[1]), torch.eye(masks.shape[2]), masks_at_once).numpy()


def rectangle(top: int, left: int, bottom: int, right: int) -> torch.Tensor:
    mask = torch.zeros(6, 6, dtype=torch.bool)
    mask[top:bottom, left:right] = True
    return mask


def test_small_masks_cover_large_ones_in_any_order():
    whole, part, sub_part = rectangle(0, 0, 6, 5), rectangle(1, 1, 4, 4), rectangle(2, 2, 3, 3)
    expected = whole.int() + part.int() + sub_part.int()
    for order in ([whole, part, sub_part], [sub_part, whole, part]):
        assert (painted(torch.stack(order)) == expected.numpy()).all()


def test_no_mask_is_zero_everywhere():
    assert (painted(torch.zeros(0, 6, 6, dtype=torch.bool)) == 0).all()


def test_hidden_mask_leaves_no_gap():
    whole, left, right = rectangle(0, 0, 6, 6), rectangle(0, 0, 6, 3), rectangle(0, 3, 6, 6)
    assert np.unique(painted(torch.stack([left, whole, right]))).tolist() == [1, 2]


def test_more_than_255_masks_keep_their_own_ids():
    masks = torch.eye(400, dtype=torch.bool).view(400, 20, 20)
    found = painted(masks, masks_at_once=64)
    assert sorted(found.ravel()) == list(range(1, 401))


def test_more_masks_than_16_bits_are_refused():
    with pytest.raises(DataError, match="65536 masks in one image; an index map numbers 65535"):
        without_gaps(torch.arange(65537, dtype=torch.int32).view(1, -1))


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**31 - 1), st.integers(1, 12), st.integers(1, 5))
def test_same_as_painting_one_by_one(seed, count, masks_at_once):
    masks = torch.rand(count, 5, 9, generator=torch.Generator().manual_seed(seed)) < 0.3
    slowly = paint_slowly(list(masks.numpy()), (5, 9))
    _, expected = np.unique(np.append(slowly, 0), return_inverse=True)
    assert (painted(masks, masks_at_once) == expected[:-1].reshape(5, 9)).all()
