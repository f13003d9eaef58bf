"""Labelled scans as viewers and labelling tools open them: PCD, PLY and LAS, one row a point of the scan, in its order.

=============== ======= ===============================================================================================
field           type    meaning
=============== ======= ===============================================================================================
x, y, z         float32 metres in the sensor frame
intensity       float32 0 … 1
red, green,     uint8   colour of the class; PCD: packed into ``rgb``
blue
label           uint16  raw id of the class, as prediction files of the data set hold it; PLY: int32
confidence      float32 softmax probability of that class, 0 where the model could not see the point
error           uint8   0 right, 1 wrong, 255 no truth; only of scans with labels
=============== ======= ===============================================================================================

LAS (1.4, point format 7) keeps coordinates in whole millimetres, intensity and colours in 16 bits, and the last three
as extra bytes; points that are not finite lie at the origin there and are flagged as withheld. Its ``classification``
stays 1 (unassigned), as most of its numbers mean something else. PLY names id and class in its comments.
"""

import io
from collections.abc import Mapping

import numpy as np
from jaxtyping import Float, UInt8

from ray_lidarseg.datasets.pcd import pcd_bytes, read_pcd
from ray_lidarseg.datasets.point_files import MAX_SCAN_BYTES
from ray_lidarseg.datasets.taxonomy import Taxonomy
from ray_lidarseg.errors import DataError, LidarSegError
from ray_lidarseg.types import IGNORE

CLOUD_FORMATS = ("pcd", "ply", "las")
NO_TRUTH = 255
"""``error`` of a point whose class nobody knows."""

_LAS_UNIT_M = 0.001
_LAS_REACH_M = np.iinfo(np.int32).max * _LAS_UNIT_M
_EXTRA = {"label": np.uint16, "confidence": np.float32, "error": np.uint8}


def cloud_bytes(
    points: Float[np.ndarray, "P 4"],
    labels: UInt8[np.ndarray, "P"],
    confidence: Float[np.ndarray, "P"],
    truth: UInt8[np.ndarray, "_"],
    taxonomy: Taxonomy,
    file_format: str,
) -> bytes:
    """The content of a point cloud file.

    Args:
        points: x, y, z in metres and intensity.
        labels: Class ids, none of them IGNORE.
        confidence: Of each label.
        truth: True class ids [P], IGNORE where unknown; [0] where there are none.
        taxonomy: Of both.
        file_format: One of ``CLOUD_FORMATS``.
    """
    columns = {name: points[:, axis].astype(np.float32) for axis, name in enumerate(("x", "y", "z", "intensity"))}
    columns |= dict(zip(("red", "green", "blue"), taxonomy.colours[labels].T, strict=True))
    columns |= {"label": taxonomy.to_raw(labels), "confidence": confidence.astype(np.float32)}
    if len(truth):
        columns["error"] = np.where(truth == IGNORE, NO_TRUTH, truth != labels).astype(np.uint8)
    if file_format == "pcd":
        return _pcd(columns)
    return _ply(columns, taxonomy) if file_format == "ply" else _las(columns)


def read_cloud(content: bytes, file_format: str, uri: str) -> dict[str, np.ndarray]:
    """The columns of a file that ``cloud_bytes`` made, by name; coordinates of LAS as float64.

    Raises:
        DataError: It is corrupt, or not such a file.
    """
    try:
        columns = _READERS[file_format](content, uri)
    except LidarSegError:
        raise
    except Exception as error:  # the libraries promise no type for a corrupt file
        raise DataError(f"{uri} is no whole {file_format} file: {' '.join(str(error).split()):.200}") from error
    if missing := [name for name in ("x", "y", "z", "label", "confidence") if name not in columns]:
        raise DataError(f"{uri} has no field {', '.join(missing)}: expected what `ray-lidarseg predict` writes")
    return columns


def _pcd(columns: Mapping[str, np.ndarray]) -> bytes:
    red, green, blue = (columns[name].astype(np.uint32) for name in ("red", "green", "blue"))
    packed = {"rgb": (red << 16 | green << 8 | blue).view(np.float32)}  # as a float: what PCL's readers expect
    return pcd_bytes({**{name: columns[name] for name in ("x", "y", "z", "intensity")}, **packed, **_extras(columns)})


def _read_pcd(content: bytes, uri: str) -> dict[str, np.ndarray]:
    columns = read_pcd(content, uri, MAX_SCAN_BYTES)
    packed = columns.pop("rgb", np.zeros(0, np.float32)).view(np.uint32)
    return {**columns, "red": packed >> 16 & 255, "green": packed >> 8 & 255, "blue": packed & 255}


def _ply(columns: Mapping[str, np.ndarray], taxonomy: Taxonomy) -> bytes:
    from plyfile import PlyData, PlyElement

    columns = {**columns, "label": columns["label"].astype(np.int32)}  # open3d skips ids of 16 bits
    rows = np.empty(len(columns["x"]), [(name, values.dtype) for name, values in columns.items()])
    for name, values in columns.items():
        rows[name] = values
    named = [f"class {raw} {name}" for raw, name in zip(taxonomy.train_to_raw, taxonomy.class_names, strict=True)]
    buffer = io.BytesIO()
    PlyData([PlyElement.describe(rows, "vertex")], byte_order="<", comments=named).write(buffer)
    return buffer.getvalue()


def _read_ply(content: bytes, uri: str) -> dict[str, np.ndarray]:
    from plyfile import PlyData

    rows = PlyData.read(io.BytesIO(content))["vertex"].data
    return {name: rows[name] for name in rows.dtype.names}


def _las(columns: Mapping[str, np.ndarray]) -> bytes:
    import laspy

    header = laspy.LasHeader(version="1.4", point_format=7)
    header.scales, header.offsets, header.generating_software = np.full(3, _LAS_UNIT_M), np.zeros(3), "ray_lidarseg"
    extras = _extras(columns)
    header.add_extra_dims([laspy.ExtraBytesParams(name, _EXTRA[name]) for name in extras])
    las = laspy.LasData(header)
    xyz = np.stack([columns[name] for name in "xyz"], axis=1).astype(np.float64)
    is_withheld = ~(np.abs(xyz) < _LAS_REACH_M).all(axis=1)  # NaN is below nothing
    las.xyz = np.where(is_withheld[:, None], 0.0, xyz)
    las.withheld = is_withheld
    las.intensity = np.rint(np.nan_to_num(columns["intensity"]).clip(0, 1) * 65535).astype(np.uint16)
    las.red, las.green, las.blue = (columns[name].astype(np.uint16) * 257 for name in ("red", "green", "blue"))
    las.classification = np.ones(len(xyz), np.uint8)
    las.return_number = las.number_of_returns = np.ones(len(xyz), np.uint8)
    for name, values in extras.items():
        las[name] = values
    buffer = io.BytesIO()
    las.write(buffer)
    return buffer.getvalue()


def _read_las(content: bytes, uri: str) -> dict[str, np.ndarray]:
    import laspy

    las = laspy.read(io.BytesIO(content))
    names = ("x", "y", "z", "intensity", "red", "green", "blue", "withheld")
    extras = [name for name in las.point_format.extra_dimension_names if name in _EXTRA]
    return {name: np.asarray(las[name]) for name in (*names, *extras)}


def _extras(columns: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name: columns[name] for name in _EXTRA if name in columns}


_READERS = {"pcd": _read_pcd, "ply": _read_ply, "las": _read_las}
