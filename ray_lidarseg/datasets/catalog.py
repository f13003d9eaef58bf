"""The catalog of a folder of shards or of a layer: what it holds, written last, so a folder with one is complete."""

from collections.abc import Collection, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import MISSING, dataclass, fields
from typing import Any

import numpy as np
import pyarrow as pa
from pyarrow import fs

from ray_lidarseg.datasets.parquet_files import open_parquet, parquet_bytes
from ray_lidarseg.datasets.shards import list_shards, shard_name
from ray_lidarseg.errors import DataError
from ray_lidarseg.storage.whole_files import patiently, write_whole

CATALOG_NAME = "catalog.parquet"
LISTING_THREADS = 8  # footers come one round trip each from object storage


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
