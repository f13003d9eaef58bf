"""Which scans a call of `predict` is about: frames of a prepared folder or of an index, or files."""

import json
from collections.abc import Callable, Sequence
from typing import Any

from ray_lidarseg import storage
from ray_lidarseg.datasets.catalog import read_catalog
from ray_lidarseg.datasets.entries import entry_named
from ray_lidarseg.datasets.parquet_files import open_parquet
from ray_lidarseg.datasets.point_files import FORMATS, has_known_extension
from ray_lidarseg.datasets.prepared_frames import PreparedFrames
from ray_lidarseg.datasets.scans import scan_id
from ray_lidarseg.datasets.spec import OpenDataset
from ray_lidarseg.errors import DataError
from ray_lidarseg.recipe.schema import Data


def prepared_frames(prepared: str) -> PreparedFrames:
    """All frames of a folder that `prepare` wrote."""
    filesystem, path = storage.resolve(storage.absolute(prepared))
    return PreparedFrames(filesystem, path, read_catalog(filesystem, path))


def scan_rows(
    data: Data, prepared: str, index: str, scans: Sequence[str], columns: int, split: str
) -> list[dict[str, Any]]:
    """One row a scan: ``frame_id``, ``points_uri``, ``dataset`` (empty: by layout), ``columns``, ``position`` ….

    Raises:
        DataError: Not exactly one source is given, or it holds no scan.
    """
    if sum(map(bool, (prepared, index, scans))) != 1:
        raise DataError("predict needs exactly one of --prepared, --index and --scans")
    if scans:
        is_open = isinstance(entry_named(data.dataset), OpenDataset)
        return [_with_values(row) for row in _scan_rows(scans, columns, data.dataset if is_open else "")]
    listed = _catalog_rows(prepared, data) if prepared else _index_rows(index)
    rows = [_with_values(row) for row in listed if row.pop("split") == split]
    if not rows:
        raise DataError(f"{prepared or index} holds no frame of split {split!r}: give another --split")
    return rows


def _with_values(row: dict[str, Any]) -> dict[str, Any]:
    """The row with ``values``: what decides its labels beside the model and its file, as JSON."""
    values = {"scan": row.pop("digest", "").partition("/")[0], "file": row["points_uri"], "columns": row["columns"]}
    return {**row, "values": json.dumps({name: str(value) for name, value in values.items() if value})}


def _catalog_rows(prepared: str, data: Data) -> list[dict[str, Any]]:
    catalog = prepared_frames(prepared).catalog
    if storage.absolute(prepared) == storage.absolute(data.prepared):
        catalog = catalog.with_validation(data.val_frames)  # as in training
    columns = zip(catalog.frame_id, catalog.dataset, catalog.split, catalog.digest, strict=True)
    return [
        {
            "frame_id": name,
            "points_uri": "",
            "dataset": dataset,
            "columns": 0,
            "position": position,
            "split": split,
            "digest": digest,
        }
        for position, (name, dataset, split, digest) in enumerate(columns)
    ]


def _index_rows(index: str) -> list[dict[str, Any]]:
    with open_parquet(*storage.resolve(storage.absolute(index)), writer="index") as file:
        rows = file.read(columns=["frame_id", "points_uri", "labels_uri", "dataset", "split"]).to_pylist()
    return [{**row, "columns": 0, "position": -1} for row in rows]


def _scan_rows(scans: Sequence[str], columns: int, dataset: str) -> list[dict[str, Any]]:
    is_scan = has_known_extension if dataset else _is_binary
    files = [file for scan in scans for file in _files(storage.absolute(scan), is_scan)]
    stated = f"#bin{columns}" if dataset and columns else ""
    if stated and stated[1:] not in FORMATS:
        raise DataError(f"--columns {columns}: expected {', '.join(name[3:] for name in FORMATS if name[:3] == 'bin')}")
    return [
        {"frame_id": scan_id(file), "points_uri": file + stated, "dataset": dataset, "columns": columns, "position": -1}
        for file in files
    ]


def _is_binary(uri: str) -> bool:
    return storage.name_of(uri).lower().endswith(".bin")


def _files(uri: str, is_scan: Callable[[str], bool]) -> list[str]:
    if is_scan(uri):
        return [uri]
    found = [file for file in storage.list_files(uri) if is_scan(file)]
    if not found:
        raise DataError(f"{uri} is neither a .bin file nor a folder of them")
    return found
