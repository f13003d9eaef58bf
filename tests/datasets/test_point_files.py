import io
import struct

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pypcd4 import Encoding, PointCloud

from ray_lidarseg.datasets.point_files import column, format_of, read_columns
from ray_lidarseg.errors import DataError

POINTS = np.array([[1, 2, 3, 0.5, 0], [4, 5, 6, 0.25, 31], [7, np.nan, 9, 1, 2]], np.float32)
NAMES = ("x", "y", "z", "intensity", "ring")


def pcd(encoding: Encoding = Encoding.BINARY) -> bytes:
    # A long cloud, because a short one does not get smaller and is then written uncompressed.
    cloud = PointCloud.from_points(np.tile(POINTS, (50, 1)), NAMES, (np.float32,) * 4 + (np.uint16,))
    file = io.BytesIO()
    cloud.save(file, encoding)
    return file.getvalue()


def npy(values: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, values)
    return file.getvalue()


def parquet(columns: dict[str, object]) -> bytes:
    file = io.BytesIO()
    pq.write_table(pa.table(columns), file)
    return file.getvalue()


def structured() -> np.ndarray:
    values = np.zeros(3, [(name, np.float32) for name in ("X", "Y", "Z", "reflectivity")] + [("class", np.uint16)])
    for name, numbers in zip(("X", "Y", "Z", "reflectivity"), POINTS.T, strict=False):
        values[name] = numbers
    values["class"] = [7, 8, 9]
    return values


@pytest.mark.parametrize(
    ("content", "point_format", "num_columns"),
    [
        (POINTS[:, :4].tobytes(), "bin4", 4),
        (POINTS.tobytes(), "bin5", 5),
        (npy(POINTS[:, :3]), "npy", 3),
        (npy(POINTS[:, :4]), "npy", 4),
        (npy(POINTS.astype(np.float64)), "npy", 5),
        (parquet(dict(zip(NAMES, POINTS.T, strict=True))), "parquet", 5),
    ],
)
def test_every_format_gives_the_same_columns(content: bytes, point_format: str, num_columns: int) -> None:
    columns = read_columns(content, point_format, "scan")
    assert list(columns) == list(NAMES[:num_columns])
    for name, expected in zip(columns, POINTS.T, strict=False):
        np.testing.assert_array_equal(columns[name], expected)


@pytest.mark.parametrize("encoding", [Encoding.ASCII, Encoding.BINARY, Encoding.BINARY_COMPRESSED])
def test_pcd_in_all_three_encodings(encoding: Encoding) -> None:
    content = pcd(encoding)
    assert f"DATA {encoding.value}".encode() in content
    columns = read_columns(content, "pcd", "scan.pcd")
    np.testing.assert_array_equal(np.stack([columns[name] for name in NAMES], 1), np.tile(POINTS, (50, 1)))


def test_pcd_of_one_point_and_with_padding() -> None:
    header = "VERSION 0.7\nFIELDS x y z _\nSIZE 4 4 4 1\nTYPE F F F U\nCOUNT 1 1 1 4\nWIDTH 1\nHEIGHT 1\n"
    header += "VIEWPOINT 0 0 0 1 0 0 0\nPOINTS 1\nDATA binary\n"
    columns = read_columns(header.encode() + struct.pack("<fff4x", 1, 2, 3), "pcd", "scan.pcd")
    assert [columns[name].tolist() for name in "xyz"] == [[1.0], [2.0], [3.0]]
    ascii_header = header.replace(" _", "").replace(" 1\nTYPE", "\nTYPE").replace(" U", "").replace("1 1 1 4", "1 1 1")
    columns = read_columns(ascii_header.replace("binary", "ascii").encode() + b"1 2 nan\n", "pcd", "scan.pcd")
    assert columns["y"].tolist() == [2.0]
    assert np.isnan(columns["z"][0])


def test_names_are_found_under_their_aliases() -> None:
    columns = read_columns(npy(structured()), "npy", "scan.npy")
    assert column(columns, "intensity").tolist() == [0.5, 0.25, 1.0]  # type: ignore[union-attr]
    assert column(columns, "ring") is None
    assert columns["class"].tolist() == [7, 8, 9]


@pytest.mark.parametrize(
    ("uri", "expected"),
    [
        ("a.bin", "bin4"),
        ("a.pcd.bin", "bin5"),
        ("s3://b/A.PCD", "pcd"),
        ("a.npy", "npy"),
        ("s3://b/a.pcd?region=eu", "pcd"),
        ("/what?/a#.pcd", "pcd"),
    ],
)
def test_format_follows_the_extension(uri: str, expected: str) -> None:
    assert format_of(uri) == expected


def test_columns_that_no_model_reads_may_hold_anything() -> None:
    columns = read_columns(parquet({"x": [1.0], "y": [1], "z": [1.0], "note": ["far"]}), "parquet", "scan")
    assert columns["y"].tolist() == [1]


def test_unknown_extension() -> None:
    with pytest.raises(DataError, match=r"a.las: cannot tell the point format .* set point_format"):
        format_of("a.las")


@pytest.mark.parametrize(
    ("content", "point_format", "message"),
    [
        (b"", "bin4", "scan is an empty file"),
        (b"\0" * 15, "bin4", "truncated or has other columns: 15 bytes are not a multiple of 16"),
        (b"\0" * 16, "bin5", "16 bytes are not a multiple of 20"),
        (npy(POINTS)[:-4], "npy", "truncated or not a .npy file"),
        (b"nonsense", "npy", "truncated or not a .npy file"),
        (npy(np.array([None])), "npy", "not a .npy file: Object arrays"),
        (npy(np.zeros((3, 5), np.int16)), "npy", r"holds int16 \[3, 5\]: expected floating"),
        (npy(POINTS[:, :2]), "npy", r"holds float32 \[3, 2\]"),
        (npy(POINTS[:0]), "npy", "holds no points"),
        (npy(np.zeros(2, [("x", "f4"), ("y", "f4")])), "npy", "has no column z: it has x, y"),
        (parquet({"x": [1.0]})[:-3], "parquet", "truncated or not a Parquet file"),
        (parquet({"x": [1.0], "y": [1.0]}), "parquet", "has no column z"),
        (parquet({"x": [1.0], "y": [1.0], "z": [None, 1.0][:1]}), "parquet", "null in z: write NaN"),
        (
            parquet({"x": ["1"], "y": [1.0], "z": [1.0]}),
            "parquet",
            r"column x \(object\): expected one number per point",
        ),
        (parquet({"x": [[1.0]], "y": [1.0], "z": [1.0]}), "parquet", "column x .*: expected one number per point"),
        (
            npy(np.array([(1, 2, 3, "a")], [("x", "f4"), ("y", "f4"), ("z", "f4"), ("i", "U1")])),
            "npy",
            r"column i \(<U1\): expected one number per point; write float32",
        ),
        (
            pcd().replace(b"FIELDS x y z intensity ring", b"FIELDS x y z intensity"),
            "pcd",
            "it has 4 FIELDS, 5 SIZE, 5 TYPE, 5 COUNT, expected one of each",
        ),
        (b"ply\nformat ascii\n", "pcd", "PCD header is corrupt: no DATA line"),
        (b"\xff\xfe" * 100, "pcd", "PCD header is corrupt"),
        (pcd().replace(b"POINTS 150", b"POINTS 900"), "pcd", "POINTS 900 is not WIDTH 150 times HEIGHT 1"),
        (pcd().replace(b"TYPE F", b"TYPE Q"), "pcd", "PCD header is corrupt"),
        (pcd().replace(b"SIZE 4", b"SIZE 3"), "pcd", "PCD header is corrupt"),
        (pcd().replace(b"COUNT 1 1", b"COUNT -1 1"), "pcd", "PCD header is corrupt"),
        (pcd().replace(b"DATA binary", b"DATA zip"), "pcd", "PCD header is corrupt"),
        (pcd()[:-18], "pcd", "body is truncated or corrupt|is truncated"),
        (pcd()[:-1], "pcd", "body is truncated or corrupt|is truncated"),
        (pcd(Encoding.BINARY_COMPRESSED)[:-5], "pcd", "body is truncated or corrupt"),
        (pcd(Encoding.ASCII).rpartition(b"\n1")[0] + b"\n", "pcd", "header promises 150 points, the body holds 1"),
        (
            pcd().replace(b"WIDTH 150", b"WIDTH 99000000000").replace(b"POINTS 150", b"POINTS 99000000000"),
            "pcd",
            "is truncated: the header promises 1782000000000 bytes",
        ),
    ],
)
def test_bad_files_are_named_with_their_fault(content: bytes, point_format: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_columns(content, point_format, "scan")
