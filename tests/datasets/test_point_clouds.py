"""Labelled clouds: the same points, colours and fields come back, by our readers and by other people's."""

import io

import laspy
import numpy as np
import pypcd4
import pytest
from plyfile import PlyData

from ray_lidarseg.datasets.nuscenes import CLASSES
from ray_lidarseg.datasets.point_clouds import CLOUD_FORMATS, NO_TRUTH, cloud_bytes, read_cloud
from ray_lidarseg.errors import DataError
from ray_lidarseg.types import IGNORE

POINTS = np.array([[1.0, -2.5, 0.25, 0.5], [40.0, 3.0, -1.5, 1.0], [np.nan, 0.0, 0.0, 0.0]], np.float32)
LABELS = np.array([3, 10, 15], np.uint8)  # car, driveable surface, vegetation
CONFIDENCE = np.array([0.5, 0.875, 0.0], np.float32)
TRUTH = np.array([3, 12, IGNORE], np.uint8)


def cloud(file_format: str, truth: np.ndarray = TRUTH) -> bytes:
    return cloud_bytes(POINTS, LABELS, CONFIDENCE, truth, CLASSES, file_format)


@pytest.mark.parametrize("file_format", CLOUD_FORMATS)
def test_every_field_comes_back(file_format):
    read = read_cloud(cloud(file_format), file_format, "a file")
    np.testing.assert_allclose(np.stack([read[name] for name in "xyz"], 1)[:2], POINTS[:2, :3], atol=5e-4)
    assert read["label"].tolist() == [4, 11, 16]
    assert read["confidence"].tolist() == [0.5, 0.875, 0.0]
    assert read["error"].tolist() == [0, 1, NO_TRUTH]
    rgb = np.stack([read[name] for name in ("red", "green", "blue")], 1)
    np.testing.assert_array_equal(rgb // 257 if file_format == "las" else rgb, CLASSES.colours[LABELS])


@pytest.mark.parametrize("file_format", CLOUD_FORMATS)
def test_without_truth_there_is_no_error(file_format):
    assert "error" not in read_cloud(cloud(file_format, TRUTH[:0]), file_format, "a file")


def test_las_holds_points_that_are_not_finite_withheld():
    las = laspy.read(io.BytesIO(cloud("las")))
    assert np.asarray(las.withheld).tolist() == [0, 0, 1]
    assert las.xyz[2].tolist() == [0.0, 0.0, 0.0]
    assert las.xyz[:2].tolist() == [[1.0, -2.5, 0.25], [40.0, 3.0, -1.5]]
    assert las.intensity.tolist() == [32768, 65535, 0]
    assert str(las.header.version) == "1.4"


def test_ply_names_its_classes():
    ply = PlyData.read(io.BytesIO(cloud("ply")))
    assert "class 4 car" in ply.comments
    assert [(each.name, each.val_dtype) for each in ply["vertex"].properties][-3:] == [
        ("label", "i4"),
        ("confidence", "f4"),
        ("error", "u1"),
    ]
    np.testing.assert_array_equal(ply["vertex"]["x"], POINTS[:, 0])


def test_another_reader_of_pcd_reads_the_same(tmp_path):
    (tmp_path / "a.pcd").write_bytes(cloud("pcd"))
    read = pypcd4.PointCloud.from_path(tmp_path / "a.pcd")
    assert read.fields == ("x", "y", "z", "intensity", "rgb", "label", "confidence", "error")
    np.testing.assert_array_equal(read.numpy(("x", "intensity")), POINTS[:, [0, 3]])
    assert read.pc_data["label"].tolist() == [4, 11, 16]
    np.testing.assert_array_equal(pypcd4.PointCloud.decode_rgb(read.pc_data["rgb"]), CLASSES.colours[LABELS])


@pytest.mark.parametrize("file_format", ["pcd", "ply"])
def test_open3d_reads_the_same(tmp_path, file_format):
    open3d = pytest.importorskip("open3d", reason="needs open3d, which brings a notebook stack along")
    (tmp_path / f"a.{file_format}").write_bytes(cloud(file_format))
    read = open3d.t.io.read_point_cloud(str(tmp_path / f"a.{file_format}")).point
    np.testing.assert_array_equal(read["positions"].numpy(), POINTS[:, :3])
    np.testing.assert_array_equal(read["colors"].numpy(), CLASSES.colours[LABELS])
    expected = {"label": [4, 11, 16], "confidence": [0.5, 0.875, 0.0], "error": [0, 1, NO_TRUTH]}
    assert {name: read[name].numpy().ravel().tolist() for name in expected} == expected


@pytest.mark.parametrize("file_format", CLOUD_FORMATS)
def test_torn_and_foreign_files_are_named(file_format):
    with pytest.raises(DataError, match=r"a\.file"):
        read_cloud(cloud(file_format)[:-9], file_format, "a.file")
    with pytest.raises(DataError, match=r"a\.file"):
        read_cloud(b"nothing of this kind", file_format, "a.file")


def test_a_cloud_of_others_lacks_fields():
    from ray_lidarseg.datasets.pcd import pcd_bytes

    content = pcd_bytes(dict.fromkeys("xyz", POINTS[:, 0]))
    with pytest.raises(DataError, match="no field label, confidence"):
        read_cloud(content, "pcd", "a.pcd")
