from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ray_lidarseg.datasets import semantickitti
from ray_lidarseg.datasets.decode import decode
from ray_lidarseg.datasets.semantickitti import CLASSES as SEMANTICKITTI
from ray_lidarseg.errors import DataError

# Focal length 100 px, principal point (60, 20), the camera 0.5 m left of camera 0; LiDAR x forward, y left, z up.
P2 = "P2: 100 0 60 50 0 100 20 0 0 0 1 0"
TR = "Tr: 0 -1 0 0.1 0 0 -1 -0.2 1 0 0 -0.3"


def sequence(root: Path, name: str, count: int = 2, labels: str = "labels", images: bool = False) -> Path:
    folder = root / "sequences" / name
    for number in range(count):
        _touch(folder / "velodyne" / f"{number:06d}.bin")
        if labels:
            _touch(folder / labels / f"{number:06d}.label")
        if images:
            (folder / "image_2").mkdir(exist_ok=True)
            Image.new("RGB", (120, 40)).save(folder / "image_2" / f"{number:06d}.png")
    return folder


def _touch(file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.touch()


def test_sequences_become_splits(tmp_path: Path) -> None:
    for name, labels in (("00", "labels"), ("08", "labels"), ("11", ""), ("40", "")):
        sequence(tmp_path, name, labels=labels)
    frames = list(semantickitti.index(str(tmp_path)))
    assert [frame.frame_id for frame in frames[:3]] == ["00/000000", "00/000001", "08/000000"]
    splits = {frame.scene: (frame.split, bool(frame.labels_uri)) for frame in frames}
    assert splits == {"00": ("train", True), "08": ("val", True), "11": ("test", False), "40": ("train", False)}
    assert [frame.timestamp_us for frame in frames[:2]] == [0, 100_000]
    assert frames[0].cameras == ()


def test_official_split() -> None:
    names = [f"{number:02d}" for number in range(22)]
    by_split = {split: [n for n in names if semantickitti.split_of(n) == split] for split in ("train", "val", "test")}
    assert by_split["train"] == [*names[:8], "09", "10"]
    assert by_split["val"] == ["08"]
    assert by_split["test"] == names[11:]


def test_scribbles_are_for_training_and_validation_stays_full(tmp_path: Path) -> None:
    sequence(tmp_path, "00")
    sequence(tmp_path, "00", labels="scribbles")
    sequence(tmp_path, "08")
    train, _, val, _ = semantickitti.index(str(tmp_path), label_dir="scribbles")
    assert Path(train.labels_uri).parent.name == "scribbles"
    assert Path(val.labels_uri).parent.name == "labels"


def test_a_point_lands_in_the_left_colour_camera_where_p2_puts_it(tmp_path: Path) -> None:
    folder = sequence(tmp_path, "00", images=True)
    (folder / "calib.txt").write_text(f"P0: {'0 ' * 12}\n{P2}\n{TR}\n")
    (folder / "times.txt").write_text("0.0\n1.036e-01\n")
    frame = list(semantickitti.index(str(tmp_path)))[1]
    (camera,) = frame.cameras
    assert (camera.name, camera.width_px, camera.height_px) == ("image_2", 120, 40)
    assert frame.timestamp_us == camera.timestamp_us == 103_600
    point = np.array([10.0, 2.0, 1.0, 1.0])
    projection = np.array(P2.split()[1:], float).reshape(3, 4)
    cam0_SE3_lidar = np.vstack([np.array(TR.split()[1:], float).reshape(3, 4), [0, 0, 0, 1]])
    expected = projection @ cam0_SE3_lidar @ point
    np.testing.assert_allclose(camera.intrinsics @ (camera.cam_SE3_lidar @ point)[:3], expected)
    by_hand = [100 * (-2.0 + 0.1 + 0.5) / 9.7 + 60, 100 * (-1.0 - 0.2) / 9.7 + 20]
    np.testing.assert_allclose(expected[:2] / expected[2], by_hand)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "calib.txt is missing, but there are images"),
        (TR, r"expected lines 'P2:' and 'Tr:' with 12 numbers each, wrong or missing: \['P2'\]"),
        (f"{P2} 7\n{TR}", r"wrong or missing: \['P2'\]"),
        (f"{P2}\n{TR.replace('-0.3', 'x')}", "holds something that is no number"),
        (f"{P2}\nTr: 2 0 0 0 0 1 0 0 0 0 1 0", "wrong calibration"),
        (f"P2: {'0 ' * 12}\n{TR}", "calib.txt: wrong calibration: expected P with rows"),
    ],
)
def test_images_without_a_usable_calibration(tmp_path: Path, content: str | None, message: str) -> None:
    folder = sequence(tmp_path, "00", images=True)
    if content is not None:
        (folder / "calib.txt").write_text(content)
    with pytest.raises(DataError, match=message):
        list(semantickitti.index(str(tmp_path)))


def test_an_image_that_is_none(tmp_path: Path) -> None:
    folder = sequence(tmp_path, "00", images=True)
    (folder / "calib.txt").write_text(f"{P2}\n{TR}\n")
    (folder / "image_2" / "000000.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"000000.png is empty or no image"):
        list(semantickitti.index(str(tmp_path)))


def test_a_scan_without_an_image_has_no_camera(tmp_path: Path) -> None:
    folder = sequence(tmp_path, "00", images=True)
    (folder / "calib.txt").write_text(f"{P2}\n{TR}\n")
    (folder / "image_2" / "000000.png").unlink()
    assert [len(frame.cameras) for frame in semantickitti.index(str(tmp_path))] == [0, 1]


@pytest.mark.parametrize(
    ("content", "message"), [("0.0\nsoon\n", r"times.txt: expected seconds.*'soon'"), ("nan\n0.1\n", "seconds")]
)
def test_time_stamps_that_are_none(tmp_path: Path, content: str, message: str) -> None:
    (sequence(tmp_path, "00") / "times.txt").write_text(content)
    with pytest.raises(DataError, match=message):
        list(semantickitti.index(str(tmp_path)))


def test_time_stamps_behind_a_byte_order_mark(tmp_path: Path) -> None:
    (sequence(tmp_path, "00") / "times.txt").write_bytes(b"\xef\xbb\xbf0.5\n0.625\n")
    assert [frame.timestamp_us for frame in semantickitti.index(str(tmp_path))] == [500_000, 625_000]


@pytest.mark.parametrize(
    ("names", "times_us"),
    [(("000000", "000100", "000101"), [0, 10_000_000, 10_100_000]), (("000000", "b", "c"), [0, 100_000, 200_000])],
)
def test_without_time_stamps_the_number_in_the_name_tells_the_time(
    tmp_path: Path, names: tuple[str, ...], times_us: list[int]
) -> None:
    for name in names:
        _touch(tmp_path / "sequences" / "00" / "velodyne" / f"{name}.bin")
    assert [frame.timestamp_us for frame in semantickitti.index(str(tmp_path))] == times_us


def test_hidden_files_of_an_archive_are_no_frames(tmp_path: Path) -> None:
    folder = sequence(tmp_path, "00", images=True)
    (folder / "calib.txt").write_text(f"{P2}\n{TR}\n")
    for name in ("velodyne/._000000.bin", "image_2/._000000.png"):
        (folder / name).write_bytes(b"\0\5\26\7")
    frames = list(semantickitti.index(str(tmp_path)))
    assert [(frame.frame_id, len(frame.cameras)) for frame in frames] == [("00/000000", 1), ("00/000001", 1)]


def test_too_few_time_stamps(tmp_path: Path) -> None:
    (sequence(tmp_path, "00", count=3) / "times.txt").write_text("0.0\n0.1\n")
    with pytest.raises(DataError, match=r"times.txt has 2 lines, but there is a scan 000002.bin"):
        list(semantickitti.index(str(tmp_path)))


def test_folders_that_are_not_semantickitti(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds no sequences/XX/velodyne"):
        list(semantickitti.index(str(tmp_path)))
    sequence(tmp_path, "00")
    with pytest.raises(DataError, match=r"no sequence below .* has a folder 'scribbles'"):
        list(semantickitti.index(str(tmp_path), label_dir="scribbles"))


def rings(points: np.ndarray) -> np.ndarray:
    """HDL-64E files are written ring by ring, each starting behind the car: a jump of the azimuth begins a new ring."""
    turn = 0.5 * (np.arctan2(points[:, 1], -points[:, 0]) * -1 / np.pi + 1)
    return np.cumsum(np.concatenate([[False], (turn[1:] < 0.2) & (turn[:-1] > 0.8)]))


def test_real_scans(samples: Path) -> None:
    frames = list(semantickitti.index(str(samples / "semantickitti_seq00")))
    assert [frame.frame_id for frame in frames] == ["00/000000", "00/000001", "00/000002"]
    decoded = [decode(frame) for frame in frames]
    assert [len(frame.points) for frame in decoded] == [124_668, 124_605, 124_478]
    assert len(np.unique(rings(decoded[0].points))) == 64
    counts = np.bincount(decoded[0].labels[decoded[0].labels < 255], minlength=19)
    assert SEMANTICKITTI.class_names[int(counts.argmax())] == "road"
    assert counts[SEMANTICKITTI.class_names.index("road")] == 35_281
