import numpy as np
import pytest

from ray_lidarseg.foundation.build import build_masks
from ray_lidarseg.foundation.settings import SlicMasks
from ray_lidarseg.foundation.slic import Slic
from ray_lidarseg.foundation.teachers import MaskTeacher, as_objects


def quarters(height: int = 40, width: int = 60) -> np.ndarray:
    image = np.zeros((height, width, 3), np.uint8)
    image[: height // 2, : width // 2] = (200, 30, 30)
    image[: height // 2, width // 2 :] = (30, 200, 30)
    image[height // 2 :, : width // 2] = (30, 30, 200)
    return image


def test_ids_start_at_one_have_no_gaps_and_cover_the_image():
    teacher = build_masks(SlicMasks(num_segments=30), "cpu")
    assert isinstance(teacher, MaskTeacher)
    first, second = teacher({"image": as_objects([quarters(), quarters(50, 30)])})["segments"]
    assert (first.shape, second.shape, first.dtype) == ((40, 60), (50, 30), np.uint16)
    for segments in (first, second):
        assert np.array_equal(np.unique(segments), np.arange(1, segments.max() + 1))
        assert 10 <= segments.max() <= 40


def test_segments_follow_colours():
    image = quarters()
    segments = Slic(SlicMasks(num_segments=30, sigma=0.0, compactness=1.0)).segments(image)
    quarter = np.unique(image.reshape(-1, 3), axis=0, return_inverse=True)[1].reshape(segments.shape)
    for segment in range(1, segments.max() + 1):
        assert len(np.unique(quarter[segments == segment])) == 1


@pytest.mark.parametrize("changed", [{"num_segments": 8}, {"compactness": 1000.0}, {"sigma": 9.0}])
def test_every_setting_has_an_effect(changed):
    image = np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)
    plain = Slic(SlicMasks(num_segments=30)).segments(image)
    assert not np.array_equal(Slic(SlicMasks(**{"num_segments": 30, **changed})).segments(image), plain)


def test_same_image_same_segments():
    image = np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)
    np.testing.assert_array_equal(Slic(SlicMasks()).segments(image), Slic(SlicMasks()).segments(image))
