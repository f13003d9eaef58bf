import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional

from ray_lidarseg.errors import DataError
from ray_lidarseg.foundation import pooling
from ray_lidarseg.foundation.pooling import bilinear_weights, pool_segments, pooling_weights
from ray_lidarseg.foundation.segment_maps import count_segments, renumbered


def random_segments(seed: int, height: int, width: int, highest: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    segments = rng.integers(0, highest, (height, width), np.uint16, endpoint=True)
    segments[rng.random((height, width)) < 0.2] = 0
    return renumbered(segments)


def plain_pooling(features: np.ndarray, segments: np.ndarray) -> np.ndarray:
    """The plain twin: all pixels' features, then the mean of each segment."""
    unit = functional.normalize(torch.from_numpy(features).double(), dim=-1).permute(2, 0, 1)[None]
    image = functional.interpolate(unit, size=segments.shape, mode="bilinear", align_corners=False)[0]
    means = [image[:, torch.from_numpy(segments == n)].mean(1) for n in range(1, count_segments(segments) + 1)]
    return functional.normalize(torch.stack(means), dim=1).numpy()


@given(
    seed=st.integers(0, 2**32 - 1),
    image=st.tuples(st.integers(3, 40), st.integers(3, 40)),
    grid=st.tuples(st.integers(1, 7), st.integers(1, 7)),
)
def test_equals_upsampling_then_mean(seed, image, grid):
    segments = random_segments(seed, *image, highest=6)
    features = np.random.default_rng(seed).normal(size=(*grid, 8)).astype(np.float32)
    if count_segments(segments):
        found = pool_segments(features, segments, count_segments(segments))
        assert found.dtype == np.float16
        np.testing.assert_allclose(found, plain_pooling(features, segments), atol=2e-3)


def test_chunks_of_runs_do_not_change_the_weights(monkeypatch):
    segments = random_segments(0, 30, 50, 9)
    whole = pooling_weights(segments, 9, (4, 6))
    monkeypatch.setattr(pooling, "_MAX_CELLS", 6 * 7)  # seven runs at once
    np.testing.assert_allclose(pooling_weights(segments, 9, (4, 6)), whole, atol=1e-12)


def test_weights_by_hand():
    assert bilinear_weights(4, 2).tolist() == [[1, 0], [0.75, 0.25], [0.25, 0.75], [0, 1]]
    assert bilinear_weights(2, 1).tolist() == [[1], [1]]
    segments = np.array([[1, 1, 2, 2]] * 2, np.uint16)
    np.testing.assert_allclose(pooling_weights(segments, 2, (1, 2)), [[0.875, 0.125], [0.125, 0.875]])


def test_one_pixel_segment_and_background():
    segments = np.zeros((4, 4), np.uint16)
    segments[0, 0] = 1
    features = np.zeros((2, 2, 3), np.float32)
    features[0, 0] = [0, 5, 0]
    features[1, 1] = [9, 0, 0]
    assert pool_segments(features, segments, 1).tolist() == [[0, 1, 0]]


def test_a_long_patch_feature_does_not_outweigh_its_neighbour():
    segments = np.ones((4, 4), np.uint16)
    features = np.array([[[1000.0, 0.0], [0.0, 1.0]]], np.float32)
    np.testing.assert_allclose(pool_segments(features, segments, 1), [[0.5**0.5] * 2], atol=1e-3)


def test_rows_are_unit_or_zero_where_features_cancel():
    segments = np.array([[1, 1, 2, 2]], np.uint16)
    opposite = np.array([[[1.0, 0.0], [-1.0, 0.0]]], np.float32)
    whole = np.ones((1, 4), np.uint16)
    assert np.abs(pool_segments(opposite, whole, 1)).max() == 0
    np.testing.assert_allclose(np.linalg.norm(pool_segments(opposite, segments, 2).astype(float), axis=1), 1, atol=1e-3)


def test_image_without_a_segment():
    found = pool_segments(np.ones((2, 2, 5), np.float32), np.zeros((4, 4), np.uint16), 0)
    assert found.shape == (0, 5)


@pytest.mark.parametrize(
    ("segments", "num_segments"), [([[1, 3]], 3), ([[1, 2]], 3), ([[1, 2]], 1), ([[0, 0]], 1), ([[1, 2]], 0)]
)
def test_ids_and_count_must_agree(segments, num_segments):
    with pytest.raises(DataError, match=f"expected segment ids 1 … {num_segments} without gaps"):
        pool_segments(np.ones((1, 1, 2), np.float32), np.array(segments, np.uint16), num_segments)


def test_features_that_are_not_finite():
    features = np.ones((1, 2, 2), np.float32)
    features[0, 1, 1] = np.nan
    with pytest.raises(DataError, match=r"values that are not finite; try --set features.precision=float32"):
        pool_segments(features, np.ones((4, 4), np.uint16), 1)
