import numpy as np
import pytest
import torch
from segment_anything import SamAutomaticMaskGenerator

from ray_lidarseg.foundation.mask_fit import enlarge, fit
from ray_lidarseg.foundation.mask_generation import Thresholds, generate, survivors
from ray_lidarseg.foundation.mask_prompts import grid_points
from tests.foundation.coherent_sam import coherent_sam
from tests.foundation.mask_agreement import compare

LOOSE = Thresholds(pred_iou=1e-6)
"""An untrained model's predicted IoU is about 0: half of its masks pass."""


def blobs(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Coloured rectangles on a gradient, uint8 [H, W, 3]."""
    rng = np.random.default_rng(seed)
    image = np.broadcast_to(np.linspace(0, 120, width)[None, :, None], (height, width, 3)).copy()
    for _ in range(12):
        top, left = rng.integers(0, height - 8), rng.integers(0, width - 8)
        image[top : top + rng.integers(8, height), left : left + rng.integers(8, width // 3)] = rng.integers(0, 256, 3)
    return image.astype(np.uint8)


@pytest.fixture(scope="module")
def sam():
    return coherent_sam()


def stock_masks(sam, image, side, thresholds):
    generator = SamAutomaticMaskGenerator(
        sam,
        points_per_side=side,
        pred_iou_thresh=thresholds.pred_iou,
        stability_score_thresh=thresholds.stability,
        stability_score_offset=thresholds.stability_offset,
        box_nms_thresh=thresholds.nms_iou,
    )
    return [record["segmentation"] for record in generator.generate(image)]


@pytest.mark.parametrize("size", [(225, 400), (300, 200)])
def test_same_masks_as_segment_anythings_generator(sam, size):
    image = blobs(*size)
    stock = stock_masks(sam, image, 7, LOOSE)
    (found,) = survivors(sam, [image], [grid_points(7, *size)], LOOSE, 64)
    ours = (enlarge(found.logits, *fit(sam, *size).enlarging()) > 0).numpy()
    assert len(stock) == len(ours) >= 5
    for mask in stock:
        assert max((mask & own).sum() / (mask | own).sum() for own in ours) >= 0.99
    (index_map,) = generate(sam, [image], [grid_points(7, *size)], LOOSE, 64)
    agreement = compare(stock, index_map)
    assert agreement.matched_ratio >= 0.99
    assert agreement.pixel_ratio >= 0.99


def test_thresholds_of_zero_switch_tests_off_as_in_segment_anything(sam):
    off = Thresholds(pred_iou=0.0, stability=0.0, nms_iou=1.0)
    image = blobs(225, 400)
    stock = stock_masks(sam, image, 4, off)
    (found,) = survivors(sam, [image], [grid_points(4, 225, 400)], off, 64)
    assert len(found.scores) == sum(mask.any() for mask in stock) > 40


def test_images_of_one_batch_do_not_influence_each_other(sam):
    images = [blobs(225, 400, 1), blobs(120, 90, 2), blobs(64, 300, 3)]
    points = [grid_points(side, *image.shape[:2]) for side, image in zip((6, 4, 5), images, strict=True)]
    thresholds = Thresholds(pred_iou=0.0, stability=0.9)
    together = generate(sam, images, points, thresholds, 64)
    for image, asked, expected in zip(images, points, together, strict=True):
        (alone,) = generate(sam, [image], [asked], thresholds, 7)
        assert (alone.shape, alone.dtype) == (image.shape[:2], np.uint16)
        assert (alone == expected).mean() > 0.99
    assert all(index_map.any() for index_map in together)


def test_ids_have_no_gaps_and_fall_in_area(sam):
    (found,) = generate(sam, [blobs(225, 400)], [grid_points(8, 225, 400)], LOOSE, 64)
    assert np.unique(found[found > 0]).tolist() == list(range(1, found.max() + 1))


def test_no_prompts_and_impossible_thresholds_give_no_masks(sam):
    images = [blobs(60, 80), blobs(60, 80)]
    none = np.zeros((0, 2), np.float32)
    assert not np.any(generate(sam, images, [none, none], LOOSE, 64))
    points = [grid_points(4, 60, 80)] * 2
    assert not np.any(generate(sam, images, points, Thresholds(pred_iou=99.0), 64))
    assert not np.any(generate(sam, images, points, Thresholds(pred_iou=0.0, stability=1.1), 64))


def test_bfloat16_products_give_nearly_the_same_masks(sam):
    image, points = blobs(225, 400), grid_points(6, 225, 400)
    everything = Thresholds(pred_iou=0.0, stability=0.0, nms_iou=1.0)
    (exact,) = survivors(sam, [image], [points], everything, 64)
    (low,) = survivors(sam, [image], [points], everything, 64, torch.bfloat16)
    assert exact.logits.dtype == low.logits.dtype == low.scores.dtype == torch.float32
    assert len(low.scores) == pytest.approx(len(exact.scores), abs=4)
    assert low.scores.mean() == pytest.approx(float(exact.scores.mean()), abs=0.02)


def test_masks_measured_at_a_smaller_size_are_those_of_the_image_but_for_their_borders(sam):
    image, points = blobs(450, 800), [grid_points(10, 450, 800)]
    (whole,) = generate(sam, [image], points, LOOSE, 64)
    (coarse,) = generate(sam, [image], points, LOOSE, 64, measured_px=400)
    assert (coarse.shape, coarse.dtype) == ((450, 800), np.uint16)
    blocks = coarse.reshape(225, 2, 400, 2)
    assert (blocks == blocks[:, :1, :, :1]).all()  # a pixel of the smaller size is four of the image
    assert min(whole.max(), coarse.max()) >= 4
    assert np.mean((whole > 0) == (coarse > 0)) >= 0.98


@pytest.mark.parametrize("measured_px", [0, 400, 1000])
def test_no_size_or_one_that_is_no_smaller_changes_nothing(sam, measured_px):
    image, points = blobs(225, 400), [grid_points(4, 225, 400)]
    (expected,) = generate(sam, [image], points, LOOSE, 64)
    (found,) = generate(sam, [image], points, LOOSE, 64, measured_px=measured_px)
    np.testing.assert_array_equal(found, expected)
