import cv2
import numpy as np
import pytest

from ray_lidarseg.errors import DataError
from ray_lidarseg.foundation.picture_words import class_prototypes, pictures_of_folder
from ray_lidarseg.foundation.teachers import as_objects

NAMES = ("car", "road")


class Colours:
    """A teacher whose feature of a patch of four pixels is its mean colour."""

    feature_dim = 3

    def __call__(self, batch):
        grids = [image.reshape(2, 2, 2, 2, 3).mean(axis=(1, 3)).astype(np.float32) / 255 for image in batch["image"]]
        return {"features": as_objects(grids)}


def picture(left: tuple, right: tuple) -> np.ndarray:
    image = np.zeros((4, 4, 3), np.uint8)
    image[:, :2], image[:, 2:] = left, right
    return image


def test_a_prototype_is_the_unit_mean_over_pictures_of_unit_means_over_its_pixels():
    halves = np.repeat(np.array([[1, 1, 2, 2]], np.uint16), 4, axis=0)
    nothing = np.where(halves == 2, 0, halves).astype(np.uint16)
    red, green, blue = (255, 0, 0), (0, 255, 0), (0, 0, 255)
    shown = [(picture(red, green), halves), (picture(green, blue), halves), (picture(red, red), nothing)]
    found = class_prototypes(Colours(), shown, NAMES)
    assert found.names == NAMES
    car = found.embeddings[0]
    assert np.linalg.norm(found.embeddings, axis=1) == pytest.approx([1, 1])
    assert car[0] > car[1] > 0.2  # two of three cars are red
    assert found.embeddings[1][0] < 0.2
    assert len(found.reject) == 0


def test_what_is_no_class_becomes_a_reject_word_and_a_class_never_shown_is_an_error():
    only = np.ones((4, 4), np.uint16)
    shown = [(picture((255, 0, 0), (255, 0, 0)), only), (picture((0, 0, 255), (0, 0, 255)), 2 * only)]
    found = class_prototypes(Colours(), shown, NAMES[:1], ("sky",))
    assert (found.num_classes, found.reject.shape) == (1, (1, 3))
    np.testing.assert_allclose(found.reject[0], [0, 0, 1], atol=1e-3)
    assert class_prototypes(Colours(), shown[:1], NAMES).embeddings[1].tolist() == [0, 0, 0]
    with pytest.raises(DataError, match="no picture shows any of car, road"):
        class_prototypes(Colours(), [], NAMES)


def test_a_folder_of_pictures_has_a_folder_for_each_class(tmp_path):
    for name in NAMES:
        (tmp_path / name).mkdir()
        cv2.imwrite(str(tmp_path / name / "a.png"), np.full((4, 6, 3), 7, np.uint8))
    (tmp_path / "car" / "notes.txt").write_text("no picture")
    shown = list(pictures_of_folder(str(tmp_path), NAMES))
    assert [(image.shape, int(classes.min())) for image, classes in shown] == [((4, 6, 3), 1), ((4, 6, 3), 2)]
    with pytest.raises(DataError, match=r"bus holds no .png or .jpg: expected pictures of each class.*car, road, bus"):
        list(pictures_of_folder(str(tmp_path), (*NAMES, "bus")))
