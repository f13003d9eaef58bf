import struct

import numpy as np
import pytest

from ray_lidarseg.datasets.pcd import read_pcd
from ray_lidarseg.datasets.point_files import read_columns
from ray_lidarseg.errors import DataError

LIMIT = 1 << 20
HEADER = {
    "VERSION": "0.7",
    "FIELDS": "x y z class",
    "SIZE": "4 4 4 2",
    "TYPE": "F F F U",
    "COUNT": "1 1 1 1",
    "WIDTH": "2",
    "HEIGHT": "1",
    "VIEWPOINT": "0 0 0 1 0 0 0",
    "POINTS": "2",
    "DATA": "binary",
}
BODY = struct.pack("<fffHfffH", 1, 2, 3, 7, 4, 5, 6, 8)
BLOCKS = struct.pack("<ffffffHH", 1, 4, 2, 5, 3, 6, 7, 8)


def pcd(body: bytes = BODY, comment: bytes = b"", **changes: str | None) -> bytes:
    entries = {**HEADER, **changes}
    lines = [f"{key} {value}".encode() for key, value in entries.items() if value is not None]
    return b"\n".join([b"# .PCD " + comment, *lines]) + b"\n" + body


@pytest.mark.parametrize(
    "content",
    [
        pcd(),
        pcd(comment="Größe".encode("latin-1")),
        pcd(comment="Größe".encode()),
        pcd(comment=b"\xff\xfe\x00"),
        pcd(VERSION=".7"),
        pcd(VERSION=".6"),
        pcd().replace(b"FIELDS", b"COLUMNS").replace(b"VERSION 0.7", b"VERSION .5"),
        pcd(COUNT=None),
        pcd(HEIGHT=None, VIEWPOINT=None),
        pcd(POINTS=None),
        pcd(WIDTH=None, HEIGHT=None),
        pcd(WIDTH="1", HEIGHT="2"),
        pcd(DATA="BINARY"),
        pcd().replace(b"\nWIDTH", b"\n\n# between\nWIDTH"),
        pcd().replace(b"\n", b"\r\n", 11),
        pcd(BODY + b"\0\0\n"),
        pcd(FIELDS="x y z _ class", SIZE="4 4 4 8 2", TYPE="F F F F U", COUNT="1 1 1 0 1"),
        pcd(
            struct.pack("<fff3xHfff3xH", 1, 2, 3, 7, 4, 5, 6, 8),
            FIELDS="x y z _ class",
            SIZE="4 4 4 1 2",
            TYPE="F F F U U",
            COUNT="1 1 1 3 1",
        ),
        pcd(b"1 2 3 7\n4 5 6 8\n", DATA="ascii"),
        pcd(b"1 2 3 7\r\n\r\n  4\t5 6 8", DATA="ascii"),
        pcd(struct.pack("<II", 28, 28) + BLOCKS, DATA="binary_compressed"),
        pcd(struct.pack("<II", 29, 28) + b"\x1b" + BLOCKS, DATA="binary_compressed"),  # one run of 28 literal bytes
    ],
)
def test_every_dialect_gives_the_same_points(content: bytes) -> None:
    columns = read_pcd(content, "a.pcd", LIMIT)
    assert list(columns) == ["x", "y", "z", "class"]
    assert np.stack([columns[name] for name in "xyz"], 1).tolist() == [[1, 2, 3], [4, 5, 6]]
    assert columns["class"].tolist() == [7, 8]
    assert columns["class"].dtype == np.uint16


def test_columns_of_the_oldest_version_need_no_sizes_and_types() -> None:
    text = b"COLUMNS x y z\nPOINTS 1\nDATA ascii\n1.5 nan -inf\n"
    columns = read_pcd(text, "a.pcd", LIMIT)
    assert columns["x"].tolist() == [1.5]
    assert np.isnan(columns["y"][0])
    assert columns["z"].tolist() == [-np.inf]


def test_several_numbers_a_point_stay_together() -> None:
    content = pcd(BODY, FIELDS="xyz class", SIZE="4 2", TYPE="F U", COUNT="3 1")
    assert read_pcd(content, "a.pcd", LIMIT)["xyz"].tolist() == [[1, 2, 3], [4, 5, 6]]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "no DATA line"),
        (b"#" * (2 << 20), "no DATA line"),
        (pcd(VERSION="0.8"), "VERSION '0.8': expected 0.5, 0.6 or 0.7"),
        (pcd(DATA="zip"), "DATA 'zip': expected ascii, binary, binary_compressed"),
        (pcd(TYPE="F F F Q"), "field 'class' is of TYPE 'Q', SIZE '2': expected I or U of 1, 2, 4 or 8 bytes, or F"),
        (pcd(SIZE="4 4 4"), "it has 4 FIELDS, 3 SIZE, 4 TYPE, 4 COUNT"),
        (pcd(COUNT="1 1 1 -1"), "COUNT of field 'class' is '-1': expected a whole number"),
        (pcd(FIELDS="x y x class"), "field 'x' occurs more than once"),
        (pcd(FIELDS="x y X class"), "field 'x' occurs more than once"),
        (pcd(WIDTH="²"), "WIDTH is .*: expected a whole number"),
        (pcd(WIDTH=None, HEIGHT=None, POINTS=None), "neither WIDTH nor POINTS"),
        (pcd(POINTS="3"), "POINTS 3 is not WIDTH 2 times HEIGHT 1"),
        (pcd(WIDTH="200000", POINTS="200000"), "is truncated: the header promises 2800000 bytes"),
        (pcd(WIDTH="200000", POINTS="200000", DATA="ascii"), "promises 2800000 bytes of points, more than the 1048576"),
        (pcd(BODY + b"more"), "it promises 28 bytes of points, the file has 32"),
        (pcd(BODY[:-1]), "is truncated: the header promises 28 bytes of points, the file has 27"),
        (pcd(b"1 2 3 7\n4 5 6", DATA="ascii"), "the PCD body is corrupt .ascii.: .*number of columns changed"),
        (pcd(b"1 2 3\n7 4 5\n", DATA="ascii"), "a line of the PCD body has 3 numbers, the header promises 4"),
        (pcd(b"1 2 3 7\n", DATA="ascii"), "the header promises 2 points, the body holds 1"),
        (pcd(b"1 2 3 -7\n4 5 6 8\n", DATA="ascii"), "field class holds -7: expected uint16 as the header says"),
        (pcd(b"1 2 3 7.5\n4 5 6 8\n", DATA="ascii"), "field class holds 7.5: expected uint16"),
        (pcd(b"1 2 3 nan\n4 5 6 8\n", DATA="ascii"), "field class holds nan: expected uint16"),
        (pcd(b"1 2 3 x\n4 5 6 8\n", DATA="ascii"), "body is corrupt .ascii.: could not convert"),
        (pcd(b"\xff", DATA="ascii"), "body is corrupt .ascii."),
        (pcd(b"1234567", DATA="binary_compressed"), "it has no sizes"),
        (pcd(struct.pack("<II", 28, 27) + BLOCKS, DATA="binary_compressed"), "it unpacks to 27 bytes, .* promises 28"),
        (pcd(struct.pack("<II", 29, 28) + BLOCKS, DATA="binary_compressed"), "29 bytes for 28, 28 are there"),
        (pcd(struct.pack("<II", 27, 28) + BLOCKS, DATA="binary_compressed"), "it does not unpack"),
    ],
)
def test_what_a_cloud_cannot_be_is_said_in_our_words(content: bytes, message: str) -> None:
    with pytest.raises(DataError, match=f"a.pcd.*{message}") as caught:
        read_pcd(content, "a.pcd", LIMIT)
    assert "pydantic" not in str(caught.value)
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize("data", ["binary", "ascii", "binary_compressed"])
def test_a_cloud_without_points_is_said_to_hold_none(data):
    body = struct.pack("<II", 0, 0) if data == "binary_compressed" else b""
    with pytest.raises(DataError, match=r"^a.pcd holds no points$"):
        read_columns(pcd(body, WIDTH="0", POINTS="0", DATA=data), "pcd", "a.pcd")
