"""Prepared shards: Parquet files with one key-frame a row group, so that one frame is read without the rest.

A shard's name is the digest of its frame ids: writing the same frames again replaces the same file. The catalog
(``datasets.catalog``) lists every frame with its shard and row.
"""

import hashlib
import os
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from pyarrow import fs

from ray_lidarseg.datasets.parquet_files import parquet_bytes
from ray_lidarseg.errors import DataError
from ray_lidarseg.sample import Keyframe
from ray_lidarseg.storage.whole_files import files_in, write_whole

_FRAME_FIELDS = (
    ("frame_id", pa.string()),
    ("dataset", pa.string()),
    ("scene", pa.string()),
    ("split", pa.string()),
    ("timestamp_us", pa.int64()),
    ("points_uri", pa.string()),
    ("labels_uri", pa.string()),
    ("points", pa.binary()),
    ("num_points", pa.int64()),
    ("num_columns", pa.int32()),
    ("labels", pa.binary()),
    ("ring", pa.binary()),
    ("alias", pa.string()),
)
CAMERA_FIELDS = (
    ("uri", pa.string(), ""),
    ("image", pa.binary(), b""),
    ("intrinsics", pa.list_(pa.float64(), 9), [0.0] * 9),
    ("cam_SE3_lidar", pa.list_(pa.float64(), 16), [0.0] * 16),
    ("timestamp_us", pa.int64(), 0),
    ("width", pa.int32(), 0),
    ("height", pa.int32(), 0),
)


def keyframe_table(frames: Sequence[Keyframe]) -> pa.Table:
    """Key-frames as one Arrow table: flat columns, nothing null; a camera a frame lacks has an empty URI."""
    cameras = sorted({camera.name for frame in frames for camera in frame.cameras})
    columns = [pa.field(name, kind, nullable=False) for name, kind in _FRAME_FIELDS]
    absent: dict[str, Any] = {}
    for camera in cameras:
        columns += [pa.field(f"{camera}.{name}", kind, nullable=False) for name, kind, _ in CAMERA_FIELDS]
        absent |= {f"{camera}.{name}": value for name, _, value in CAMERA_FIELDS}
    rows = [absent | frame.to_row() for frame in frames]
    try:
        return pa.Table.from_pylist(rows, schema=pa.schema(columns))
    except (
        pa.ArrowException,
        OverflowError,
        TypeError,
        ValueError,
    ) as error:  # a time beyond 64 bits, half a character
        raise DataError(f"the frames from {rows[0]['frame_id']!r} on do not fit their columns: {error}") from error


def content_digest(frame: Keyframe) -> str:
    """What a run sees of a decoded frame: 16 hex digits of the SHA-256 of scan or image, a slash, 16 of the labels."""
    scan = hashlib.sha256(np.ascontiguousarray(frame.points, np.float32).data)
    for camera in frame.cameras:
        scan.update(camera.image)
    labels = hashlib.sha256(np.ascontiguousarray(frame.labels, np.uint8).data)
    return f"{scan.hexdigest()[:16]}/{labels.hexdigest()[:16]}"


def shard_file(frames: Sequence[Keyframe], asked: Sequence[str] = (), origins: Sequence[str] = ()) -> tuple[str, bytes]:
    """Name and content of the shard of decoded frames.

    Args:
        frames: What it holds.
        asked: Frame ids whose digest is the name; left out, those of ``frames``. A group that is tried again keeps its
            name although other frames of it may fail this time.
        origins: What each frame was made of (``datasets.origin``); left out, nobody knows.
    """
    table = keyframe_table(frames)
    for name, texts in (
        ("digest", [content_digest(frame) for frame in frames]),
        ("origin", origins or [""] * len(frames)),
    ):
        table = table.append_column(pa.field(name, pa.string(), nullable=False), pa.array(texts, pa.string()))
    return shard_name(asked or [frame.frame_id for frame in frames]), parquet_bytes(table, rows_per_group=1)


def shard_name(frame_ids: Iterable[str]) -> str:
    """Name of the shard of a group of frames."""
    return f"shard-{hashlib.sha256(chr(10).join(frame_ids).encode()).hexdigest()[:16]}.parquet"


def write_shard(filesystem: fs.FileSystem, folder: str, frames: Sequence[Keyframe]) -> str:
    """Writes decoded frames as one shard, whole or not at all; returns its name."""
    name, data = shard_file(frames)
    write_whole(filesystem, f"{folder}/{name}", data)
    return name


def list_shards(filesystem: fs.FileSystem, folder: str) -> list[str]:
    """Names of the finished shards of a folder, sorted; empty where there is no folder yet."""
    names = (os.path.basename(path) for path in files_in(filesystem, folder))
    return sorted(name for name in names if name.startswith("shard-") and name.endswith(".parquet"))
