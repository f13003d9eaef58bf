import numpy as np
import pytest

from ray_lidarseg.errors import DataError
from ray_lidarseg.foundation.prompts import vocabulary
from ray_lidarseg.foundation.teachers import as_objects
from ray_lidarseg.miniature import measure
from ray_lidarseg.miniature.training_pictures import SKY, TruePicture
from ray_lidarseg.types import IGNORE

ROAD, GRASS = 10, 13


def stripes(first: int, second: int) -> np.ndarray:
    """40 x 40, the upper 16 rows one id, the others another."""
    ids = np.full((40, 40), second, np.uint16)
    ids[:16] = first
    return ids


class OneHot:
    """A teacher of 16 features, one a class: it sees colours of which red is the class."""

    feature_dim = 16

    def __call__(self, batch):
        return {
            "features": as_objects([np.eye(16, dtype=np.float32)[image[::10, ::10, 0]] for image in batch["image"]])
        }

    def embed_text(self, prompts):
        return np.eye(16, dtype=np.float32)[vocabulary("nuscenes").class_idx]


def picture(seen: np.ndarray, classes: np.ndarray, segments: np.ndarray) -> TruePicture:
    image = np.repeat(seen.astype(np.uint8)[..., None], 3, axis=2)
    return TruePicture(image, classes.astype(np.uint8), np.zeros_like(classes, np.uint8), segments)


def test_best_ious_by_hand():
    truth, found = stripes(1, 2), stripes(0, 5)
    found[36:] = 0
    np.testing.assert_allclose(measure.best_ious(found, truth), [0.0, 20 / 24])
    truth[0, :] = 3  # forty pixels: too few to be asked for
    np.testing.assert_allclose(measure.best_ious(stripes(7, 2), truth), [15 / 16, 1.0])


def test_segment_quality_counts_hits():
    quality = measure.segment_quality([stripes(1, 2), stripes(0, 4)], [stripes(2, 1), stripes(1, 2)])
    assert (quality.recall, quality.mean_best_iou, quality.num_segments) == (0.75, 0.75, 1.5)
    assert "recall at IoU 0.5 0.750" in str(quality)
    with pytest.raises(DataError, match="segments of 100 pixels or more, got none"):
        measure.segment_quality([stripes(1, 2)], [stripes(0, 0)])


def test_zero_shot_by_hand():
    truth = stripes(SKY, ROAD)
    truth[:, 30:] = IGNORE
    right = picture(stripes(ROAD, ROAD), truth, stripes(2, 1))
    wrong = picture(stripes(ROAD, GRASS), stripes(GRASS, GRASS), stripes(1, 2))
    found = measure.measure_zero_shot(OneHot(), [right, wrong])
    counts = found.confusion.counts
    assert counts.sum() == 24 * 30 + 1600, "neither sky nor unknown pixels count"
    assert counts[ROAD, ROAD] == 720
    assert counts[GRASS, ROAD] + counts[GRASS, GRASS] == 1600
    assert found.majority_accuracy == pytest.approx(1600 / 2320)
    assert found.num_segments == 3
    assert found.num_right == 2
    assert np.isnan(found.confusion.iou()[0])
    assert found.confusion.iou()[GRASS] == counts[GRASS, GRASS] / 1600
    assert "always the most frequent class: pixel accuracy 0.690" in str(found)


def test_segments_have_the_class_of_most_of_their_pixels():
    classes = stripes(ROAD, GRASS).astype(np.uint8)
    segments = stripes(1, 2)
    segments[39, :] = 3
    segments[14:16] = 2
    assert measure.segment_classes(picture(classes, classes, segments)).tolist() == [ROAD, GRASS, IGNORE]
