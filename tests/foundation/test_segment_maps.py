import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from ray_lidarseg.errors import DataError
from ray_lidarseg.foundation.segment_maps import count_segments, decode_map, encode_map, renumbered, require_ids


@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 65535), st.integers(0, 2**32 - 1))
def test_round_trip_is_lossless(height, width, highest, seed):
    segments = np.random.default_rng(seed).integers(0, highest, (height, width), np.uint16, endpoint=True)
    found = decode_map(encode_map(segments))
    assert found.dtype == np.uint16
    np.testing.assert_array_equal(found, segments)


def test_more_than_255_ids_survive():
    segments = np.arange(600, dtype=np.uint16).reshape(20, 30)
    assert count_segments(decode_map(encode_map(segments))) == 599


@pytest.mark.parametrize(("mode", "highest"), [("L", 255), ("1", 1)])
def test_narrower_maps_of_other_writers(mode, highest):
    ids = np.array([[0, highest], [highest, 0]], np.uint8)
    image = Image.fromarray(ids if mode == "L" else ids.astype(bool))
    file = io.BytesIO()
    image.save(file, "PNG")
    assert image.mode == mode
    np.testing.assert_array_equal(decode_map(file.getvalue()), ids)


def test_palette_holds_ids_not_colours():
    image = Image.fromarray(np.array([[3, 7]], np.uint8), mode="L").convert("P")
    image.putdata([3, 7])
    file = io.BytesIO()
    image.save(file, "PNG")
    assert decode_map(file.getvalue()).tolist() == [[3, 7]]


def test_colours_are_refused():
    file = io.BytesIO()
    Image.new("RGB", (4, 4)).save(file, "PNG")
    with pytest.raises(DataError, match=r"mine: expected one channel of ids .*got mode RGB; write ids, not colours"):
        decode_map(file.getvalue(), "mine")


@pytest.mark.parametrize("keep", [0, 10, 60, 200])
def test_truncated_file(keep):
    whole = encode_map(np.random.default_rng(0).integers(0, 9000, (64, 64), np.uint16))
    with pytest.raises(DataError, match=r"mine (is not a whole image|is empty or no image)"):
        decode_map(whole[:keep], "mine")


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        (np.array([[-1, 2]]), r"got -1 … 2"),
        (np.array([[0, 65536]]), r"got 0 … 65536"),
        (np.zeros((2, 2)), r"expected integer ids \[H, W\], got float64 \[2, 2\]"),
        (np.zeros((2, 2, 3), int), r"got int64 \[2, 2, 3\]"),
    ],
)
def test_what_is_no_id(ids, message):
    with pytest.raises(DataError, match=message):
        require_ids(ids, "mine")


def test_renumbered_by_hand():
    segments = np.array([[0, 900], [7, 7], [65535, 0]], np.uint16)
    assert renumbered(segments).tolist() == [[0, 2], [1, 1], [3, 0]]
    assert renumbered(np.full((2, 2), 4, np.uint16)).tolist() == [[1, 1], [1, 1]]


@given(st.integers(0, 2**32 - 1))
def test_renumbering_keeps_the_segments(seed):
    segments = np.random.default_rng(seed).integers(0, 30, (8, 9)).astype(np.uint16) * 1000
    found = renumbered(segments)
    assert np.array_equal(np.unique(found[found > 0]), np.arange(1, count_segments(found) + 1))
    np.testing.assert_array_equal(found == 0, segments == 0)
    pairs = np.unique(np.stack([segments.ravel(), found.ravel()]), axis=1)
    assert len(np.unique(pairs[0])) == len(np.unique(pairs[1])) == pairs.shape[1]
    np.testing.assert_array_equal(renumbered(found), found)
