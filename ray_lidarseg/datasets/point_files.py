"""Point files in the formats teams keep their logs in, read into named columns.

========== ============================================================================================================
format     content
========== ============================================================================================================
bin4       float32 x, y, z, intensity (KITTI); default of ``.bin``
bin5       float32 x, y, z, intensity, ring (nuScenes); default of ``.pcd.bin``
bin6       float32 x, y, z, intensity, ring, time
npy        structured array with named fields, or floating [P, 3 … 5] in the order x, y, z, intensity, ring
pcd        PCL point cloud, fields by name (``pcd.py``)
parquet    one row per point, columns by name
========== ============================================================================================================

Names are matched without regard to case. Intensity may also be called i, reflectivity, remission or reflectance; ring
also channel, line, laser_id. A ``.bin`` says nothing about its content, see ``float_rows.py``. Points that are NaN
stay: labels belong to them by position, and training drops them.
"""

import io
from collections.abc import Callable, Mapping

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ray_lidarseg.datasets.file_formats import format_by_name
from ray_lidarseg.datasets.pcd import read_pcd
from ray_lidarseg.errors import DataError
from ray_lidarseg.recipe.bad_input import shown

Columns = dict[str, np.ndarray]
"""Arrays of one length by lower-case name."""

_POSITIONAL = ("x", "y", "z", "intensity", "ring", "time")
_ALIASES = {
    "intensity": ("intensity", "i", "reflectivity", "remission", "reflectance"),
    "ring": ("ring", "channel", "line", "laser_id"),
}
_EXTENSIONS = {".pcd.bin": "bin5", ".bin": "bin4", ".npy": "npy", ".pcd": "pcd", ".parquet": "parquet"}
MAX_SCAN_BYTES = 256 << 20
"""Decoded points of one file that take more are refused: a hundred times the scan of a 128-beam LiDAR. Ours."""


def format_of(uri: str) -> str:
    """The default format of a file name.

    Raises:
        DataError: The extension says nothing about the format.
    """
    if point_format := format_by_name(uri, _EXTENSIONS):
        return point_format
    raise DataError(
        f"{uri}: cannot tell the point format from the name; expected one of {', '.join(_EXTENSIONS)}, or set "
        f"point_format to one of {', '.join(FORMATS)}"
    )


def has_known_extension(uri: str) -> bool:
    """Whether the name alone says the format."""
    return bool(format_by_name(uri, _EXTENSIONS))


def read_columns(content: bytes, point_format: str, uri: str) -> Columns:
    """The columns of a point file, in file order.

    Args:
        content: The file.
        point_format: One of ``FORMATS``.
        uri: Its name, for errors.

    Raises:
        DataError: Empty, truncated, corrupt, or without x, y, z.
    """
    if not content:
        raise DataError(f"{uri} is an empty file: expected points as {point_format}")
    columns = FORMATS[point_format](content, uri)
    missing = [name for name in "xyz" if name not in columns]
    if missing:
        raise DataError(f"{uri} has no column {', '.join(missing)}: it has {', '.join(columns) or 'none'}")
    _refuse_text(columns, uri)
    if not len(columns["x"]):
        raise DataError(f"{uri} holds no points")
    return columns


def _refuse_text(columns: Columns, uri: str) -> None:
    """Only what a model reads must be numbers; other columns may hold anything."""
    needed = ("x", "y", "z", *_ALIASES["intensity"], *_ALIASES["ring"])
    wrong = [_described(name, columns[name]) for name in needed if name in columns and not _is_number(columns[name])]
    if wrong:
        raise DataError(f"{uri}: column {', '.join(wrong)}: expected one number per point; write float32")


def _described(name: str, values: np.ndarray) -> str:
    return f"{shown(name)[1:-1]} ({values.dtype}{list(values.shape[1:]) if values.ndim > 1 else ''})"


def _is_number(values: np.ndarray) -> bool:
    return values.dtype.kind in "fiu" and values.ndim == 1


def column(columns: Columns, role: str) -> np.ndarray | None:
    """The ``intensity`` or the ``ring`` column under any of its names, or None."""
    return next((columns[name] for name in _ALIASES[role] if name in columns), None)


def _binary(num_columns: int) -> Callable[[bytes, str], Columns]:
    names = _POSITIONAL[:num_columns]

    def read(content: bytes, uri: str) -> Columns:
        if len(content) % (4 * num_columns):
            raise DataError(
                f"{uri} is truncated or has other columns: {len(content)} bytes are not a multiple of "
                f"{4 * num_columns} (float32 {', '.join(names)}); set point_format if the columns differ"
            )
        values = np.frombuffer(content, "<f4").reshape(-1, num_columns)
        return dict(zip(names, values.T, strict=True))

    return read


def _npy(content: bytes, uri: str) -> Columns:
    values = load_npy(content, uri)
    if values.dtype.names:
        return _named({name: values[name].reshape(-1) for name in values.dtype.names}, uri)
    if values.ndim != 2 or not 3 <= values.shape[1] <= 5 or values.dtype.kind != "f":
        raise DataError(
            f"{uri} holds {values.dtype} {list(values.shape)}: expected floating [P, 3], [P, 4] or [P, 5] "
            f"({', '.join(_POSITIONAL[:5])}), or a structured array with these fields"
        )
    return dict(zip(_POSITIONAL[: values.shape[1]], values.T, strict=True))


def load_npy(content: bytes, uri: str) -> np.ndarray:
    """The array of a ``.npy`` file; pickled objects are refused.

    Raises:
        DataError: It is no whole ``.npy`` file.
    """
    try:
        return np.lib.format.read_array(io.BytesIO(content), allow_pickle=False)
    except Exception as error:  # the parser of the header promises no type
        reason = " ".join(str(error).split())
        raise DataError(f"{uri} is truncated or not a .npy file: {reason:.200}") from error


def _pcd(content: bytes, uri: str) -> Columns:
    return _named(read_pcd(content, uri, MAX_SCAN_BYTES), uri)


def _parquet(content: bytes, uri: str) -> Columns:
    try:
        file = pq.ParquetFile(io.BytesIO(content))
        numbers = {field.name: field.type.bit_width // 8 for field in file.schema_arrow if _is_numeric(field.type)}
        num_rows = sum(file.metadata.row_group(group).num_rows for group in range(file.num_row_groups))
        num_bytes = num_rows * sum(numbers.values())
        if num_bytes > MAX_SCAN_BYTES:
            raise DataError(f"{uri} holds {num_bytes} bytes of points, more than the {MAX_SCAN_BYTES} we decode")
        table = file.read(columns=list(numbers), use_threads=False)
    except (pa.ArrowException, OSError, ValueError, MemoryError) as error:
        raise DataError(f"{uri} is truncated or not a Parquet file: {_one_line(error)}") from error
    with_nulls = [field.name for field in file.schema_arrow if pa.types.is_null(field.type)]
    with_nulls += [name for name in table.column_names if table[name].null_count]
    if with_nulls:
        raise DataError(f"{uri}: null in {', '.join(with_nulls)}: write NaN for a missing return")
    unread = {name: np.empty(0, object) for name in file.schema_arrow.names if name not in numbers}
    return _named({**{name: table[name].to_numpy() for name in table.column_names}, **unread}, uri)


def _is_numeric(kind: pa.DataType) -> bool:
    return pa.types.is_integer(kind) or pa.types.is_floating(kind)


def _one_line(error: Exception) -> str:
    return f"{' '.join(str(error).split()):.200}"


def _named(columns: Mapping[str, np.ndarray], uri: str) -> Columns:
    """By lower-case name; of two names that differ in case only, none could be asked for."""
    named = {name.lower(): values for name, values in columns.items()}
    if len(named) < len(columns):
        raise DataError(f"{uri} has columns whose names differ in case only: {', '.join(columns)}: rename them")
    return named


FORMATS: dict[str, Callable[[bytes, str], Columns]] = {
    "bin4": _binary(4),
    "bin5": _binary(5),
    "bin6": _binary(6),
    "npy": _npy,
    "pcd": _pcd,
    "parquet": _parquet,
}
"""Reader of each point format."""
