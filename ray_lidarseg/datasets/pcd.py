"""PCD, the point cloud files of PCL: header of any of its dialects, body as text, binary or compressed; written binary.

Source: the file format's public description, versions 0.5 to 0.7, and what common writers do beside it: comments in any
encoding, ``VERSION .7`` and ``0.7``, ``COLUMNS`` for ``FIELDS``, no ``COUNT`` (one each), no ``HEIGHT`` (one row),
padding called ``_``, fields of ``COUNT 0`` (nothing is stored), and compressed bodies whose two sizes are equal (stored
as is).
"""

import io
from collections.abc import Mapping
from dataclasses import dataclass

import lzf
import numpy as np

from ray_lidarseg.errors import DataError
from ray_lidarseg.recipe.bad_input import shown

_VERSIONS = frozenset({"5", "6", "7"})  # after "0." or "."
_TYPES = {(kind, size): f"<{kind.lower()}{size}" for kind in "IU" for size in (1, 2, 4, 8)}
_TYPES |= {("F", 4): "<f4", ("F", 8): "<f8"}
_PADDING = "_"
_MAX_LZF_RATIO = 264  # the longest match takes three bytes; a header that promises more is corrupt
_MAX_HEADER_BYTES = 1 << 20
_ENCODINGS = ("ascii", "binary", "binary_compressed")


@dataclass(frozen=True)
class _Field:
    """One entry of FIELDS: ``count`` numbers of one type a point."""

    name: str
    dtype: np.dtype
    count: int

    @property
    def num_bytes(self) -> int:
        return self.dtype.itemsize * self.count


@dataclass(frozen=True)
class _Header:
    fields: tuple[_Field, ...]
    num_points: int
    encoding: str
    body_start: int

    @property
    def point_bytes(self) -> int:
        return sum(field.num_bytes for field in self.fields)


def read_pcd(content: bytes, uri: str, max_bytes: int) -> dict[str, np.ndarray]:
    """The named fields of a cloud: [P], or [P, COUNT] where COUNT is more than 1; padding is left out.

    Args:
        content: The file.
        uri: Its name, for errors.
        max_bytes: Decoded points that take more are refused before anything is decoded.

    Raises:
        DataError: The header is corrupt or promises something else than the body holds.
    """
    header = _header(content, uri)
    promised, body = header.num_points * header.point_bytes, content[header.body_start :]
    if header.encoding == "binary":
        _check_size(len(body.rstrip(b"\0\n\r ")), len(body), promised, uri)
    if promised > max_bytes:
        raise DataError(f"{uri}: the header promises {promised} bytes of points, more than the {max_bytes} we decode")
    if header.encoding == "ascii":
        return _text(body, header, uri)
    if header.encoding == "binary":
        return _rows(body, header)
    return _blocks(_uncompressed(body, promised, uri), header)


def pcd_bytes(fields: Mapping[str, np.ndarray]) -> bytes:
    """A binary PCD of version 0.7 with these fields, numbers [P] each, in one row of points."""
    (num_points,) = {len(values) for values in fields.values()}
    types = [values.dtype.newbyteorder("<") for values in fields.values()]
    entries = {
        "VERSION": ["0.7"],
        "FIELDS": fields,
        "SIZE": [dtype.itemsize for dtype in types],
        "TYPE": [dtype.kind.upper() for dtype in types],
        "COUNT": [1] * len(types),
        "WIDTH": [num_points],
        "HEIGHT": [1],
        "VIEWPOINT": [0, 0, 0, 1, 0, 0, 0],
        "POINTS": [num_points],
        "DATA": ["binary"],
    }
    rows = np.empty(num_points, list(zip(fields, types, strict=True)))
    for name, values in fields.items():
        rows[name] = values
    return "".join(f"{key} {' '.join(map(str, values))}\n" for key, values in entries.items()).encode() + rows.tobytes()


def _header(content: bytes, uri: str) -> _Header:
    entries: dict[str, list[str]] = {}
    lines = io.BytesIO(content)
    while "DATA" not in entries:
        line = lines.readline(_MAX_HEADER_BYTES)
        if not line or lines.tell() > _MAX_HEADER_BYTES:
            raise _corrupt(uri, "no DATA line")
        words = line.decode("latin-1").split()
        if words and not words[0].startswith("#"):
            entries.setdefault("FIELDS" if words[0].upper() == "COLUMNS" else words[0].upper(), words[1:])
    version, encoding = " ".join(entries.get("VERSION", ["0.7"])), " ".join(entries["DATA"]).lower()
    if version.removeprefix("0").removeprefix(".") not in _VERSIONS:
        raise _corrupt(uri, f"VERSION {shown(version)}: expected 0.5, 0.6 or 0.7")
    if encoding not in _ENCODINGS:
        raise _corrupt(uri, f"DATA {shown(encoding)}: expected {', '.join(_ENCODINGS)}")
    return _Header(_fields(entries, uri), _num_points(entries, uri), encoding, lines.tell())


def _fields(entries: dict[str, list[str]], uri: str) -> tuple[_Field, ...]:
    names = entries.get("FIELDS", [])
    defaults = {"SIZE": "4", "TYPE": "F", "COUNT": "1"}
    given = {key: entries.get(key, [value] * len(names)) for key, value in defaults.items()}
    lengths = {"FIELDS": len(names), **{key: len(values) for key, values in given.items()}}
    if not names or len(set(lengths.values())) > 1:
        described = ", ".join(f"{number} {key}" for key, number in lengths.items())
        raise _corrupt(uri, f"it has {described}, expected one of each per field")
    fields = []
    for name, size, kind, count in zip(names, given["SIZE"], given["TYPE"], given["COUNT"], strict=True):
        number = _whole(count, f"COUNT of field {shown(name)}", uri)
        dtype = _TYPES.get((kind.upper(), int(size) if size.isascii() and size.isdigit() and len(size) < 3 else 0))
        if number and dtype is None:
            raise _corrupt(
                uri,
                f"field {shown(name)} is of TYPE {shown(kind)}, SIZE {shown(size)}: expected I or U of "
                "1, 2, 4 or 8 bytes, or F of 4 or 8",
            )
        fields += [_Field(name, np.dtype(dtype), number)] if number else []
    stored = [field.name.lower() for field in fields if field.name != _PADDING]
    repeated = sorted({name for name in stored if stored.count(name) > 1})
    if repeated:
        raise _corrupt(uri, f"field {shown(repeated[0])} occurs more than once")
    return tuple(fields)


def _num_points(entries: dict[str, list[str]], uri: str) -> int:
    numbers = {key: _whole(" ".join(entries[key]), key, uri) for key in ("WIDTH", "HEIGHT", "POINTS") if key in entries}
    if "WIDTH" not in numbers:
        if "POINTS" not in numbers:
            raise _corrupt(uri, "neither WIDTH nor POINTS says how many points there are")
        return numbers["POINTS"]
    width, height = numbers["WIDTH"], numbers.get("HEIGHT", 1)
    if numbers.get("POINTS", width * height) != width * height:
        raise _corrupt(uri, f"POINTS {numbers['POINTS']} is not WIDTH {width} times HEIGHT {height}")
    return width * height


def _whole(text: str, what: str, uri: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 16):
        raise _corrupt(uri, f"{what} is {shown(text)}: expected a whole number")
    return int(text)


def _text(body: bytes, header: _Header, uri: str) -> dict[str, np.ndarray]:
    num_values = sum(field.count for field in header.fields)
    try:
        text = io.StringIO(body.decode("ascii"))
        values = np.loadtxt(text, np.float64, comments=None, ndmin=2) if body.strip() else np.zeros((0, num_values))
    except (ValueError, OverflowError) as error:
        reason = " ".join(str(error).split("; use")[0].split())
        raise DataError(f"{uri}: the PCD body is corrupt (ascii): {reason:.200}") from error
    if len(values) != header.num_points:
        what = "is truncated" if len(values) < header.num_points else "is corrupt"
        raise DataError(f"{uri} {what}: the header promises {header.num_points} points, the body holds {len(values)}")
    if values.shape[1] != num_values:
        raise DataError(
            f"{uri}: a line of the PCD body has {values.shape[1]} numbers, the header promises {num_values}"
        )
    found, start = {}, 0
    for field in header.fields:
        columns = values[:, start : start + field.count]
        start += field.count
        if field.name != _PADDING:
            found[field.name] = _single(_exactly(columns, field, uri))
    return found


def _exactly(values: np.ndarray, field: _Field, uri: str) -> np.ndarray:
    """Text as the type of the field; a number that the type does not hold is an error, not another number."""
    if field.dtype.kind == "f":
        with np.errstate(over="ignore"):
            return values.astype(field.dtype)
    limits = np.iinfo(field.dtype)
    fits = (values >= limits.min) & (values <= limits.max) & (values == np.floor(values))
    if not fits.all():
        raise DataError(
            f"{uri}: field {field.name} holds {values[~fits][0]:g}: expected {field.dtype} as the header says"
        )
    return values.astype(field.dtype)


def _rows(body: bytes, header: _Header) -> dict[str, np.ndarray]:
    if not header.num_points:  # an empty body has no strides
        return _blocks(body, header)
    found, start = {}, 0
    for field in header.fields:
        if field.name != _PADDING:
            shape, strides = (header.num_points, field.count), (header.point_bytes, field.dtype.itemsize)
            found[field.name] = _single(np.ndarray(shape, field.dtype, body, start, strides).copy())
        start += field.num_bytes
    return found


def _blocks(body: bytes, header: _Header) -> dict[str, np.ndarray]:
    """Compressed bodies hold the fields one after the other."""
    found, start = {}, 0
    for field in header.fields:
        if field.name != _PADDING:
            shape = (header.num_points, field.count)
            found[field.name] = _single(np.ndarray(shape, field.dtype, body, start).copy())
        start += field.num_bytes * header.num_points
    return found


def _single(values: np.ndarray) -> np.ndarray:
    return values[:, 0] if values.shape[1] == 1 else values


def _uncompressed(body: bytes, promised: int, uri: str) -> bytes:
    if len(body) < 8:
        raise DataError(f"{uri}: the PCD body is truncated (binary_compressed): it has no sizes")
    stored, full = (int(size) for size in np.frombuffer(body, "<u4", 2))
    if full != promised:
        raise DataError(f"{uri}: the PCD body is corrupt: it unpacks to {full} bytes, the header promises {promised}")
    if stored > len(body) - 8 or full > _MAX_LZF_RATIO * max(stored, 1):
        raise DataError(
            f"{uri}: the PCD body is truncated or corrupt (binary_compressed): {stored} bytes for {full}, "
            f"{len(body) - 8} are there"
        )
    data = body[8 : 8 + stored]
    if stored == full:  # the writer found nothing to compress
        return data
    try:
        unpacked = lzf.decompress(data, full)
    except ValueError:
        unpacked = None
    if unpacked is None or len(unpacked) != full:
        raise DataError(f"{uri}: the PCD body is truncated or corrupt (binary_compressed): it does not unpack")
    return unpacked


def _check_size(num_used: int, num_bytes: int, promised: int, uri: str) -> None:
    if num_bytes < promised:
        raise DataError(f"{uri} is truncated: the header promises {promised} bytes of points, the file has {num_bytes}")
    if num_used > promised:
        raise DataError(
            f"{uri}: the PCD header is corrupt: it promises {promised} bytes of points, the file has {num_bytes}"
        )


def _corrupt(uri: str, reason: str) -> DataError:
    return DataError(f"{uri}: the PCD header is corrupt: {reason}")
