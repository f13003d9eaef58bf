"""The records of a manifest of own logs (``manifest.py`` says what they mean), from JSONL or Parquet."""

import io
import re
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from ray_lidarseg import storage
from ray_lidarseg.errors import DataError
from ray_lidarseg.geometry.camera import chain
from ray_lidarseg.geometry.pose import require_rigid
from ray_lidarseg.recipe.bad_input import explain, shown
from ray_lidarseg.recipe.text_files import read_json

CHAIN = ("ego_SE3_lidar", "global_SE3_lidar_ego", "global_SE3_camera_ego", "ego_SE3_cam")
"""Poses that a camera may give instead of ``cam_SE3_lidar``."""

_ROW_NUMBERS = re.compile(r"__index_level_\d+__")  # what pandas writes beside the columns of a filtered frame
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


class CameraRecord(_Record):
    """A camera of a key-frame."""

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
    def _one_calibration(self) -> "CameraRecord":
        given = [name for name in CHAIN if getattr(self, name) is not None]
        if (self.cam_SE3_lidar is None) != (len(given) == len(CHAIN)) or (self.cam_SE3_lidar is not None and given):
            raise ValueError(f"give cam_SE3_lidar, or all four of {', '.join(CHAIN)}")
        return self

    def to_camera_pose(self) -> np.ndarray:
        """[4, 4], or DataError where a matrix is not rigid."""
        if self.cam_SE3_lidar is None:
            return chain(*(np.array(getattr(self, name), np.float64).reshape(4, 4) for name in CHAIN))
        pose = np.array(self.cam_SE3_lidar, np.float64).reshape(4, 4)
        require_rigid(pose, "cam_SE3_lidar")
        return pose


class FrameRecord(_Record):
    """A key-frame."""

    frame_id: _Text
    scene: _Text
    split: Literal["train", "val", "test"]
    timestamp_us: _Time
    points: _Text
    point_format: Literal["bin4", "bin5", "bin6", "npy", "pcd", "parquet"] | None = None
    labels: str = ""
    label_format: Literal["uint8", "uint16", "uint32", "npy"] | None = None
    cameras: dict[_Text, CameraRecord] = {}


def records(content: bytes, uri: str) -> Iterator[tuple[str, Any]]:
    """What a manifest holds, record by record, each with its line or row in words.

    Args:
        content: The manifest's bytes.
        uri: Where it lies; says JSONL or Parquet.

    Raises:
        DataError: It is neither, is truncated, or holds more than is decoded at once.
    """
    is_parquet = storage.name_of(uri).lower().endswith(".parquet")
    return _parquet_records(content, uri) if is_parquet else _jsonl_records(content, uri)


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
    record = _without_nulls(record, FrameRecord)
    cameras = record.get("cameras", {})
    if isinstance(cameras, list) and all(isinstance(pair, tuple) and len(pair) == 2 for pair in cameras):
        cameras = dict(cameras)
    if isinstance(cameras, dict):
        record["cameras"] = {
            name: _without_nulls(camera, CameraRecord) for name, camera in cameras.items() if camera is not None
        }
    return record


def _without_nulls(values: Any, model: type[BaseModel]) -> Any:
    if not isinstance(values, Mapping):
        return values
    optional = {name for name, entry in model.model_fields.items() if not entry.is_required()}
    return {name: value for name, value in values.items() if value is not None or name not in optional}


def frame_of(record: Any) -> FrameRecord:
    """A record as what it should be.

    Raises:
        DataError: It is not; each column that is wrong is named.
    """
    try:
        return FrameRecord.model_validate(record)
    except ValidationError as error:
        problems = "; ".join(explain(error, FrameRecord, noun="column"))
        frame_id = record.get("frame_id", "") if isinstance(record, Mapping) else ""
        raise DataError(f"frame {shown(frame_id)}: {problems}" if frame_id else problems) from error
