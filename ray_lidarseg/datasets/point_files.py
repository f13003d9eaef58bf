"""Point files in the formats teams keep their logs in, read into named columns.

========== ============================================================================================================
format     content
========== ============================================================================================================
bin4       float32 x, y, z, intensity (KITTI); default of ``.bin``
bin5       float32 x, y, z, intensity, ring (nuScenes); default of ``.pcd.bin``
npy        structured array with named fields, or floating [P, 3 … 5] in the order x, y, z, intensity, ring
pcd        PCL point cloud: ascii, binary or binary_compressed, fields by name
parquet    one row per point, columns by name
========== ============================================================================================================

Names are matched without regard to case. Intensity may also be called i, reflectivity, remission or reflectance; ring
also channel, line, laser_id. Points that are NaN stay: labels belong to them by position, and training drops them.
"""

import io
from collections.abc import Callable, Mapping

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pypcd4 import MetaData, PointCloud

from ray_lidarseg import storage
from ray_lidarseg.errors import DataError

Columns = dict[str, np.ndarray]
"""Arrays of one length by lower-case name."""

_POSITIONAL = ("x", "y", "z", "intensity", "ring")
_ALIASES = {
    "intensity": ("intensity", "i", "reflectivity", "remission", "reflectance"),
    "ring": ("ring", "channel", "line", "laser_id"),
}
_EXTENSIONS = {".pcd.bin": "bin5", ".bin": "bin4", ".npy": "npy", ".pcd": "pcd", ".parquet": "parquet"}
_PCD_HEADER_LINES = 10  # VERSION … DATA, comments not counted
_MAX_LZF_RATIO = 264  # the longest match takes three bytes; a header that promises more is corrupt


def format_of(uri: str) -> str:
    """The default format of a file name.

    Raises:
        DataError: The extension says nothing about the format.
    """
    name = storage.name_of(uri).lower()
    for extension, point_format in _EXTENSIONS.items():
        if name.endswith(extension):
            return point_format
    raise DataError(
        f"{uri}: cannot tell the point format from the name; expected one of {', '.join(_EXTENSIONS)}, or set "
        f"point_format to one of {', '.join(FORMATS)}"
    )


def has_known_extension(uri: str) -> bool:
    """Whether the name alone says the format."""
    return storage.name_of(uri).lower().endswith(tuple(_EXTENSIONS))


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
    wrong = [f"{name} ({columns[name].dtype})" for name in needed if name in columns and not _is_number(columns[name])]
    if wrong:
        raise DataError(f"{uri}: column {', '.join(wrong)}: expected one number per point; write float32")


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
        return _named({name: values[name].reshape(-1) for name in values.dtype.names})
    if values.ndim != 2 or not 3 <= values.shape[1] <= 5 or values.dtype.kind != "f":
        raise DataError(
            f"{uri} holds {values.dtype} {list(values.shape)}: expected floating [P, 3], [P, 4] or [P, 5] "
            f"({', '.join(_POSITIONAL)}), or a structured array with these fields"
        )
    return dict(zip(_POSITIONAL[: values.shape[1]], values.T, strict=True))


def load_npy(content: bytes, uri: str) -> np.ndarray:
    """The array of a ``.npy`` file; pickled objects are refused.

    Raises:
        DataError: It is no whole ``.npy`` file.
    """
    try:
        return np.lib.format.read_array(io.BytesIO(content), allow_pickle=False)
    except (ValueError, EOFError, OSError, SyntaxError, MemoryError) as error:
        raise DataError(f"{uri} is truncated or not a .npy file: {error}") from error


def _pcd(content: bytes, uri: str) -> Columns:
    metadata = _pcd_header(content, uri)
    try:
        cloud = PointCloud.from_fileobj(io.BytesIO(content))  # type: ignore[arg-type]
        rows = np.atleast_1d(cloud.pc_data)
    except Exception as error:  # the parser promises no type for a corrupt body
        raise DataError(f"{uri}: the PCD body is truncated or corrupt ({metadata.data.value}): {error}") from error
    if len(rows) != metadata.points:
        raise DataError(f"{uri} is truncated: the header promises {metadata.points} points, the body holds {len(rows)}")
    return _named({name: rows[name] for name in rows.dtype.names or ()})


def _pcd_header(content: bytes, uri: str) -> MetaData:
    """Checks the header before anything is allocated by its numbers."""
    try:
        metadata = MetaData.parse_header(_pcd_header_lines(content))
        promised_bytes = metadata.points * metadata.build_dtype().itemsize
    except (ValueError, KeyError, IndexError, TypeError) as error:
        reason = " ".join(str(error).split())
        raise DataError(f"{uri}: the PCD header is corrupt: {reason:.200}") from error
    counts = {name: len(getattr(metadata, name)) for name in ("fields", "size", "type", "count")}
    if len(set(counts.values())) != 1:
        described = ", ".join(f"{number} {name.upper()}" for name, number in counts.items())
        raise DataError(f"{uri}: the PCD header is corrupt: it has {described}, expected one of each per field")
    if metadata.points != metadata.width * metadata.height:
        raise DataError(
            f"{uri}: the PCD header is corrupt: POINTS {metadata.points} is not WIDTH {metadata.width} times "
            f"HEIGHT {metadata.height}"
        )
    ratio = _MAX_LZF_RATIO if "compressed" in metadata.data.value else 1
    if metadata.data.value != "ascii" and promised_bytes > ratio * len(content):
        raise DataError(
            f"{uri} is truncated: the header promises {promised_bytes} bytes of points, the file has {len(content)}"
        )
    return metadata


def _pcd_header_lines(content: bytes) -> list[str]:
    lines: list[str] = []
    for line in io.BytesIO(content):
        text = line.decode("ascii").strip()  # UnicodeDecodeError is a ValueError
        if text and not text.startswith("#"):
            lines.append(text)
        if text.startswith("DATA"):
            return lines
        if len(lines) >= _PCD_HEADER_LINES:
            break
    raise ValueError("no DATA line")


def _parquet(content: bytes, uri: str) -> Columns:
    try:
        table = pq.ParquetFile(io.BytesIO(content)).read(use_threads=False)
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{uri} is truncated or not a Parquet file: {error}") from error
    with_nulls = [name for name in table.column_names if table[name].null_count]
    if with_nulls:
        raise DataError(f"{uri}: null in {', '.join(with_nulls)}: write NaN for a missing return")
    return _named({name: table[name].to_numpy() for name in table.column_names})


def _named(columns: Mapping[str, np.ndarray]) -> Columns:
    return {name.lower(): values for name, values in columns.items()}


FORMATS: dict[str, Callable[[bytes, str], Columns]] = {
    "bin4": _binary(4),
    "bin5": _binary(5),
    "npy": _npy,
    "pcd": _pcd,
    "parquet": _parquet,
}
"""Reader of each point format."""
