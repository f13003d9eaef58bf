"""Whether files of a world are whole.

They are written beside their name and renamed, so a killed writer leaves none that is torn; a disk that lost its power
may. A scan and its labels tell by their sizes, other files by their last bytes.
"""

from pathlib import Path

_ENDS = {".jpg": (b"\xff\xd9",), ".png": (b"IEND\xaeB`\x82",), ".json": (b"]", b"}"), ".txt": (b"\n",)}
_LONGEST_END = 8


def is_whole(file: Path) -> bool:
    """Whether a file is there to its last byte, as far as its end says so."""
    if not file.exists():
        return False
    if (ends := _ENDS.get(file.suffix)) is None:
        return True
    with open(file, "rb") as content:
        content.seek(max(0, file.stat().st_size - _LONGEST_END))
        return content.read().endswith(ends)


def is_whole_scan(points: Path, labels: Path, ratio: int) -> bool:
    """Whether a scan and its labels are there with as many points.

    Args:
        points: The scan's file.
        labels: Its labels' file.
        ratio: Bytes of a point to a byte of its label.
    """
    return points.exists() and labels.exists() and points.stat().st_size == ratio * labels.stat().st_size
