from pathlib import Path

import numpy as np
import pytest

from ray_lidarseg.datasets import cityscapes
from ray_lidarseg.datasets.decode import decode
from ray_lidarseg.errors import DataError, StorageError
from ray_lidarseg.types import IGNORE
from tests.datasets import image_trees


def test_images_are_listed_with_city_split_and_labels_and_those_of_test_without(tmp_path):
    frames = list(cityscapes.index(str(image_trees.cityscapes(tmp_path))))
    assert [frame.frame_id for frame in frames[1:3]] == ["aachen_000000_000001", "bochum_000000_000000"]
    assert [(frame.split, frame.scene) for frame in frames[::2]] == [*image_trees.CITIES, ("test", "berlin")]
    assert [frame.timestamp_us for frame in frames[:2]] == [0, 1]
    assert [bool(frame.labels_uri) for frame in frames] == [True] * 6 + [False] * 2
    assert all(Path(frame.points_uri).is_file() and frame.cameras[0].uri == frame.points_uri for frame in frames)


@pytest.mark.parametrize(
    ("kind", "ids"),
    [
        ("labelIds", image_trees.LABEL_IDS),
        ("labelTrainIds", np.array([[0, 10, 10], [13, 255, 2]], np.uint8)),
    ],
)
def test_both_kinds_of_label_files_give_the_same_19_classes(tmp_path, kind, ids):
    frame = next(cityscapes.index(str(image_trees.cityscapes(tmp_path, 1, kind, ids))))
    decoded = decode(frame)
    assert decoded.labels.tolist() == [0, 10, 10, 13, IGNORE, 2]
    assert (decoded.cameras[0].height_px, decoded.cameras[0].width_px) == (2, 3)
    assert decoded.cameras[0].image == Path(frame.points_uri).read_bytes()


def test_files_as_downloaded_win_over_train_ids(tmp_path):
    image_trees.cityscapes(tmp_path, 1, "labelTrainIds")
    image_trees.cityscapes(tmp_path, 1)
    assert next(cityscapes.index(str(tmp_path))).labels_uri.endswith("_gtFine_labelIds.png")


def test_missing_labels_name_the_file_and_the_archive(tmp_path):
    image_trees.cityscapes(tmp_path)
    (tmp_path / "gtFine/train/bochum/bochum_000000_000001_gtFine_labelIds.png").unlink()
    with pytest.raises(
        DataError, match=r"bochum_000000_000001_gtFine_labelIds.png is missing.*gtFine_trainvaltest.zip"
    ):
        list(cityscapes.index(str(tmp_path)))


def test_an_image_with_another_name_and_a_folder_without_images(tmp_path):
    with pytest.raises(DataError, match="holds no folder leftImg8bit"):
        list(cityscapes.index(str(tmp_path)))
    image_trees.write_png(tmp_path / "leftImg8bit/train/aachen/picture.png", np.zeros((2, 2, 3), np.uint8))
    with pytest.raises(DataError, match=r"picture.png: expected a name like aachen_000000_000019_leftImg8bit.png"):
        list(cityscapes.index(str(tmp_path)))


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (np.zeros((3, 3), np.uint8), r"labelIds.png has 3 x 3 pixels, its image 2 x 3"),
        (np.full((2, 3), 77, np.uint8), r"labelIds.png: unknown cityscapes label ids \[77\]"),
        (np.zeros((2, 3, 3), np.uint8), r"labelIds.png: expected one channel of ids .*got mode RGB"),
        (np.zeros((2, 3), np.uint16), r"labelIds.png is uint16: expected a PNG of one 8-bit channel"),
    ],
)
def test_labels_that_do_not_fit_are_named(tmp_path, labels, message):
    frame = next(cityscapes.index(str(image_trees.cityscapes(tmp_path, 1))))
    image_trees.write_png(Path(frame.labels_uri), labels)
    with pytest.raises(DataError, match=message):
        decode(frame)


def test_files_that_are_no_images_are_named(tmp_path):
    frame = next(cityscapes.index(str(image_trees.cityscapes(tmp_path, 1))))
    Path(frame.labels_uri).write_bytes(b"")
    with pytest.raises(DataError, match=r"labelIds.png is empty or no image: expected a whole PNG"):
        decode(frame)
    Path(frame.points_uri).write_bytes(Path(frame.points_uri).read_bytes()[:40])
    with pytest.raises(DataError, match=r"leftImg8bit.png is empty or no image"):
        decode(frame)
    Path(frame.points_uri).unlink()
    with pytest.raises(StorageError, match=r"cannot read .*leftImg8bit.png: no such file"):
        decode(frame)
