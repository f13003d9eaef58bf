from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ray_lidarseg.errors import DataError
from ray_lidarseg.foundation.build import build_masks, identity
from ray_lidarseg.foundation.mask_files import MaskFiles
from ray_lidarseg.foundation.settings import FileMasks
from ray_lidarseg.foundation.teachers import as_objects

IDS = np.array([[0, 500, 500], [9, 9, 0]])
URI = "s3://bucket/sequences/00/image_2/000007.jpg"


def write_png(path: Path, ids: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(ids.astype(np.uint16)).save(path)


def read(folder: Path, uri: str = URI, suffix: str = ".png", size: tuple[int, int] = (2, 3)) -> np.ndarray:
    teacher = build_masks(FileMasks(folder=str(folder), suffix=suffix), "cpu")
    batch = {"image": as_objects([np.zeros((*size, 3), np.uint8)]), "uri": np.array([uri], dtype=object)}
    return teacher(batch)["segments"][0]


def test_png_by_name_is_renumbered_and_zero_stays(tmp_path):
    write_png(tmp_path / "000007.png", IDS)
    found = read(tmp_path)
    assert found.dtype == np.uint16
    assert found.tolist() == [[0, 2, 2], [1, 1, 0]]


@pytest.mark.parametrize("dtype", [np.int64, np.uint8, np.int32])
def test_npy(tmp_path, dtype):
    np.save(tmp_path / "000007.npy", (IDS % 256).astype(dtype))
    assert read(tmp_path, suffix=".npy").tolist() == [[0, 2, 2], [1, 1, 0]]


def test_the_longest_path_wins_because_names_repeat_between_drives(tmp_path):
    write_png(tmp_path / "000007.png", np.full((2, 3), 1) * [1, 0, 0])
    assert read(tmp_path).tolist() == [[1, 0, 0]] * 2
    write_png(tmp_path / "image_2" / "000007.png", np.full((2, 3), 1) * [0, 1, 0])
    assert read(tmp_path).tolist() == [[0, 1, 0]] * 2
    write_png(tmp_path / "sequences" / "00" / "image_2" / "000007.png", np.full((2, 3), 1) * [0, 0, 1])
    assert read(tmp_path).tolist() == [[0, 0, 1]] * 2
    assert read(tmp_path, "/data/sequences/01/image_2/000007.jpg").tolist() == [[0, 1, 0]] * 2
    assert read(tmp_path, "000007.jpg").tolist() == [[1, 0, 0]] * 2


def test_folder_by_uri(tmp_path):
    write_png(tmp_path / "000007.png", IDS)
    teacher = MaskFiles(FileMasks(folder=f"file://{tmp_path}/"))
    assert teacher.segments(URI, (2, 3)).max() == 2


def test_missing_mask_names_the_places(tmp_path):
    with pytest.raises(
        DataError, match=r"no mask for image s3://.*: expected .*/000007.png \(or .*sequences/00/image_2"
    ):
        read(tmp_path)


def test_wrong_size(tmp_path):
    write_png(tmp_path / "000007.png", IDS)
    with pytest.raises(DataError, match=r"000007.png: expected 4 x 3 \(height x width\) as its image .* got 2 x 3"):
        read(tmp_path, size=(4, 3))


@pytest.mark.parametrize("ids", [IDS - 1, IDS * 200])
def test_ids_that_do_not_fit(tmp_path, ids):
    np.save(tmp_path / "000007.npy", ids)
    with pytest.raises(DataError, match=r"expected ids 0 \(no segment\) … 65535, got"):
        read(tmp_path, suffix=".npy")


def test_truncated_files(tmp_path):
    write_png(tmp_path / "000007.png", np.random.default_rng(0).integers(0, 9000, (40, 40)))
    np.save(tmp_path / "000007.npy", IDS)
    for suffix, message in ((".png", "(is not a whole image|is empty or no image)"), (".npy", "is no whole .npy file")):
        path = tmp_path / f"000007{suffix}"
        path.write_bytes(path.read_bytes()[: -path.stat().st_size // 4])
        with pytest.raises(DataError, match=message):
            read(tmp_path, suffix=suffix, size=(40, 40))


def test_pickles_are_not_opened(tmp_path):
    np.save(tmp_path / "000007.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(DataError, match=r"is no whole \.npy file"):
        read(tmp_path, suffix=".npy")


def test_no_folder(tmp_path):
    with pytest.raises(DataError, match=r"masks.folder: there is no folder .*absent"):
        MaskFiles(FileMasks(folder=str(tmp_path / "absent")))


def test_batch_without_uris(tmp_path):
    with pytest.raises(DataError, match="expected the key 'uri' in the batch"):
        MaskFiles(FileMasks(folder=str(tmp_path)))({"image": as_objects([])})


def test_identity_is_folder_and_suffix():
    assert identity(FileMasks(folder="s3://masks")) == {"name": "files", "folder": "s3://masks", "suffix": ".png"}
