"""Layers of a prepared folder: what image teachers say about its frames, one row a key-frame.

``OUT/layers/KIND-DIGEST/`` holds ``layer.json``, ``shard-*.parquet``, ``catalog.parquet`` and ``failures.jsonl``. The
digest is that of all that decides the content (teacher, checkpoint, parameters, the layers it reads), so another
teacher makes another layer and leaves the old one. Kinds:

``masks``     ``CAM.segments`` (PNG uint16, 0 = none), ``CAM.num_segments`` (N, -1 where the frame lacks the camera)
``pairs``     ``point_camera`` (int8 [P]), ``point_pixel`` (int16 [P, 2]), ``point_segment`` (uint16 [P])
``features``  ``CAM.segment_features`` (float16 [N, F], row i is segment i + 1), ``CAM.num_segments``; and ``text.npz``
"""

import hashlib
import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import cv2
import numpy as np
import pyarrow as pa
from jaxtyping import Float, Int8, Int16, UInt16
from pyarrow import fs

from ray_lidarseg.datasets.catalog import CATALOG_NAME, entries_table, listed_rows, write_entries
from ray_lidarseg.datasets.image_files import read_ids
from ray_lidarseg.datasets.parquet_files import open_parquet, parquet_bytes
from ray_lidarseg.datasets.prepared_frames import OpenShards
from ray_lidarseg.datasets.shards import shard_name
from ray_lidarseg.errors import DataError
from ray_lidarseg.recipe.bad_input import shown
from ray_lidarseg.recipe.text_files import read_json, require
from ray_lidarseg.storage.whole_files import files_in, patiently, write_whole

LAYERS_FOLDER = "layers"
LAYER_FILE = "layer.json"
TEXT_FILE = "text.npz"
LAYER_VERSION = 1
"""Version of the columns above; part of every layer's digest."""

Kind = Literal["masks", "pairs", "features"]
KINDS: tuple[Kind, ...] = ("masks", "pairs", "features")
_LISTING_THREADS = 8  # footers come one round trip each from object storage
_ABSENT_CAMERA = -1


@dataclass(frozen=True)
class Layer:
    """What a layer is made of.

    Attributes:
        kind: What its columns are.
        identity: JSON-able; teacher, parameters and digest of its checkpoint.
        reads: Names of the layers it is computed from.
        feature_dim: F of a features layer; no part of the digest, for the identity decides it.
    """

    kind: Kind
    identity: dict[str, Any]
    reads: tuple[str, ...] = ()
    feature_dim: int = 0

    @property
    def name(self) -> str:
        """Folder of the layer: its kind and eight hex digits of all that decides its content."""
        content = {"kind": self.kind, "identity": self.identity, "reads": self.reads, "version": LAYER_VERSION}
        return f"{self.kind}-{hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:8]}"

    def to_json(self) -> bytes:
        """The text of ``layer.json``."""
        content = {
            "kind": self.kind,
            "schema_version": LAYER_VERSION,
            "identity": self.identity,
            "reads": list(self.reads),
            "feature_dim": self.feature_dim,
        }
        return (json.dumps(content, indent=1, sort_keys=True) + "\n").encode()

    @staticmethod
    def from_json(text: bytes, origin: str) -> "Layer":
        """The inverse of ``to_json``.

        Raises:
            DataError: Not such a file, or of another version.
        """
        advice = f"{origin} is no {LAYER_FILE} of ours (delete its folder and prepare again), it"
        content = read_json(text, advice, DataError)
        shape = {"schema_version": int, "kind": str, "identity": dict, "reads": [str], "feature_dim": int}
        require(content, shape, advice, DataError)
        if content["kind"] not in KINDS or content["feature_dim"] < 0:
            raise DataError(f"{advice}: kind is {shown(content['kind'])}, expected one of {', '.join(KINDS)}")
        version = content["schema_version"]
        layer = Layer(content["kind"], content["identity"], tuple(content["reads"]), content["feature_dim"])
        if version != LAYER_VERSION:
            raise DataError(
                f"{origin} has version {version}, this release reads {LAYER_VERSION}: run `ray-lidarseg prepare` again"
            )
        return layer


def layer_folder(folder: str, name: str) -> str:
    """Path of a layer inside a prepared folder."""
    return f"{folder}/{LAYERS_FOLDER}/{name}"


def read_layer(filesystem: fs.FileSystem, folder: str, name: str) -> Layer:
    """What a layer of a prepared folder is made of.

    Raises:
        DataError: There is no such layer; those that are there are named.
    """
    path = f"{layer_folder(folder, name)}/{LAYER_FILE}"
    try:
        text = patiently(filesystem, lambda: content_of(filesystem, path))
    except FileNotFoundError as error:
        there = ", ".join(layer_names(filesystem, folder)) or "none"
        raise DataError(f"{folder} has no layer {name!r}; it has: {there}") from error
    return Layer.from_json(text, path)


def content_of(filesystem: fs.FileSystem, path: str) -> bytes:
    """All bytes of a small file beside the shards."""
    with filesystem.open_input_stream(path, compression=None) as stream:
        return stream.read()


def layer_names(filesystem: fs.FileSystem, folder: str) -> list[str]:
    """Names of all layers of a prepared folder, sorted."""
    found = filesystem.get_file_info(fs.FileSelector(f"{folder}/{LAYERS_FOLDER}", allow_not_found=True))
    return sorted(
        info.base_name
        for info in found
        if info.type == fs.FileType.Directory and info.base_name.partition("-")[0] in KINDS
    )


def encode_segments(index_map: UInt16[np.ndarray, "H W"]) -> bytes:
    """Lossless 16-bit PNG of an index map; OpenCV writes it several times faster than Pillow."""
    return cv2.imencode(".png", index_map.astype(np.uint16, copy=False))[1].tobytes()


def masks_columns(segments: Mapping[str, tuple[bytes, int]]) -> dict[str, Any]:
    """Columns of a ``masks`` row from each camera's encoded index map and its number of segments N."""
    row: dict[str, Any] = {}
    for camera, (encoded, num_segments) in segments.items():
        row[f"{camera}.segments"], row[f"{camera}.num_segments"] = encoded, num_segments
    return row


def cameras_of(row: Mapping[str, Any]) -> list[str]:
    """Cameras of a ``masks`` or ``features`` row, in the order of ``Keyframe.cameras``."""
    names = sorted(name.removesuffix(".num_segments") for name in row if name.endswith(".num_segments"))
    return [name for name in names if row[f"{name}.num_segments"] != _ABSENT_CAMERA]


def segments_of(row: Mapping[str, Any], camera: str) -> UInt16[np.ndarray, "H W"]:
    """The index map of one camera of a ``masks`` row.

    Raises:
        DataError: The PNG cannot be decoded.
    """
    try:
        decoded = read_ids(row[f"{camera}.segments"], f"the segments of {camera}")
    except DataError as error:
        raise DataError(f"{error}: delete that layer's shard and prepare again") from error
    return decoded.astype(np.uint16, copy=False)


def features_columns(features: Mapping[str, Float[np.ndarray, "N F"]]) -> dict[str, Any]:
    """Columns of a ``features`` row from the segment features of each camera; row i belongs to segment i + 1."""
    row: dict[str, Any] = {}
    for camera, rows in features.items():
        row[f"{camera}.segment_features"] = np.ascontiguousarray(rows, np.float16).tobytes()
        row[f"{camera}.num_segments"] = len(rows)
    return row


def pairs_columns(
    camera: Int8[np.ndarray, "P"], pixel: Int16[np.ndarray, "P 2"], segment: UInt16[np.ndarray, "P"]
) -> dict[str, Any]:
    """Columns of a ``pairs`` row: camera (place in ``Keyframe.cameras``, -1 none), pixel (u, v), segment (0 none)."""
    return {
        "point_camera": np.ascontiguousarray(camera, np.int8).tobytes(),
        "point_pixel": np.ascontiguousarray(pixel, np.int16).tobytes(),
        "point_segment": np.ascontiguousarray(segment, np.uint16).tobytes(),
    }


def layer_shard_file(asked: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> tuple[str, bytes]:
    """Name and content of a shard of one layer.

    Args:
        asked: Frame ids of the group; their digest is the shard's name, so that trying the group again replaces the
            file even where other frames of it fail this time.
        rows: ``frame_id`` and the columns of one kind, and ``origin`` where it is known (``datasets.origin``); cameras
            may differ from row to row.
    """
    table = _table([{"origin": "", **row, "digest": _content_digest(row)} for row in rows])
    return shard_name(asked), parquet_bytes(table, rows_per_group=1)


def _content_digest(row: Mapping[str, Any]) -> str:
    """First 16 hex digits of the SHA-256 of a row's columns."""
    digest = hashlib.sha256()
    for name in sorted(row.keys() - {"frame_id", "origin"}):
        value = row[name]
        digest.update(f"{name}\n".encode() + (value if isinstance(value, bytes) else str(value).encode()))
    return digest.hexdigest()[:16]


def write_layer_shard(
    filesystem: fs.FileSystem, folder: str, asked: Sequence[str], rows: Sequence[Mapping[str, Any]]
) -> str:
    """Writes ``layer_shard_file`` into a layer's folder, whole or not at all; returns its name."""
    name, data = layer_shard_file(asked, rows)
    write_whole(filesystem, f"{folder}/{name}", data)
    return name


_COLUMN_TYPES: dict[str, tuple[pa.DataType, Any]] = {
    "segments": (pa.binary(), b""),
    "segment_features": (pa.binary(), b""),
    "num_segments": (pa.int32(), _ABSENT_CAMERA),
    "digest": (pa.string(), ""),
    "origin": (pa.string(), ""),
}


def _table(rows: Sequence[Mapping[str, Any]]) -> pa.Table:
    names = sorted({name for row in rows for name in row} - {"frame_id"})
    kinds = {name: _COLUMN_TYPES.get(name.rpartition(".")[2], (pa.binary(), b"")) for name in names}
    columns = [pa.field("frame_id", pa.string(), nullable=False)]
    columns += [pa.field(name, kind, nullable=False) for name, (kind, _) in kinds.items()]
    absent = {name: value for name, (_, value) in kinds.items()}
    return pa.Table.from_pylist([absent | dict(row) for row in rows], schema=pa.schema(columns))


_ENTRY = pa.schema(
    [
        pa.field("frame_id", pa.string(), nullable=False),
        pa.field("shard", pa.string(), nullable=False),
        pa.field("row", pa.int64(), nullable=False),
        pa.field("digest", pa.string(), nullable=False),
    ]
)


def layer_entries(filesystem: fs.FileSystem, folder: str) -> Iterator[dict[str, Any]]:
    """``frame_id``, ``shard``, ``row``, ``digest`` and ``origin`` of every row of a layer's finished shards.

    Raises:
        DataError: A shard is torn or of another schema version.
    """
    for row in listed_rows(filesystem, folder, ("frame_id", "digest", "origin")):
        yield {"digest": "", "origin": "", **row}


def write_layer_catalog(filesystem: fs.FileSystem, folder: str) -> int:
    """Lists all finished rows of a layer; a frame found twice is listed once. Returns how many frames."""
    table = entries_table(layer_entries(filesystem, folder), _ENTRY)
    write_entries(filesystem, folder, table)
    return len(table)


def layer_digests(filesystem: fs.FileSystem, folder: str, name: str) -> dict[str, str]:
    """Digest of the content of each row of a finished layer, by frame id; empty texts in layers of earlier releases.

    Raises:
        DataError: The layer has no catalog (prepare did not finish), or it is torn.
    """
    with open_parquet(filesystem, f"{layer_folder(folder, name)}/{CATALOG_NAME}") as file:
        entries = patiently(filesystem, lambda: file.read(use_threads=False)).to_pylist()
    return {entry["frame_id"]: entry.get("digest", "") for entry in entries}


def layer_bytes(filesystem: fs.FileSystem, folder: str) -> int:
    """Size of all files of a layer."""
    infos = filesystem.get_file_info(files_in(filesystem, folder))
    return sum(info.size or 0 for info in infos)


class LayerRows:
    """Rows of a finished layer by frame id; may be pickled and used in DataLoader workers.

    Args:
        filesystem: Where the prepared folder lies.
        folder: The prepared folder.
        name: The layer.

    Raises:
        DataError: The layer has no catalog (prepare did not finish), or it is torn.
    """

    def __init__(self, filesystem: fs.FileSystem, folder: str, name: str):
        path = layer_folder(folder, name)
        self.layer = read_layer(filesystem, folder, name)
        with open_parquet(filesystem, f"{path}/{CATALOG_NAME}") as file:
            entries = patiently(filesystem, lambda: file.read(use_threads=False)).to_pylist()
        self._place = {entry["frame_id"]: (entry["shard"], entry["row"]) for entry in entries}
        self._shards = OpenShards(filesystem, path)

    def __contains__(self, frame_id: str) -> bool:
        """Whether the layer holds the frame: it does not where the teacher failed on it."""
        return frame_id in self._place

    def row(self, frame_id: str, columns: Collection[str] | None = None) -> dict[str, Any]:
        """One row, or those of its columns that end in one of the names given.

        Raises:
            DataError: The frame is not in the layer, or its shard cannot be read.
        """
        if frame_id not in self._place:
            raise DataError(f"frame {frame_id} is not in {self._shards.folder}: run `ray-lidarseg prepare` again")
        shard, row = self._place[frame_id]
        wanted = None
        if columns is not None:
            wanted = [name for name in self._shards.columns(shard) if name.rpartition(".")[2] in columns]
        return self._shards.row(shard, row, wanted)
