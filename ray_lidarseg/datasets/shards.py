"""Prepared shards: Parquet files with one key-frame a row group, so that one frame is read without the rest.

A shard's name is the digest of its frame ids: writing the same frames again replaces the same file. The catalog lists
every frame with its shard and row; it is written last, so a folder with a catalog is complete.
"""

import hashlib
import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import MISSING, dataclass, fields
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs

from ray_lidarseg.errors import DataError, TornFileError
from ray_lidarseg.sample import SCHEMA_VERSION, Keyframe
from ray_lidarseg.storage.whole_files import files_in, patiently, write_whole

CATALOG_NAME = "catalog.parquet"
_VERSION_KEY = b"ray_lidarseg.schema_version"
# Measured on a real nuScenes key-frame and a real SemanticKITTI scan, milliseconds to read one frame (size of the file
# against none): none 0.04 / 0.13, lz4 0.09 / 0.44 (78 % / 86 %), zstd level 1 0.40 / 1.5 (72 % / 88 %).
_COMPRESSION = "lz4"
_TAIL_BYTES = len("PAR1") + 4  # a file ends with the length of its footer and these letters
_FOOTER_MARK = b"\nsha256:"
_FOOTER_READ_BYTES = 1 << 16  # Arrow's own first read
_OPEN_FILES = 16  # a footer and a handle each
LISTING_THREADS = 8  # footers come one round trip each from object storage

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
_SCAN_COLUMNS = ("frame_id", "points", "num_columns", "labels")
_CATALOGUED = ("dataset", "scene", "split", "timestamp_us", "alias")
_CALIBRATION = tuple(name for name, _, _ in _CAMERA_FIELDS if name != "image")


def _calibration_columns(names: Iterable[str]) -> list[str]:
    """Those of a shard's columns that describe its cameras, but for the images."""
    return [name for name in names if "." in name and name.rpartition(".")[2] in _CALIBRATION]


def keyframe_table(frames: Sequence[Keyframe]) -> pa.Table:
    """Key-frames as one Arrow table: flat columns, nothing null; a camera a frame lacks has an empty URI."""
    cameras = sorted({camera.name for frame in frames for camera in frame.cameras})
    columns = [pa.field(name, kind, nullable=False) for name, kind in _FRAME_FIELDS]
    absent: dict[str, Any] = {}
    for camera in cameras:
        columns += [pa.field(f"{camera}.{name}", kind, nullable=False) for name, kind, _ in _CAMERA_FIELDS]
        absent |= {f"{camera}.{name}": value for name, _, value in _CAMERA_FIELDS}
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
        write_page_checksum=True,
    )
    return _with_footer_digest(memoryview(sink.getvalue()))


def _with_footer_digest(data: memoryview) -> bytes:
    """The same Parquet file with a digest of its footer before the footer, where no reader looks.

    Parquet has checksums of pages, none of the footer that says where they lie and what they are.
    """
    start = len(data) - _TAIL_BYTES - int.from_bytes(data[-_TAIL_BYTES:-4], "little")
    return b"".join([data[:start], _FOOTER_MARK, hashlib.sha256(data[start:]).digest(), data[start:]])


def _footer(file: pa.NativeFile) -> pq.FileMetaData:
    """What the footer of an open file says, its digest compared where it has one (earlier releases wrote none)."""
    size, mark_bytes = file.size(), len(_FOOTER_MARK) + hashlib.sha256().digest_size
    end = file.read_at(min(size, _FOOTER_READ_BYTES), max(0, size - _FOOTER_READ_BYTES))
    length = int.from_bytes(end[-_TAIL_BYTES:-4], "little") + _TAIL_BYTES
    if length + mark_bytes > len(end) and size > len(end):
        end = file.read_at(min(size, length + mark_bytes), max(0, size - length - mark_bytes))
    footer, before = end[-length:], end[: max(0, len(end) - length)][-mark_bytes:]
    if before.startswith(_FOOTER_MARK) and not before.endswith(hashlib.sha256(footer).digest()):
        raise pa.ArrowInvalid("the digest of its footer differs: bits have flipped")
    return pq.read_metadata(pa.BufferReader(b"PAR1" + footer))


class _File(pq.ParquetFile):
    """A Parquet file of ours; what fails while it is read in a ``with`` block is a DataError that names it."""

    path = ""

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        super().__exit__(kind, error, trace)
        if isinstance(error, pa.ArrowException | OSError):
            raise DataError(f"{self.path} is torn ({error}): delete it and prepare again") from error


def open_parquet(filesystem: fs.FileSystem, path: str, writer: str = "prepare") -> pq.ParquetFile:
    """Opens a file of this schema version; the footer is read, nothing else.

    Args:
        filesystem: Where it lies.
        path: The file.
        writer: The verb that wrote it, for the remedy in errors.

    Raises:
        DataError: The file is missing or of another schema version, or the storage fails.
        TornFileError: It is not whole.
    """
    is_local = isinstance(filesystem, fs.LocalFileSystem)  # pre-buffering is for round trips, and starts threads
    try:
        file = patiently(
            filesystem,
            lambda: _opened(filesystem.open_input_file(path), pre_buffer=not is_local),
        )
    except FileNotFoundError as error:
        raise DataError(f"{path} is missing: run `ray-lidarseg {writer}` to the end first") from error
    except (pa.ArrowException, OSError, ValueError) as error:
        kind = DataError if isinstance(error, OSError) else TornFileError  # a store that fails says nothing of the file
        raise kind(
            f"{path} is not a whole Parquet file ({error}): delete it and run `ray-lidarseg {writer}` again"
        ) from error
    file.path = path
    version = (file.schema_arrow.metadata or {}).get(_VERSION_KEY, b"none").decode(errors="replace")
    if version != str(SCHEMA_VERSION):
        raise DataError(
            f"{path} has schema version {version}, this release reads {SCHEMA_VERSION}: write it again "
            "(`ray-lidarseg index`, then `prepare` into a new folder)"
        )
    return file


def content_digest(frame: Keyframe) -> str:
    """What a run sees of a decoded frame: 16 hex digits of the SHA-256 of scan or image, a slash, 16 of the labels."""
    scan = hashlib.sha256(np.ascontiguousarray(frame.points, np.float32).data)
    for camera in frame.cameras:
        scan.update(camera.image)
    labels = hashlib.sha256(np.ascontiguousarray(frame.labels, np.uint8).data)
    return f"{scan.hexdigest()[:16]}/{labels.hexdigest()[:16]}"


def _opened(file: pa.NativeFile, pre_buffer: bool) -> _File:
    return _File(file, metadata=_footer(file), pre_buffer=pre_buffer, page_checksum_verification=True)


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


def drop_catalog(filesystem: fs.FileSystem, folder: str) -> None:
    """Deletes the catalog of a folder, if there is one: before its shards change, so that nobody reads by it."""
    if filesystem.get_file_info(f"{folder}/{CATALOG_NAME}").type != fs.FileType.NotFound:
        filesystem.delete_file(f"{folder}/{CATALOG_NAME}")


def drop_rows(filesystem: fs.FileSystem, folder: str, outdated: Collection[tuple[str, int]]) -> None:
    """Takes rows out of the shards of a folder; its catalog goes first, so that nobody reads by it meanwhile.

    Interrupted, no row that stays is lost: a shard is deleted when what stays of it is in another one.

    Args:
        filesystem: Where the folder lies.
        folder: Of shards, or of a layer.
        outdated: Shard and row of each.

    Raises:
        DataError: A shard is torn.
        OSError: The folder cannot be written.
    """
    by_shard: dict[str, set[int]] = {}
    for name, row in outdated:
        by_shard.setdefault(name, set()).add(row)
    if by_shard:
        drop_catalog(filesystem, folder)
    for name, rows in by_shard.items():
        with open_parquet(filesystem, f"{folder}/{name}") as file:
            table = file.read(use_threads=False)
        rest = table.filter(pa.array([row not in rows for row in range(len(table))]))
        new_name = shard_name(rest.column("frame_id").to_pylist()) if len(rest) else ""
        if new_name:
            write_whole(filesystem, f"{folder}/{new_name}", parquet_bytes(rest, rows_per_group=1))
        if name != new_name:
            filesystem.delete_file(f"{folder}/{name}")


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
        digest: Of each frame's content (``content_digest``); ``""`` in folders of earlier releases.
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
    digest: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in ("alias", "digest"):
            object.__setattr__(self, name, getattr(self, name) or ("",) * len(self.frame_id))

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

    def of_split(self, *splits: str) -> "Catalog":
        """The entries of one split, or of several."""
        return self._take([index for index, name in enumerate(self.split) if name in splits])

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
            ("digest", pa.string()),
        )
    ]
)


def write_catalog(filesystem: fs.FileSystem, folder: str) -> Catalog:
    """Lists all finished shards of a folder and writes the catalog; a frame found twice is listed once.

    Raises:
        DataError: There is no shard, or one is torn or of another schema version.
    """
    table = entries_table(shard_entries(filesystem, folder), _CATALOG_SCHEMA)
    if not len(table):
        raise DataError(f"{folder} holds no prepared frames: run `ray-lidarseg prepare` into it first")
    write_entries(filesystem, folder, table)
    return _catalog(table)


def catalog_of_entries(entries: Iterable[dict[str, Any]]) -> Catalog:
    """The catalog that ``write_catalog`` would write of these rows of shards."""
    return _catalog(entries_table(entries, _CATALOG_SCHEMA))


def write_entries(filesystem: fs.FileSystem, folder: str, table: pa.Table) -> None:
    """Writes the catalog of a folder of shards, or of a layer."""
    write_whole(filesystem, f"{folder}/{CATALOG_NAME}", parquet_bytes(table, rows_per_group=max(1, len(table))))


def entries_table(entries: Iterable[dict[str, Any]], schema: pa.Schema) -> pa.Table:
    """The columns of a schema in order of frame id; a frame found twice is listed once."""
    by_id: dict[str, dict[str, Any]] = {}
    for entry in entries:
        by_id.setdefault(entry["frame_id"], entry)
    return pa.Table.from_pylist([by_id[frame_id] for frame_id in sorted(by_id)], schema=schema)


_LISTED = ("frame_id", "dataset", "scene", "split", "timestamp_us", "num_points", "points_uri", "labels_uri")
_LATER = ("alias", "digest", "origin")  # columns that shards of earlier releases lack


def shard_entries(filesystem: fs.FileSystem, folder: str) -> Iterator[dict[str, Any]]:
    """The catalog's columns, and the URIs, of every frame in every shard of a folder, without reading any points.

    Raises:
        DataError: A shard is torn or of another schema version.
    """
    absent = dict.fromkeys(_LATER, "")
    for row in listed_rows(filesystem, folder, (*_LISTED, *_LATER)):
        yield {**absent, **row, "is_labelled": bool(row["labels_uri"])}


def listed_rows(filesystem: fs.FileSystem, folder: str, columns: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Some columns of every row of the finished shards of a folder or of a layer, with its ``shard`` and ``row``.

    Raises:
        DataError: A shard is torn or of another schema version.
    """

    def rows(name: str) -> list[dict[str, Any]]:
        with open_parquet(filesystem, f"{folder}/{name}") as file:
            table = patiently(filesystem, lambda: file.read(columns=list(columns), use_threads=False))
        return [{**row, "shard": name, "row": index} for index, row in enumerate(table.to_pylist())]

    with ThreadPoolExecutor(LISTING_THREADS) as threads:
        for found in threads.map(rows, list_shards(filesystem, folder)):
            yield from found


def read_catalog(filesystem: fs.FileSystem, folder: str) -> Catalog:
    """What a prepared folder holds.

    Raises:
        DataError: The folder has no catalog (prepare did not finish), or it is torn or of another schema version.
    """
    with open_parquet(filesystem, f"{folder}/{CATALOG_NAME}") as file:
        return _catalog(patiently(filesystem, lambda: file.read(use_threads=False)))


def _catalog(table: pa.Table) -> Catalog:
    optional = {column.name for column in fields(Catalog) if column.default is not MISSING}
    for field in _CATALOG_SCHEMA:
        found = table.column(field.name) if field.name in table.column_names else None
        is_right = field.name in optional if found is None else found.type == field.type and not found.null_count
        if not is_right:
            kind = "missing" if found is None else f"{found.type} with {found.null_count} nulls"
            raise DataError(f"{CATALOG_NAME}: column {field.name} is {kind}, expected {field.type}: prepare again")
    columns: dict[str, Any] = {}
    for name in table.column_names:
        if name not in _CATALOG_SCHEMA.names:
            continue
        column = table.column(name)
        columns[name] = tuple(column.to_pylist()) if pa.types.is_string(column.type) else column.to_numpy()
    return Catalog(**columns)


class OpenShards:
    """Rows of the shards of one folder, one at a time and only the columns asked for.

    Opens files lazily and keeps a few open. Pickles without its open files, and forgets them after a fork, so it may be
    used in forked and in spawned DataLoader workers; threads of one process take turns.
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
        table = self.table(name, row, columns)
        return {column: table.column(column)[0].as_py() for column in table.column_names}

    def table(self, name: str, row: int, columns: Sequence[str] | None = None) -> pa.Table:
        """``row`` as a table of one row, whose bytes nobody has copied.

        Raises:
            DataError: See ``row``.
        """
        if self._process != os.getpid():  # before its lock, which a thread of the other process may have held
            self._forget()
        with self._turn:
            try:
                return patiently(
                    self.filesystem, lambda: self._file(name).read_row_group(row, columns=columns, use_threads=False)
                )
            except (pa.ArrowException, OSError, IndexError) as error:
                self._files.pop(name, None)
                raise DataError(f"row {row} of {self.folder}/{name} cannot be read: {error}") from error

    def columns(self, name: str) -> list[str]:
        """Names of the columns of a shard."""
        if self._process != os.getpid():
            self._forget()
        with self._turn:
            return self._file(name).schema_arrow.names

    def _file(self, name: str) -> pq.ParquetFile:
        if name not in self._files:
            self._files[name] = open_parquet(self.filesystem, f"{self.folder}/{name}")
            if len(self._files) > _OPEN_FILES:
                self._files.popitem(last=False)[1].close(force=True)
        self._files.move_to_end(name)
        return self._files[name]

    def _forget(self) -> None:
        self._files: OrderedDict[str, pq.ParquetFile] = OrderedDict()
        self._turn = threading.Lock()
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
        return self._checked(index, lambda name, row: Keyframe.from_row(self._shards.row(name, row)))

    def scan(self, index: int, with_cameras: bool = False) -> Keyframe:
        """What a training step looks at of frame ``index``: its points and labels, read without the other columns.

        The rest of the key-frame is the catalog's word, or empty: URIs, ring.

        Args:
            index: Entry of the catalog.
            with_cameras: Also the cameras, without their images.

        Raises:
            DataError: As for ``frames[index]``.
        """
        return self._checked(index, lambda name, row: self._scan(index, name, row, with_cameras))

    def _scan(self, index: int, name: str, row: int, with_cameras: bool) -> Keyframe:
        calibration = _calibration_columns(self._shards.columns(name)) if with_cameras else []
        table = self._shards.table(name, row, [*_SCAN_COLUMNS, *calibration])
        values: dict[str, Any] = {"points_uri": "", "labels_uri": "", "ring": b""}
        values |= {column: getattr(self.catalog, column)[index] for column in _CATALOGUED}
        values |= {column.rpartition(".")[0] + ".image": b"" for column in calibration}
        values |= {column: table.column(column)[0].as_py() for column in ("frame_id", "num_columns", *calibration)}
        values |= {column: table.column(column)[0].as_buffer() for column in ("points", "labels")}
        return Keyframe.from_row(values)

    def _checked(self, index: int, read: Callable[[str, int], Keyframe]) -> Keyframe:
        """What ``read`` makes of the frame's shard and row; errors name the frame."""
        frame_id, name = self.catalog.frame_id[index], self.catalog.shard[index]
        try:
            frame = read(name, int(self.catalog.row[index]))
        except (DataError, AttributeError, KeyError, TypeError, ValueError) as error:  # a column lacks, or is another
            raise DataError(f"frame {frame_id} in {self.folder}/{name} cannot be read: {error}") from error
        if frame.frame_id != frame_id:
            raise DataError(
                f"{self.folder}/{name} holds frame {frame.frame_id} where {CATALOG_NAME} promises {frame_id}: "
                "run `ray-lidarseg prepare` again"
            )
        return frame
