"""Own logs: one manifest lists the key-frames, one ontology file says what is in them. No code to write.

The manifest is JSONL (one JSON object a line) or Parquet (one row) with one record per LiDAR key-frame:

================ ======= ===============================================================================================
column           type    meaning
================ ======= ===============================================================================================
frame_id         string  unique within the manifest
scene            string  drive the frame belongs to; label splits keep drives apart
split            string  train, val or test
timestamp_us     int     LiDAR time, microseconds
points           string  the scan: a path relative to the manifest, an absolute path, or a URI (``s3://…``)
point_format     string  optional; bin4, bin5, bin6, npy, pcd or parquet (``point_files.py``); else from the extension
labels           string  optional; path or URI of one raw id per point in file order, or ``#NAME``: that column of the
                         point file (pcd, parquet, structured npy)
label_format     string  optional; uint8, uint16, uint32 or npy; else from the extension
cameras          mapping optional; image name → camera
================ ======= ===============================================================================================

Label files are ``.npy`` (integers [P]), or plain little-endian unsigned integers: of four bytes a point in ``.label``
(SemanticKITTI), of one in ``.bin`` (nuScenes-lidarseg), of what ``label_format`` says in any other. The width is never
guessed from the number of points. Of ids of 32 bits and more, in any container and signed or not, the low 16 bits are
the class (SemanticKITTI keeps the instance in the others); -1 of a signed type is a point without label. A null of an
optional column means that it is absent.

A camera is a mapping:

================ ======= ===============================================================================================
image            string  JPEG or PNG: path or URI as for ``points``
intrinsics       9 float pin-hole matrix of the undistorted image, row by row, pixels
width, height    int     pixels
timestamp_us     int     exposure, microseconds
cam_SE3_lidar    16      LiDAR to camera (x right, y down, z forward), row by row; ego-motion between sweep and exposure
                         already compensated
================ ======= ===============================================================================================

Instead of ``cam_SE3_lidar`` a camera may give the chain it is made of, 16 numbers each: ``ego_SE3_lidar``,
``global_SE3_lidar_ego`` (vehicle at ``timestamp_us`` of the sweep), ``global_SE3_camera_ego`` (vehicle at the exposure)
and ``ego_SE3_cam``. ``dst_SE3_src`` takes points of ``src`` to ``dst``. Nested lists are fine, too.

``cam_SE3_lidar`` refers to the axes of the point file; scans and matrices are turned to x forward, y left, z up
together when they are read (``ontology.py``).
"""

import io
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from typing import Annotated, Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from ray_lidarseg import storage
from ray_lidarseg.datasets.float_rows import refuse_foreign, refuse_other_columns
from ray_lidarseg.datasets.label_bits import CLASS_MASK, refuse_pairs, refuse_upper_half
from ray_lidarseg.datasets.ontology_taxonomy import GROUND_WORDS, VEHICLE_WORDS, named, sensor, taxonomy
from ray_lidarseg.datasets.point_files import (
    FORMATS,
    Columns,
    column,
    format_of,
    load_npy,
    read_columns,
)
from ray_lidarseg.datasets.spec import DatasetSpec, IndexOptions, OpenDataset
from ray_lidarseg.errors import DataError, StorageError
from ray_lidarseg.geometry.camera import chain
from ray_lidarseg.geometry.pose import require_rigid
from ray_lidarseg.recipe.bad_input import explain, nearest, read_json, shown
from ray_lidarseg.recipe.ontology import Ontology
from ray_lidarseg.sample import CameraImage, Keyframe
from ray_lidarseg.types import IGNORE

NAME = "manifest"
_SHOWN_PROBLEMS = 5
_CHAIN = ("ego_SE3_lidar", "global_SE3_lidar_ego", "global_SE3_camera_ego", "ego_SE3_cam")
_ROW_NUMBERS = re.compile(r"__index_level_\d+__")  # what pandas writes beside the columns of a filtered frame
_UNLABELLED = -1
_LABEL_FORMATS = {"uint8": "<u1", "uint16": "<u2", "uint32": "<u4", "npy": ""}
_LABEL_EXTENSIONS = {".label": "uint32", ".bin": "uint8", ".npy": "npy"}
_BATCH_ROWS, _BATCH_BYTES = 4096, 32 << 20  # ours
_MAX_MANIFEST_BYTES = 1 << 30  # ours: a hundred thousand frames of twelve cameras
_LATEST_US = 2**63 - 1  # int64, about the year 294,000


def _flat(values: Any) -> Any:
    is_nested = isinstance(values, list) and all(isinstance(row, list) for row in values)
    return [value for row in values for value in row] if is_nested else values


_Numbers = Annotated[list[Annotated[float, Field(allow_inf_nan=False)]], BeforeValidator(_flat)]
_Pose = Annotated[_Numbers, Field(min_length=16, max_length=16)]
_Text = Annotated[str, Field(min_length=1)]
_Time = Annotated[int, Field(ge=-_LATEST_US, le=_LATEST_US)]
_Pixels = Annotated[int, Field(ge=1, le=2**31 - 1)]


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class _Camera(_Record):
    image: _Text
    intrinsics: Annotated[_Numbers, Field(min_length=9, max_length=9)]
    width: _Pixels
    height: _Pixels
    timestamp_us: _Time
    cam_SE3_lidar: _Pose | None = None
    ego_SE3_lidar: _Pose | None = None
    global_SE3_lidar_ego: _Pose | None = None
    global_SE3_camera_ego: _Pose | None = None
    ego_SE3_cam: _Pose | None = None

    @model_validator(mode="after")
    def _one_calibration(self) -> "_Camera":
        given = [name for name in _CHAIN if getattr(self, name) is not None]
        if (self.cam_SE3_lidar is None) != (len(given) == len(_CHAIN)) or (self.cam_SE3_lidar is not None and given):
            raise ValueError(f"give cam_SE3_lidar, or all four of {', '.join(_CHAIN)}")
        return self

    def to_camera_pose(self) -> np.ndarray:
        """[4, 4], or DataError where a matrix is not rigid."""
        if self.cam_SE3_lidar is None:
            return chain(*(np.array(getattr(self, name), np.float64).reshape(4, 4) for name in _CHAIN))
        pose = np.array(self.cam_SE3_lidar, np.float64).reshape(4, 4)
        require_rigid(pose, "cam_SE3_lidar")
        return pose


class _Frame(_Record):
    frame_id: _Text
    scene: _Text
    split: Literal["train", "val", "test"]
    timestamp_us: _Time
    points: _Text
    point_format: Literal["bin4", "bin5", "bin6", "npy", "pcd", "parquet"] | None = None
    labels: str = ""
    label_format: Literal["uint8", "uint16", "uint32", "npy"] | None = None
    cameras: dict[_Text, _Camera] = {}


def index(content: bytes, uri: str, ontology: Ontology) -> list[Keyframe]:
    """Lists the key-frames of a manifest, by URI; no scan is opened.

    Args:
        content: The manifest's bytes.
        uri: Where it lies: says JSONL or Parquet, and what relative paths refer to.
        ontology: Says what the axes of scans and calibrations are.

    Raises:
        DataError: A missing or unknown column (the nearest is named), a wrong type, a null, an unknown split, a
            repeated frame id, or a calibration that is not rigid; the first few records are named.
    """
    records = (
        _parquet_records(content, uri)
        if storage.name_of(uri).lower().endswith(".parquet")
        else _jsonl_records(content, uri)
    )
    frames: list[Keyframe] = []
    problems: list[str] = []
    places: dict[str, str] = {}
    for place, record in records:
        try:
            frame = _keyframe(_frame(record), uri, ontology)
        except DataError as error:
            problems.append(f"  {place}: {error}")
            continue
        if frame.frame_id in places:
            problems.append(f"  {place}: frame_id {frame.frame_id!r} is already used by {places[frame.frame_id]}")
        places[frame.frame_id] = place
        frames.append(frame)
    if problems:
        raise DataError("\n".join([f"{uri}: {len(problems)} records do not fit:", *problems[:_SHOWN_PROBLEMS]]))
    return frames


def decode(frame: Keyframe, ontology: Ontology) -> Keyframe:
    """Reads a key-frame's scan and labels: x forward, y left, z up in metres, intensity (0 without one) scaled.

    Intensities beyond the ontology's range stay beyond 0 … 1, so that checks can tell; ``datasets.decode`` clips them.

    Raises:
        DataError: A file is empty, truncated or corrupt, has no intensity although the ontology gives its range, its
            labels do not fit its points, or an id is not in the ontology. The message names the file.
        StorageError: A file is missing or cannot be read.
    """
    uri, columns = _read_columns(frame)
    points = np.empty((len(columns["x"]), 4), np.float32)
    with np.errstate(over="ignore", invalid="ignore"):  # of garbage, which has an error of its own
        for row, (axis, sign) in enumerate(_turned_axes(ontology)):
            points[:, row] = columns["xyz"[axis]] * np.float32(sign)
    points[:, 3] = _intensity(columns, ontology, uri)
    labels = _labels(frame, columns, ontology) if frame.labels_uri else frame.labels
    return replace(frame, points=points, labels=labels, ring=_ring(columns, uri))


def raw_labels(frame: Keyframe) -> np.ndarray:
    """Semantic ids [P] of a frame's labels, whether the ontology knows them or not; -1 where a point has none.

    Raises:
        DataError: A file is empty, truncated or corrupt, or its labels do not fit its points.
        StorageError: A file is missing or cannot be read.
    """
    _, raw, is_unlabelled = _raw_ids(frame, _read_columns(frame)[1])
    return np.where(is_unlabelled, _UNLABELLED, _classes(raw).astype(np.int64))


def _read_columns(frame: Keyframe) -> tuple[str, Columns]:
    uri, stated = _split_format(frame.points_uri, FORMATS)
    content, point_format = storage.read_bytes(uri), stated or format_of(uri)
    if content and point_format.startswith("bin"):
        refuse_foreign(content, int(point_format[3:]), uri)
        if not stated:
            refuse_other_columns(content, int(point_format[3:]), uri)
    return uri, read_columns(content, point_format, uri)


def _jsonl_records(content: bytes, uri: str) -> Iterator[tuple[str, Any]]:
    for number, line in enumerate(content.splitlines(), start=1):
        if not line.strip():
            continue
        yield f"line {number}", _without_absent(read_json(line, f"{uri}, line {number}", DataError, object))


def _parquet_records(content: bytes, uri: str) -> Iterator[tuple[str, Any]]:
    try:
        file = pq.ParquetFile(io.BytesIO(content))
        yield from _rows_of(file, uri)
    except (pa.ArrowException, OSError, ValueError, MemoryError) as error:
        reason = " ".join(str(error).split())
        raise DataError(f"{uri} is truncated or not a Parquet file: {reason:.200}") from error


def _rows_of(file: pq.ParquetFile, uri: str) -> Iterator[tuple[str, Any]]:
    """Row by row in batches that stay small even where a column repeats one long value, and never too many in all."""
    groups = [file.metadata.row_group(number) for number in range(file.num_row_groups)]
    chunks = (group.column(number) for group in groups for number in range(group.num_columns))
    longest = max((chunk.total_uncompressed_size for chunk in chunks), default=1)
    num_bytes = number = 0
    for batch in file.iter_batches(max(1, min(_BATCH_ROWS, _BATCH_BYTES // max(1, longest))), use_threads=False):
        num_bytes += batch.nbytes
        if num_bytes > _MAX_MANIFEST_BYTES:
            raise DataError(f"{uri} holds more than the {_MAX_MANIFEST_BYTES} bytes of records we decode: split it up")
        for record in batch.to_pylist():
            yield f"row {number}", _without_absent(record)
            number += 1


def _without_absent(record: Any) -> Any:
    """Data frames and Parquet give every record every field; of optional ones a null means absent. Maps are pairs."""
    if not isinstance(record, dict):
        return record
    record = {key: value for key, value in record.items() if not _ROW_NUMBERS.fullmatch(str(key))}
    record = _without_nulls(record, _Frame)
    cameras = record.get("cameras", {})
    if isinstance(cameras, list) and all(isinstance(pair, tuple) and len(pair) == 2 for pair in cameras):
        cameras = dict(cameras)
    if isinstance(cameras, dict):
        record["cameras"] = {
            name: _without_nulls(camera, _Camera) for name, camera in cameras.items() if camera is not None
        }
    return record


def _without_nulls(values: Any, model: type[BaseModel]) -> Any:
    if not isinstance(values, Mapping):
        return values
    optional = {name for name, entry in model.model_fields.items() if not entry.is_required()}
    return {name: value for name, value in values.items() if value is not None or name not in optional}


def _frame(record: Any) -> _Frame:
    try:
        return _Frame.model_validate(record)
    except ValidationError as error:
        problems = "; ".join(explain(error, _Frame, noun="column"))
        frame_id = record.get("frame_id", "") if isinstance(record, Mapping) else ""
        raise DataError(f"frame {shown(frame_id)}: {problems}" if frame_id else problems) from error


def _keyframe(frame: _Frame, manifest_uri: str, ontology: Ontology) -> Keyframe:
    points_uri = _resolve(frame.points, manifest_uri)
    if frame.point_format is None:
        format_of(points_uri)
    return Keyframe(
        frame_id=frame.frame_id,
        dataset=NAME,
        scene=frame.scene,
        split=frame.split,
        timestamp_us=frame.timestamp_us,
        points_uri=f"{points_uri}#{frame.point_format}" if frame.point_format else points_uri,
        labels_uri=_labels_uri(frame, manifest_uri),
        cameras=tuple(_camera(name, frame, manifest_uri, ontology) for name in sorted(frame.cameras)),
    )


def _labels_uri(frame: _Frame, manifest_uri: str) -> str:
    if not frame.labels or frame.labels.startswith("#"):
        if frame.label_format:
            raise DataError(f"frame {shown(frame.frame_id)}: label_format is for label files: leave it out")
        return frame.labels
    uri = _resolve(frame.labels, manifest_uri)
    if frame.label_format:
        return f"{uri}#{frame.label_format}"
    label_format_of(uri)
    return uri


def label_format_of(uri: str) -> str:
    """The default format of a label file.

    Raises:
        DataError: The extension says nothing about it.
    """
    name = storage.name_of(uri).lower()
    for extension, label_format in _LABEL_EXTENSIONS.items():
        if name.endswith(extension):
            return label_format
    raise DataError(
        f"{uri}: cannot tell from the name how wide its ids are: set label_format to one of {', '.join(_LABEL_FORMATS)}"
    )


def _split_format(uri: str, formats: Collection[str]) -> tuple[str, str]:
    """``FILE#FORMAT`` of an index as its two parts; the format is empty where the name says it."""
    file, _, stated = uri.rpartition("#")
    return (file, stated) if stated in formats else (uri, "")


def _camera(name: str, frame: _Frame, manifest_uri: str, ontology: Ontology) -> CameraImage:
    camera = frame.cameras[name]
    file_SE3_inside = np.eye(4)
    file_SE3_inside[:3, :3] = np.array(ontology.sensor.rotation).T
    try:
        cam_SE3_lidar = camera.to_camera_pose() @ file_SE3_inside
    except DataError as error:
        raise DataError(f"frame {frame.frame_id!r}, camera {name!r}: {error}") from error
    return CameraImage(
        name=name,
        uri=_resolve(camera.image, manifest_uri),
        intrinsics=np.array(camera.intrinsics, np.float64).reshape(3, 3),
        cam_SE3_lidar=cam_SE3_lidar,
        timestamp_us=camera.timestamp_us,
        width_px=camera.width,
        height_px=camera.height,
    )


def _resolve(path: str, manifest_uri: str) -> str:
    try:
        return storage.beside(manifest_uri, path) if path else ""
    except StorageError as error:
        raise DataError(str(error)) from error


def _turned_axes(ontology: Ontology) -> list[tuple[int, float]]:
    """Which column of the file, with which sign, is x, y and z inside: exact, and a NaN stays in its own coordinate."""
    return [next((axis, sign) for axis, sign in enumerate(row) if sign) for row in ontology.sensor.rotation]


def _intensity(columns: Columns, ontology: Ontology, uri: str) -> np.ndarray | float:
    if ontology.sensor.intensity == "none":
        return 0.0
    values = column(columns, "intensity")
    if values is None:
        raise DataError(
            f"{uri} has no intensity column, it has {', '.join(columns)}: set sensor.intensity to none in the ontology"
        )
    low, high = ontology.sensor.intensity
    with np.errstate(over="ignore", invalid="ignore"):  # of garbage, which has an error of its own
        return (values.astype(np.float32) - np.float32(low)) / np.float32(high - low)


def _ring(columns: Columns, uri: str) -> np.ndarray:
    values = column(columns, "ring")
    if values is None:
        return np.zeros(0, np.uint8)
    ring = np.nan_to_num(values.astype(np.float64), nan=0.0, posinf=-1.0, neginf=-1.0)
    is_channel = (ring >= 0) & (ring <= np.iinfo(np.uint8).max) & (ring == np.floor(ring))
    if not is_channel.all():
        raise DataError(
            f"{uri}: ring holds {ring[~is_channel][0]:g}, expected whole numbers 0 … 255; use another point_format "
            "or rename the column"
        )
    return ring.astype(np.uint8)


def _labels(frame: Keyframe, columns: Columns, ontology: Ontology) -> np.ndarray:
    place, raw, is_unlabelled = _raw_ids(frame, columns)
    train = np.full(raw.shape, IGNORE, np.uint8)
    try:
        train[~is_unlabelled] = taxonomy(ontology).to_train(_classes(raw[~is_unlabelled]))
    except DataError as error:
        raise DataError(f"{place}: {error}, or add them to a class or to ignore_raw_ids of the ontology") from error
    return train


def _raw_ids(frame: Keyframe, columns: Columns) -> tuple[str, np.ndarray, np.ndarray]:
    """Where the labels lie, their ids as stored, and which points have none."""
    uri = frame.labels_uri
    if uri.startswith("#"):
        place, raw = f"{frame.points_uri}, column {uri[1:]}", _label_column(columns, uri[1:], frame.points_uri)
    else:
        file, stated = _split_format(uri, _LABEL_FORMATS)
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
    return place, raw, raw == _UNLABELLED if raw.dtype.kind == "i" else np.zeros(raw.shape, bool)


def _classes(raw: np.ndarray) -> np.ndarray:
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


def of_ontology(ontology: Ontology) -> DatasetSpec:
    """The data set that an ontology describes; its index takes the manifest's path or URI."""

    def listed(root: str, _: IndexOptions) -> list[Keyframe]:
        uri = storage.absolute(root)
        return index(storage.read_bytes(uri), uri, ontology)

    return DatasetSpec(
        name=NAME,
        taxonomy=taxonomy(ontology),
        sensor=sensor(ontology),
        index=listed,
        decode=lambda frame: decode(frame, ontology),
        raw_labels=raw_labels,
        words={entry.name: (entry.name, *entry.synonyms) for entry in ontology.classes},
        absent=ontology.absent_class,
        ground=named(ontology, GROUND_WORDS),
        vehicles=named(ontology, VEHICLE_WORDS),
    )


SPEC = OpenDataset(name=NAME, with_ontology=of_ontology)
