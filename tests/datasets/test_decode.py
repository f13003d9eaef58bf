from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ray_lidarseg.datasets.decode import decode
from ray_lidarseg.errors import DataError, StorageError
from ray_lidarseg.sample import Keyframe
from ray_lidarseg.types import IGNORE

NUSCENES = Keyframe("t", "nuscenes", "s", "train", 0, "scan.bin", "scan.label")
KITTI = replace(NUSCENES, dataset="semantickitti")


def nuscenes_scan() -> np.ndarray:
    return np.array([[1, 2, 3, 255, 0], [4, 5, 6, 51, 31], [7, 8, 9, 0, 7]], np.float32)


def kitti_scan() -> np.ndarray:
    return np.array([[1, 2, 3, 0.25], [4, 5, 6, 0.99]], np.float32)


@pytest.fixture(autouse=True)
def _in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def written(frame: Keyframe, points: np.ndarray, labels: np.ndarray) -> Keyframe:
    Path("scan.bin").write_bytes(points.tobytes())
    Path("scan.label").write_bytes(labels.tobytes())
    return frame


def test_a_nuscenes_frame() -> None:
    frame = decode(written(NUSCENES, nuscenes_scan(), np.array([17, 31, 24], np.uint8)))
    np.testing.assert_allclose(frame.points, [[1, 2, 3, 1.0], [4, 5, 6, 0.2], [7, 8, 9, 0.0]], rtol=1e-6)
    assert frame.points.dtype == np.float32
    assert frame.labels.tolist() == [3, IGNORE, 10]
    assert frame.ring.tolist() == [0, 31, 7]


def test_a_semantickitti_frame_keeps_only_the_semantic_bits() -> None:
    raw = np.array([10 | 7 << 16, 252 | 0xFFFF << 16], np.uint32)
    frame = decode(written(KITTI, kitti_scan(), raw))
    np.testing.assert_array_equal(frame.points, kitti_scan())
    assert frame.labels.tolist() == [0, 0]
    assert len(frame.ring) == 0


def test_without_labels_nothing_is_invented() -> None:
    frame = decode(written(replace(KITTI, labels_uri=""), kitti_scan(), np.zeros(0)))
    assert len(frame.labels) == 0


def test_points_that_are_not_finite_stay() -> None:
    points = nuscenes_scan()
    points[1] = np.nan
    frame = decode(written(NUSCENES, points, np.array([17, 31, 24], np.uint8)))
    assert len(frame.points) == 3
    assert np.isnan(frame.points[1]).all()
    assert frame.ring.tolist() == [0, 0, 7]


def _truncated(points: np.ndarray) -> np.ndarray:
    return np.frombuffer(points.tobytes()[:-3], np.uint8)


@pytest.mark.parametrize(
    ("frame", "points", "labels", "message"),
    [
        (NUSCENES, np.zeros((0, 5), np.float32), np.zeros(0, np.uint8), "scan.bin is an empty scan"),
        (
            NUSCENES,
            _truncated(nuscenes_scan()),
            np.zeros(3, np.uint8),
            "truncated or has other columns: 57 bytes .* 20",
        ),
        (KITTI, _truncated(kitti_scan()), np.zeros(2, np.uint32), "29 bytes are not a multiple of 16"),
        (NUSCENES, nuscenes_scan(), np.zeros(2, np.uint8), r"scan.label has 2 bytes, expected 3 \(3 points of 1 bytes"),
        (KITTI, kitti_scan(), np.zeros(2, np.uint8), r"scan.label has 2 bytes, expected 8 \(2 points of 4 bytes\)"),
        (
            NUSCENES,
            nuscenes_scan(),
            np.array([0, 32, 99], np.uint8),
            r"scan.label: unknown nuscenes label ids \[32, 99\]",
        ),
        (KITTI, kitti_scan(), np.array([10, 12], np.uint32), r"unknown semantickitti label ids \[12\]"),
        (
            KITTI,
            np.ones((4, 5), np.float32) * 7,
            np.zeros(5, np.uint32),
            "remission reaches from 7 to 7, expected 0 … 1",
        ),
        (NUSCENES, np.full((4, 5), 0.5, np.float32), np.zeros(4, np.uint8), "ring holds 0.5, expected whole numbers"),
    ],
)
def test_bytes_that_are_not_the_format(frame, points, labels, message) -> None:
    with pytest.raises(DataError, match=message):
        decode(written(frame, points, labels))


def test_a_missing_file_is_named() -> None:
    with pytest.raises(StorageError, match=r"cannot read scan.bin: no such file or folder"):
        decode(NUSCENES)


def test_a_real_nuscenes_scan(samples: Path) -> None:
    (file,) = (samples / "mmdet3d_demo" / "nuscenes").glob("*LIDAR_TOP*.pcd.bin")
    frame = decode(Keyframe("t", "nuscenes", "s", "train", 0, str(file)))
    assert frame.points.shape == (34_688, 4)
    np.testing.assert_array_equal(frame.ring.reshape(1084, 32), np.tile(np.arange(32), (1084, 1)))
    assert float(frame.points[:, 3].max()) == pytest.approx(1.0)
    range_m = np.linalg.norm(frame.points[:, :3], axis=1)
    assert float((range_m < 1.0).mean()) == pytest.approx(0.23, abs=0.02)  # no-return rays are in the file
