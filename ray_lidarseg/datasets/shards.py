"""Prepared shards: Parquet files with one key-frame a row group, so that one frame is read without the rest.

A shard's name is the digest of its frame ids: writing the same frames again replaces the same file. The catalog lists
every frame with its shard and row; it is written last, so a folder with a catalog is complete.
"""

import hashlib
import os
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs

from ray_lidarseg.errors import DataError
from ray_lidarseg.sample import SCHEMA_VERSION, Keyframe
from ray_lidarseg.storage.whole_files import files_in, patiently, write_whole

CATALOG_NAME = "catalog.parquet"
_VERSION_KEY = b"ray_lidarseg.schema_version"
# Measured on a real nuScenes key-frame and a real SemanticKITTI scan, milliseconds to read one frame (size of the file
# against none): none 0.04 / 0.13, lz4 0.09 / 0.44 (78 % / 86 %), zstd level 1 0.40 / 1.5 (72 % / 88 %).
_COMPRESSION = "lz4"
_OPEN_FILES = 16  # a footer and a handle each
_LISTING_THREADS = 8  # footers come one round trip each from object storage

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
_CAMERA_FIELDS = (
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
        columns += [pa.field(f"{camera}.{name}", kind, nullable=False) for name, kind, _ in _CAMERA_FIELDS]
        absent |= {f"{camera}.{name}": value for name, _, value in _CAMERA_FIELDS}
    rows = [absent | frame.to_row() for frame in frames]
    return pa.Table.from_pylist(rows, schema=pa.schema(columns))


def parquet_bytes(table: pa.Table, rows_per_group: int) -> bytes:
    """The table, with its metadata, as a Parquet file that records the schema version."""
    metadata = {**(table.schema.metadata or {}), _VERSION_KEY: str(SCHEMA_VERSION).encode()}
    table = table.replace_schema_metadata(metadata)
    sink = pa.BufferOutputStream()
    pq.write_table(
        table,
        sink,
        row_group_size=rows_per_group,
        compression=_COMPRESSION,
        use_dictionary=False,
        write_statistics=False,
    )
    return sink.getvalue().to_pybytes()


def open_parquet(filesystem: fs.FileSystem, path: str, writer: str = "prepare") -> pq.ParquetFile:
    """Opens a file of this schema version; the footer is read, nothing else.

    Args:
        filesystem: Where it lies.
        path: The file.
        writer: The verb that wrote it, for the remedy in errors.

    Raises:
        DataError: The file is missing, torn, or of another schema version.
    """
    is_local = isinstance(filesystem, fs.LocalFileSystem)  # pre-buffering is for round trips, and starts threads
    try:
        file = patiently(filesystem, lambda: pq.ParquetFile(filesystem.open_input_file(path), pre_buffer=not is_local))
    except FileNotFoundError as error:
        raise DataError(f"{path} is missing: run `ray-lidarseg {writer}` to the end first") from error
    except (pa.ArrowInvalid, OSError) as error:
        raise DataError(
            f"{path} is not a whole Parquet file ({error}): delete it and run `ray-lidarseg {writer}` again"
        ) from error
    version = (file.schema_arrow.metadata or {}).get(_VERSION_KEY, b"none").decode()
    if version != str(SCHEMA_VERSION):
        raise DataError(
            f"{path} has schema version {version}, this release reads {SCHEMA_VERSION}: write it again "
            "(`ray-lidarseg index`, then `prepare` into a new folder)"
        )
    return file


def shard_file(frames: Sequence[Keyframe], asked: Sequence[str] = ()) -> tuple[str, bytes]:
    """Name and content of the shard of decoded frames.

    Args:
        frames: What it holds.
        asked: Frame ids whose digest is the name; left out, those of ``frames``. A group that is tried again keeps its
            name although other frames of it may fail this time.
    """
    ids = "\n".join(asked or [frame.frame_id for frame in frames])
    name = f"shard-{hashlib.sha256(ids.encode()).hexdigest()[:16]}.parquet"
    return name, parquet_bytes(keyframe_table(frames), rows_per_group=1)


def write_shard(filesystem: fs.FileSystem, folder: str, frames: Sequence[Keyframe]) -> str:
    """Writes decoded frames as one shard, whole or not at all; returns its name."""
    name, data = shard_file(frames)
    write_whole(filesystem, f"{folder}/{name}", data)
    return name


def list_shards(filesystem: fs.FileSystem, folder: str) -> list[str]:
    """Names of the finished shards of a folder, sorted; empty where there is no folder yet."""
    names = (os.path.basename(path) for path in files_in(filesystem, folder))
    return sorted(name for name in names if name.startswith("shard-") and name.endswith(".parquet"))


@dataclass(frozen=True)
class Catalog:
    """What a prepared folder holds: one entry a frame, in order of frame id.

    Attributes:
        frame_id: Ids.
        dataset: Data set of each frame.
        scene: Drive of each frame.
        split: ``train``, ``val`` or ``test``.
        timestamp_us: int64 [N] LiDAR times, microseconds.
        shard: File name of the shard that holds the frame.
        row: int64 [N] row group within the shard.
        num_points: int64 [N] points in the file.
        is_labelled: bool [N], whether the frame comes with labels.
        alias: What public lists call each frame, ``""`` where that is its id, or in folders of earlier releases.
    """

    frame_id: tuple[str, ...]
    dataset: tuple[str, ...]
    scene: tuple[str, ...]
    split: tuple[str, ...]
    timestamp_us: np.ndarray
    shard: tuple[str, ...]
    row: np.ndarray
    num_points: np.ndarray
    is_labelled: np.ndarray
    alias: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "alias", self.alias or ("",) * len(self.frame_id))

    def __len__(self) -> int:
        """Number of frames."""
        return len(self.frame_id)

    def select(self, frame_ids: Iterable[str]) -> "Catalog":
        """The entries of these frames, in the order asked for.

        Raises:
            DataError: A frame is not in the catalog.
        """
        position = {frame_id: index for index, frame_id in enumerate(self.frame_id)}
        wanted = list(frame_ids)
        missing = [frame_id for frame_id in wanted if frame_id not in position]
        if missing:
            raise DataError(
                f"{len(missing)} frames are not among the {len(self)} prepared ones, for example {missing[:3]}: "
                "check the ids, or index and prepare them first"
            )
        return self._take([position[frame_id] for frame_id in wanted])

    def of_split(self, split: str) -> "Catalog":
        """The entries of one split."""
        return self._take([index for index, name in enumerate(self.split) if name == split])

    def with_validation(self, frame_ids: Iterable[str]) -> "Catalog":
        """The same frames, these ones moved into the split ``val``: what a recipe's ``data.val_frames`` asks for.

        Raises:
            DataError: A frame is not in the catalog.
        """
        moved = set(self.select(frame_ids).frame_id)
        pairs = zip(self.frame_id, self.split, strict=True)
        split = tuple("val" if frame_id in moved else name for frame_id, name in pairs)
        return Catalog(**{**self._columns(), "split": split})

    def _columns(self) -> dict[str, Any]:
        return {column.name: getattr(self, column.name) for column in fields(self)}

    def _take(self, indices: Sequence[int]) -> "Catalog":
        chosen = np.asarray(indices, np.int64)
        columns: dict[str, Any] = {}
        for name, values in self._columns().items():
            is_array = isinstance(values, np.ndarray)
            columns[name] = values[chosen] if is_array else tuple(values[index] for index in indices)
        return Catalog(**columns)


_CATALOG_SCHEMA = pa.schema(
    [
        pa.field(name, kind, nullable=False)
        for name, kind in (
            ("frame_id", pa.string()),
            ("dataset", pa.string()),
            ("scene", pa.string()),
            ("split", pa.string()),
            ("timestamp_us", pa.int64()),
            ("shard", pa.string()),
            ("row", pa.int64()),
            ("num_points", pa.int64()),
            ("is_labelled", pa.bool_()),
            ("alias", pa.string()),
        )
    ]
)


def write_catalog(filesystem: fs.FileSystem, folder: str) -> Catalog:
    """Lists all finished shards of a folder and writes the catalog; a frame found twice is listed once.

    Raises:
        DataError: There is no shard, or one is torn or of another schema version.
    """
    entries: dict[str, dict[str, Any]] = {}
    for entry in shard_entries(filesystem, folder):
        entries.setdefault(entry["frame_id"], entry)
    if not entries:
        raise DataError(f"{folder} holds no prepared frames: run `ray-lidarseg prepare` into it first")
    rows = [entries[frame_id] for frame_id in sorted(entries)]
    table = pa.Table.from_pylist(rows, schema=_CATALOG_SCHEMA)
    write_whole(filesystem, f"{folder}/{CATALOG_NAME}", parquet_bytes(table, rows_per_group=len(table)))
    return _catalog(table)


def shard_entries(filesystem: fs.FileSystem, folder: str) -> Iterator[dict[str, Any]]:
    """The catalog's columns, and the URIs, of every frame in every shard of a folder, without reading any points.

    Raises:
        DataError: A shard is torn or of another schema version.
    """
    with ThreadPoolExecutor(_LISTING_THREADS) as threads:
        shards = list_shards(filesystem, folder)
        for entries in threads.map(lambda name: _entries(filesystem, folder, name), shards):
            yield from entries


def _entries(filesystem: fs.FileSystem, folder: str, name: str) -> list[dict[str, Any]]:
    columns = [
        "frame_id",
        "dataset",
        "scene",
        "split",
        "timestamp_us",
        "num_points",
        "points_uri",
        "labels_uri",
        "alias",
    ]
    with open_parquet(filesystem, f"{folder}/{name}") as file:
        rows = patiently(filesystem, lambda: file.read(columns=columns, use_threads=False)).to_pylist()
    return [
        {"alias": "", **row, "shard": name, "row": index, "is_labelled": bool(row["labels_uri"])}
        for index, row in enumerate(rows)
    ]


def read_catalog(filesystem: fs.FileSystem, folder: str) -> Catalog:
    """What a prepared folder holds.

    Raises:
        DataError: The folder has no catalog (prepare did not finish), or it is torn or of another schema version.
    """
    with open_parquet(filesystem, f"{folder}/{CATALOG_NAME}") as file:
        return _catalog(patiently(filesystem, lambda: file.read(use_threads=False)))


def _catalog(table: pa.Table) -> Catalog:
    columns: dict[str, Any] = {}
    for name in table.column_names:
        column = table.column(name)
        columns[name] = tuple(column.to_pylist()) if pa.types.is_string(column.type) else column.to_numpy()
    return Catalog(**columns)


class OpenShards:
    """Rows of the shards of one folder, one at a time and only the columns asked for.

    Opens files lazily and keeps a few open. Pickles without its open files, and forgets them after a fork, so it may be
    used in forked and in spawned DataLoader workers.
    """

    def __init__(self, filesystem: fs.FileSystem, folder: str):
        self.filesystem = filesystem
        self.folder = folder
        self._forget()

    def row(self, name: str, row: int, columns: Sequence[str] | None = None) -> dict[str, Any]:
        """Row group ``row`` of shard ``name``.

        Args:
            name: File name.
            row: Row group; one frame each.
            columns: Names; None reads all.

        Raises:
            DataError: The shard is missing, torn, of another version, or shorter.
        """
        try:
            table = patiently(
                self.filesystem, lambda: self._file(name).read_row_group(row, columns=columns, use_threads=False)
            )
        except (pa.ArrowException, OSError, IndexError) as error:
            self._files.pop(name, None)
            raise DataError(f"row {row} of {self.folder}/{name} cannot be read: {error}") from error
        return {column: table.column(column)[0].as_py() for column in table.column_names}

    def columns(self, name: str) -> list[str]:
        """Names of the columns of a shard."""
        return self._file(name).schema_arrow.names

    def _file(self, name: str) -> pq.ParquetFile:
        if self._process != os.getpid():
            self._forget()
        if name not in self._files:
            self._files[name] = open_parquet(self.filesystem, f"{self.folder}/{name}")
            if len(self._files) > _OPEN_FILES:
                self._files.popitem(last=False)[1].close(force=True)
        self._files.move_to_end(name)
        return self._files[name]

    def _forget(self) -> None:
        self._files: OrderedDict[str, pq.ParquetFile] = OrderedDict()
        self._process = os.getpid()

    def __getstate__(self) -> dict[str, Any]:
        return {"filesystem": self.filesystem, "folder": self.folder}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._forget()


class PreparedFrames:
    """The frames of a catalog, read one at a time: ``frames[i]`` is entry i as a decoded ``Keyframe``.

    May be pickled, and used in forked and in spawned DataLoader workers.
    """

    def __init__(self, filesystem: fs.FileSystem, folder: str, catalog: Catalog):
        self.filesystem = filesystem
        self.folder = folder
        self.catalog = catalog
        self._shards = OpenShards(filesystem, folder)

    def __len__(self) -> int:
        """Number of frames."""
        return len(self.catalog)

    def __getitem__(self, index: int) -> Keyframe:
        """Reads frame ``index``.

        Raises:
            DataError: The shard is missing, torn, of another version, or does not hold this frame.
        """
        frame_id, name = self.catalog.frame_id[index], self.catalog.shard[index]
        try:
            frame = Keyframe.from_row(self._shards.row(name, int(self.catalog.row[index])))
        except DataError as error:
            raise DataError(f"frame {frame_id} in {self.folder}/{name} cannot be read: {error}") from error
        if frame.frame_id != frame_id:
            raise DataError(
                f"{self.folder}/{name} holds frame {frame.frame_id} where {CATALOG_NAME} promises {frame_id}: "
                "run `ray-lidarseg prepare` again"
            )
        return frame
