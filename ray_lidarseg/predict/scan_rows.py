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
from ray_lidarseg.predict.job import Job
from ray_lidarseg.recipe.schema import Data
from ray_lidarseg.training.moved_shards import with_validation_there
from ray_lidarseg.training.run_frames import stored_frames


def prepared_frames(prepared: str) -> PreparedFrames:
    """All frames of a folder that `prepare` wrote."""
    filesystem, path = storage.resolve(storage.absolute(prepared))
    return PreparedFrames(filesystem, path, read_catalog(filesystem, path))


def scan_rows(job: Job, prepared: str, index: str, scans: Sequence[str], columns: int) -> list[dict[str, Any]]:
    """One row a scan: ``frame_id``, ``points_uri``, ``dataset`` (empty: by layout), ``columns``, ``position`` ….

    Raises:
        DataError: Not exactly one source is given, or it holds no scan.
    """
    if sum(map(bool, (prepared, index, scans))) != 1:
        raise DataError("predict needs exactly one of --prepared, --index and --scans")
    if scans:
        is_open = isinstance(entry_named(job.data.dataset), OpenDataset)
        return [_with_values(row, job) for row in _scan_rows(scans, columns, job.data.dataset if is_open else "")]
    listed = _catalog_rows(prepared, job.data, job.run) if prepared else _index_rows(index)
    rows = [_with_values(row, job) for row in listed if row.pop("split") == job.split]
    if not rows:
        raise DataError(f"{prepared or index} holds no frame of split {job.split!r}: give another --split")
    return rows


def _with_values(row: dict[str, Any], job: Job) -> dict[str, Any]:
    """The row with ``values``: what decides what is written beside the model and the row's file, as JSON."""
    scan, _, labels = row.pop("digest", "").partition("/")
    values = {"scan": scan, "file": row["points_uri"], "columns": row["columns"]}
    if job.is_cloud:  # it says which labels are wrong
        values["labels"] = labels
    return {**row, "values": json.dumps({name: str(value) for name, value in values.items() if value})}


def _catalog_rows(prepared: str, data: Data, run: str) -> list[dict[str, Any]]:
    catalog = with_validation_there(prepared_frames(prepared).catalog, stored_frames(run), data.val_frames)
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
