from pathlib import Path

import numpy as np
import pytest

from ray_lidarseg.datasets.scans import decode_scan, scan_id
from ray_lidarseg.errors import DataError


def kitti_bytes(num_points: int) -> bytes:
    rng = np.random.default_rng(0)
    return np.column_stack([rng.normal(0, 9, (num_points, 3)), rng.uniform(0, 1, num_points)]).astype("<f4").tobytes()


def nuscenes_bytes(num_points: int) -> bytes:
    rng = np.random.default_rng(0)
    columns = [rng.normal(0, 9, (num_points, 3)), rng.integers(2, 256, num_points), np.arange(num_points) % 32]
    return np.column_stack(columns).astype("<f4").tobytes()


@pytest.fixture(autouse=True)
def _in_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def written(name: str, content: bytes) -> str:
    Path(name).write_bytes(content)
    return name


def test_the_size_decides_where_it_can():
    assert decode_scan(written("a.bin", kitti_bytes(7))).dataset == "semantickitti"
    assert decode_scan(written("a.bin", nuscenes_bytes(7))).dataset == "nuscenes"


def test_the_values_decide_where_the_size_fits_both():
    assert len(decode_scan(written("a.bin", kitti_bytes(20))).points) == 20
    frame = decode_scan(written("a.bin", nuscenes_bytes(16)))
    assert len(frame.points) == 16
    assert frame.points[:, 3].max() <= 1.0


def test_a_file_that_fits_both_needs_columns():
    zeros = np.zeros(20, "<f4").tobytes()
    with pytest.raises(DataError, match="4 and with 5 columns: say which with --columns"):
        decode_scan(written("a.bin", zeros))
    assert len(decode_scan(written("a.bin", zeros), columns=5).points) == 4


def test_the_name_says_five_columns():
    assert decode_scan(written("a.pcd.bin", np.zeros(20, "<f4").tobytes())).dataset == "nuscenes"
    with pytest.raises(DataError, match="truncated"):
        decode_scan(written("a.pcd.bin", kitti_bytes(7)))


@pytest.mark.parametrize("content", [b"", b"\0" * 35])
def test_empty_and_truncated_files_are_named(content):
    with pytest.raises(DataError, match=r"a\.bin is empty or truncated"):
        decode_scan(written("a.bin", content))


def test_a_file_of_other_content_says_why_each_layout_fails():
    with pytest.raises(DataError, match=r"fits no layout; .*remission reaches"):
        decode_scan(written("a.bin", np.full(28, -5.0, "<f4").tobytes()))


def test_three_columns_are_no_layout():
    with pytest.raises(DataError, match="--columns 3: expected 4"):
        decode_scan(written("a.bin", kitti_bytes(4)), columns=3)


@pytest.mark.parametrize(
    ("uri", "name"),
    [
        ("/data/sequences/08/velodyne/000123.bin", "08/000123"),
        ("s3://bucket/sequences/08/velodyne/000123.bin", "08/000123"),
        ("/data/samples/LIDAR_TOP/n015__LIDAR_TOP__1.pcd.bin", "n015__LIDAR_TOP__1"),
        ("scan.bin", "scan"),
    ],
)
def test_names(uri, name):
    assert scan_id(uri) == name
