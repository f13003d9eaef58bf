import io

import numpy as np
import pytest
from PIL import Image

from ray_lidarseg.errors import DataError
from ray_lidarseg.report import evidence_pictures as drawn
from ray_lidarseg.report.pictures import UNKNOWN, WHITE

GREY = np.full((4, 6, 3), 100, np.uint8)


def test_an_index_map_is_stretched_without_mixing_ids():
    segments = np.array([[1, 7], [3, 0]], np.uint16)
    assert drawn.stretched(segments, 4, 4).tolist() == [[1, 1, 7, 7], [1, 1, 7, 7], [3, 3, 0, 0], [3, 3, 0, 0]]
    assert drawn.stretched(drawn.stretched(segments, 6, 10), 2, 2).tolist() == segments.tolist()


def test_borders_lie_left_of_and_above_a_change():
    segments = np.array([[1, 1, 2], [1, 1, 2], [3, 3, 3]], np.uint16)
    assert drawn.borders(segments).tolist() == [[False, True, False], [True, True, True], [False, False, False]]


def test_each_of_many_segments_has_a_colour_of_its_own():
    rgb = drawn.segment_colours(200)
    assert tuple(rgb[0]) == UNKNOWN
    assert len(np.unique(rgb, axis=0)) == 201
    neighbours = np.abs(np.diff(rgb[1:].astype(int), axis=0)).max(axis=1)
    assert neighbours.min() > 100


def test_masks_mix_with_the_photograph_and_its_rest_is_dark_grey():
    segments = np.array([[0, 0, 0, 1, 1, 1]] * 4, np.uint16)
    image = drawn.masks_over(GREY, segments, opacity=0.5)
    assert image[0, 0].tolist() == [60, 60, 60]
    assert tuple(image[0, 2]) == WHITE  # the border
    assert image[0, 5].tolist() == (50 + drawn.segment_colours(1)[1] // 2).tolist()


def test_segments_are_painted_in_the_colours_given():
    segments = np.array([[2, 2, 2, 1, 1, 0]] * 4, np.uint16)
    rgb = np.array([[200, 0, 0], [0, 0, 200]], np.uint8)
    image = drawn.segments_painted(GREY, segments, rgb)
    assert image[0, 0].tolist() == [20, 20, 180]  # 0.8 of the colour and 0.2 of the grey
    assert image[0, 3].tolist() == [180, 20, 20]
    assert image[0, 5].tolist() == [int(0.8 * value + 20) for value in UNKNOWN]


def test_points_are_drawn_at_their_pixel_and_the_nearer_one_covers_the_farther():
    photo = np.zeros((100, 200, 3), np.uint8)
    pixel = np.array([[300, 100], [300, 100], [0, 0]], np.int16)  # of an image of 400 x 200
    rgb = np.array([[255, 0, 0], [0, 0, 255], [0, 255, 0]], np.uint8)
    image = drawn.points_over(photo, pixel, rgb, np.array([5.0, 30.0, 1.0]), width_px=400)
    assert image[50, 150].tolist() == [255, 0, 0]
    assert image[0, 0].tolist() == [0, 255, 0]
    assert image[90, 20].tolist() == [127, 127, 127]
    rows, columns = np.nonzero((image == [255, 0, 0]).all(axis=2))
    assert (rows.mean(), columns.mean()) == (50, 150)


def test_the_fewer_points_the_larger_their_dots():
    photo = np.zeros((40, 40, 3), np.uint8)
    coloured = []
    for count in (4, 100, 400):  # 0.25 %, 6 % and 25 % of the pixels, on every place of a grid
        side = round(count**0.5)
        grid = np.stack(np.meshgrid(np.arange(side), np.arange(side)), -1).reshape(-1, 2) * (40 // side) + 1
        rgb = np.tile(np.array([255, 0, 0], np.uint8), (count, 1))
        image = drawn.points_over(photo, grid, rgb, np.ones(count), width_px=40)
        coloured.append((image == [255, 0, 0]).all(axis=2).sum() / count)
    assert coloured[0] == (4 * 4 + 2 * 4 * 5 + 5 * 5) / 4  # 5 x 5 pixels, cut at the border
    assert coloured[1:] == [9, 1]


def test_no_point_leaves_the_photograph():
    nothing = np.zeros((0, 2), np.int16)
    image = drawn.points_over(GREY, nothing, np.zeros((0, 3), np.uint8), np.zeros(0), width_px=6)
    assert (image == 177).all()


def test_three_directions_become_red_green_and_blue():
    rows = np.zeros((6, 4), np.float16)
    rows[0, 1], rows[1, 1] = 5, -5  # varies most: red
    rows[2, 3], rows[3, 3] = 2, -2  # then green
    rows[4, 0], rows[5, 0] = 1, -1  # then blue; column 2 never varies
    colours = drawn.FeatureColours.of(rows)
    np.testing.assert_allclose(np.abs(colours.axes), np.eye(4)[:, [1, 3, 0]], atol=1e-9)
    assert (colours.axes.sum(axis=0) > 0).all()
    assert colours(rows)[:, 0].tolist()[:2] == [240, 30]
    assert colours(rows)[2, 1] == 240
    assert colours(rows)[5, 2] == 30


def test_equal_features_have_equal_colours_in_other_images():
    rows = np.random.default_rng(0).normal(size=(40, 8)).astype(np.float16)
    colours = drawn.FeatureColours.of(rows)
    np.testing.assert_array_equal(colours(rows)[[3, 5]], colours(rows[[3, 5]]))
    np.testing.assert_array_equal(colours(rows), drawn.FeatureColours.of(rows)(rows))


def test_a_choice_of_very_many_features_gives_nearly_the_same_colours(monkeypatch):
    rows = np.random.default_rng(0).normal(size=(4000, 4)) * [8, 4, 2, 0.1]
    whole = drawn.FeatureColours.of(rows)(rows).astype(int)
    monkeypatch.setattr(drawn, "_MAX_ROWS", 2000)
    chosen = drawn.FeatureColours.of(rows)(rows).astype(int)
    assert np.abs(whole - chosen).mean() < 6
    assert (whole != chosen).any()
    np.testing.assert_array_equal(chosen, drawn.FeatureColours.of(rows)(rows))


@pytest.mark.parametrize("rows", [np.zeros((0, 4)), np.zeros((3, 4)), np.ones((3, 4)), np.eye(2)])
def test_features_that_do_not_vary_in_three_directions_are_drawn_too(rows):
    rgb = drawn.FeatureColours.of(rows)(rows)
    assert rgb.shape == (len(rows), 3)
    known = rows.any(axis=1)
    assert (rgb[~known] == UNKNOWN).all()
    assert (rgb[known][:, 2] == 135).all()  # nothing varies a third way: the middle


def test_photographs_are_read_at_one_width_and_replaced_by_white():
    buffer = io.BytesIO()
    Image.new("RGB", (100, 50), (0, 90, 0)).save(buffer, format="jpeg")
    assert drawn.read_photo(buffer.getvalue(), 40).shape == (20, 40, 3)
    with pytest.raises(DataError, match="empty or no image"):
        drawn.read_photo(b"no image", 40)
    blank = drawn.blank_photo(np.ones((50, 100), np.uint16), 40)
    assert blank.shape == (20, 40, 3)
    assert (blank == 255).all()


def test_covered_ratio_counts_pixels_with_an_id():
    assert drawn.covered_ratio(np.array([[0, 1], [2, 3]], np.uint16)) == 0.75
