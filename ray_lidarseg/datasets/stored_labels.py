"""Labels of own logs, in a file of their own or in a column of the scan's: one raw id per point (``manifest.py``)."""

import numpy as np
from jaxtyping import Bool, Integer, Shaped

from ray_lidarseg import storage
from ray_lidarseg.datasets.file_formats import format_by_name, split_format
from ray_lidarseg.datasets.label_bits import CLASS_MASK, refuse_pairs, refuse_upper_half
from ray_lidarseg.datasets.point_files import Columns, load_npy
from ray_lidarseg.errors import DataError
from ray_lidarseg.recipe.bad_input import nearest
from ray_lidarseg.sample import Keyframe

UNLABELLED = -1
"""In a signed type: a point without label."""

_LABEL_FORMATS = {"uint8": "<u1", "uint16": "<u2", "uint32": "<u4", "npy": ""}
_LABEL_EXTENSIONS = {".label": "uint32", ".bin": "uint8", ".npy": "npy"}


def label_format_of(uri: str) -> str:
    """The default format of a label file.

    Raises:
        DataError: The extension says nothing about it.
    """
    if label_format := format_by_name(uri, _LABEL_EXTENSIONS):
        return label_format
    raise DataError(
        f"{uri}: cannot tell from the name how wide its ids are: set label_format to one of {', '.join(_LABEL_FORMATS)}"
    )


def stored_ids(frame: Keyframe, columns: Columns) -> tuple[str, Shaped[np.ndarray, "P"], Bool[np.ndarray, "P"]]:
    """Where the labels lie, their ids as stored, and which points have none.

    Args:
        frame: Says where.
        columns: Of its point file.

    Raises:
        DataError: A file is empty, truncated or corrupt, or its labels do not fit its points.
        StorageError: A file is missing or cannot be read.
    """
    uri = frame.labels_uri
    if uri.startswith("#"):
        place, raw = f"{frame.points_uri}, column {uri[1:]}", _label_column(columns, uri[1:], frame.points_uri)
    else:
        file, stated = split_format(uri, _LABEL_FORMATS)
        place = file
        raw = _label_file(storage.read_bytes(file), len(columns["x"]), file, stated or label_format_of(file))
        if raw.dtype == np.uint32:
            refuse_upper_half(raw, file)
        if not stated and raw.dtype == np.uint32:
            refuse_pairs(raw, file)
    if raw.dtype.kind not in "ui":
        raise DataError(f"{place} holds {raw.dtype}: expected integers, one raw id per point")
    if raw.shape != columns["x"].shape:
        raise DataError(
            f"{place} has shape {list(raw.shape)}, the scan has {len(columns['x'])} points: expected one id per point"
        )
    return place, raw, raw == UNLABELLED if raw.dtype.kind == "i" else np.zeros(raw.shape, bool)


def classes_of(raw: Integer[np.ndarray, "P"]) -> Integer[np.ndarray, "P"]:
    """The semantic part of raw ids; a loader's int32 and int64 hold what the file's uint32 did."""
    if raw.dtype.itemsize < 4:
        return raw
    wide = raw.astype(np.int64)
    wide = np.where((wide < 0) & (wide >= -(2**31)), wide + 2**32, wide)
    return np.where((wide >= 0) & (wide < 2**32), wide & CLASS_MASK, wide)


def _label_column(columns: Columns, name: str, uri: str) -> np.ndarray:
    if name.lower() not in columns:
        raise DataError(f"{uri} has no label column {name!r}{nearest(name, set(columns))}: it has {', '.join(columns)}")
    return columns[name.lower()]


def _label_file(content: bytes, num_points: int, uri: str, label_format: str) -> np.ndarray:
    if label_format == "npy":
        return load_npy(content, uri).reshape(-1)
    dtype = np.dtype(_LABEL_FORMATS[label_format])
    if len(content) != num_points * dtype.itemsize:
        raise DataError(
            f"{uri} has {len(content)} bytes, expected {num_points * dtype.itemsize} ({num_points} points of "
            f"{label_format}): labels and scan do not belong together, the file is truncated, or label_format must say "
            f"another width ({', '.join(_LABEL_FORMATS)})"
        )
    return np.frombuffer(content, dtype)
