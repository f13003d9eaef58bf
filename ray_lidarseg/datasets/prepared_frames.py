"""Reading prepared shards: one row at a time, and only the columns asked for."""

import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs

from ray_lidarseg.datasets.catalog import CATALOG_NAME, Catalog
from ray_lidarseg.datasets.parquet_files import open_parquet
from ray_lidarseg.datasets.shards import CAMERA_FIELDS
from ray_lidarseg.errors import DataError
from ray_lidarseg.sample import Keyframe
from ray_lidarseg.storage.whole_files import patiently

_OPEN_FILES = 16  # a footer and a handle each
_SCAN_COLUMNS = ("frame_id", "points", "num_columns", "labels")
_CATALOGUED = ("dataset", "scene", "split", "timestamp_us", "alias")
_CALIBRATION = tuple(name for name, _, _ in CAMERA_FIELDS if name != "image")


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


def _calibration_columns(names: Iterable[str]) -> list[str]:
    """Those of a shard's columns that describe its cameras, but for the images."""
    return [name for name in names if "." in name and name.rpartition(".")[2] in _CALIBRATION]
