"""The verb `validate`: read a sample of frames in parallel and print what is wrong with the data, and how to fix it."""

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass

import numpy as np
import pyarrow as pa
from pyarrow.fs import FileType
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ray_lidarseg import storage
from ray_lidarseg.checks.checks import check_all
from ray_lidarseg.checks.findings import Finding, has_errors
from ray_lidarseg.checks.label_checks import check_class_map
from ray_lidarseg.checks.listing_checks import check_splits, check_times
from ray_lidarseg.checks.measures import FrameMeasures, measure
from ray_lidarseg.datasets import ontology_files
from ray_lidarseg.datasets.catalog import CATALOG_NAME, read_catalog
from ray_lidarseg.datasets.class_map import MappedId, class_map, class_map_of_classes, counted, described_map
from ray_lidarseg.datasets.decode import decode_unclipped
from ray_lidarseg.datasets.entries import dataset_named
from ray_lidarseg.datasets.parquet_files import open_parquet
from ray_lidarseg.datasets.prepared_frames import PreparedFrames
from ray_lidarseg.datasets.spec import DatasetSpec
from ray_lidarseg.errors import DataError, reason
from ray_lidarseg.recipe.ontology import Ontology
from ray_lidarseg.runtime.cluster import connect, worker_runtime_env
from ray_lidarseg.runtime.progress import progress
from ray_lidarseg.sample import Keyframe

_FRAMES_PER_TASK = 2  # ours: a frame takes about half a second, so a task outweighs what it costs to start
_TASK_RETRIES = 2  # of a task whose process died
_STYLES = {"error": "bold red", "warning": "yellow", "ok": "green"}

Results = list[tuple[FrameMeasures | tuple[str, str], dict[int, int]]]
"""Of each frame its measures, or its id and why it cannot be read; and its points by raw id, where it is known."""


@dataclass(frozen=True)
class _Source:
    """The sampled frames of an index file or a prepared folder, listed but not read; travels to the tasks.

    Attributes:
        frames: Index rows, or a prepared folder's frames.
        frame_ids: Id of each.
        dataset: Its name.
        ontology: Classes and LiDAR of a manifest's data.
    """

    frames: Sequence[Keyframe] | PreparedFrames
    frame_ids: Sequence[str]
    dataset: str
    ontology: Ontology | None

    @property
    def spec(self) -> DatasetSpec:
        """What the frames should be."""
        return dataset_named(self.dataset, self.ontology)

    def read(self, position: int) -> Keyframe:
        """One decoded frame."""
        frame = self.frames[position]
        if isinstance(self.frames, PreparedFrames):
            return frame
        return decode_unclipped(frame, self.ontology)


def validate(data: str, sample: int = 50, seed: int = 0, json_out: str = "") -> int:
    """Checks a sample of the frames of an index or of a prepared folder; nothing is written but the report.

    Args:
        data: What `index` or `prepare` wrote; a path or a URI.
        sample: Frames to read; 0 reads all.
        seed: Of the sample.
        json_out: File for the findings as JSON; a path or a URI.

    Returns:
        Exit status: 1 where something must be fixed before training, else 0.

    Raises:
        DataError: ``data`` is neither an index nor a prepared folder, or holds no frames.
        StorageError: ``json_out`` cannot be written.
    """
    if sample < 0:
        raise DataError(f"--sample {sample}: expected a number of frames, or 0 for all")
    uri = storage.absolute(data)
    is_prepared = storage.exists(storage.join(uri, CATALOG_NAME))
    table = _listing(uri, is_prepared)
    chosen = _choose(len(table), sample, seed)
    source = _sampled_shards(uri, chosen) if is_prepared else _sampled_index(uri, table, chosen)
    if source.spec.is_images:
        raise DataError(f"{data} holds images of {source.dataset}: validate checks scans; `prepare` checks each image")
    if json_out:
        storage.check_file_writable(json_out)
    measured = _measure(source)
    results = [result for result, _ in measured]
    frames = [result for result in results if isinstance(result, FrameMeasures)]
    failures = dict(result for result in results if not isinstance(result, FrameMeasures))
    mapped = _class_map(source, frames, [counts for _, counts in measured])
    spec = source.spec
    findings = check_all(frames, failures, spec.sensor, spec.taxonomy.class_names, spec.ground, spec.vehicles)
    findings += check_class_map(mapped)
    findings += check_times(*_times(table), is_ordered=not is_prepared)
    findings.append(check_splits(*_splits(table)))
    if json_out:
        report = {
            "data": data,
            "frames": len(table),
            "sampled": len(chosen),
            "seed": seed,
            "findings": [asdict(finding) for finding in findings],
            "class_map": [asdict(row) for row in mapped],
        }
        storage.write_bytes(json_out, json.dumps(report, indent=1).encode())
    _print(findings, f"{data}: {len(chosen)} of {len(table)} frames")
    print(described_map(mapped, f"class map, {len(chosen)} frames"))
    return 1 if has_errors(findings) else 0


def _listing(uri: str, is_prepared: bool) -> pa.Table:
    """Every row of the index, or of the catalog of a prepared folder; no scans."""
    if not is_prepared and _is_no_index(uri):
        raise DataError(
            f"{uri} is neither an index file nor a prepared folder: run `ray-lidarseg index nuscenes|"
            "semantickitti|manifest … --out index.parquet` first and validate what it writes"
        )
    path = storage.join(uri, CATALOG_NAME) if is_prepared else uri
    with open_parquet(*storage.resolve(path), writer="prepare" if is_prepared else "index") as file:
        table = file.read(use_threads=False)
    missing = [
        name for name in ("frame_id", "dataset", "scene", "split", "timestamp_us") if name not in table.column_names
    ]
    if missing:
        raise DataError(f"{uri} has no column {', '.join(missing)}: expected what `ray-lidarseg index` writes")
    datasets = sorted(set(table.column("dataset").to_pylist()))
    if len(datasets) != 1:
        raise DataError(f"{uri} holds frames of {datasets or 'no data set'}: expected the frames of one")
    return table


def _times(table: pa.Table) -> tuple[list[str], list[int], list[str]]:
    """Scene, time and scan of every frame; a catalog lists no files, but no frame twice either."""
    scan = "points_uri" if "points_uri" in table.column_names else "frame_id"
    scenes, times_us, scans = (table.column(name).to_pylist() for name in ("scene", "timestamp_us", scan))
    return scenes, times_us, scans


def _splits(table: pa.Table) -> tuple[list[str], list[str], list[str]]:
    """Scene and split of every frame, and the digest of its scan, which a catalog alone knows."""
    digests = table.column("digest").to_pylist() if "digest" in table.column_names else []
    of_scans = [digest.partition("/")[0] for digest in digests]
    return table.column("scene").to_pylist(), table.column("split").to_pylist(), of_scans


def _is_no_index(uri: str) -> bool:
    """A manifest, or the root of a data set: nobody should be told that it is a damaged index file."""
    filesystem, path = storage.resolve(uri)
    is_folder = filesystem.get_file_info(path).type == FileType.Directory
    return is_folder or uri.lower().endswith((".jsonl", ".json", ".yaml", ".yml"))


def _choose(total: int, sample: int, seed: int) -> list[int]:
    count = min(sample or total, total)
    return sorted(np.random.default_rng(seed).choice(total, count, replace=False).tolist())


def _sampled_index(uri: str, table: pa.Table, chosen: list[int]) -> _Source:
    frames = [Keyframe.from_row(row) for row in table.take(chosen).to_pylist()]
    return _Source(frames, [frame.frame_id for frame in frames], frames[0].dataset, ontology_files.of_index(uri))


def _sampled_shards(uri: str, chosen: list[int]) -> _Source:
    filesystem, folder = storage.resolve(uri)
    catalog = read_catalog(filesystem, folder)
    sampled = catalog.select([catalog.frame_id[row] for row in chosen])
    frames = PreparedFrames(filesystem, folder, sampled)
    return _Source(frames, sampled.frame_id, sampled.dataset[0], ontology_files.of_prepared(uri))


def _measure(source: _Source) -> Results:
    """All frames, in their order."""
    results: dict[int, tuple[FrameMeasures | tuple[str, str], dict[int, int]]] = {}
    with connect(), progress(len(source.frame_ids), "validate", "frame") as bar:
        for positions, part in _tasks(source):
            results |= zip(positions, part, strict=True)
            bar.update(len(part))
    return [results[position] for position in sorted(results)]


def _tasks(source: _Source) -> Iterator[tuple[range, Results]]:
    """One Ray task a few frames; only row numbers go out and only measures come back."""
    import ray

    remote = ray.remote(_measure_some).options(num_cpus=1, max_retries=_TASK_RETRIES, runtime_env=worker_runtime_env())
    total, shared = len(source.frame_ids), ray.put(source)
    parts = [range(start, min(start + _FRAMES_PER_TASK, total)) for start in range(0, total, _FRAMES_PER_TASK)]
    running = {remote.remote(shared, part): part for part in parts}
    while running:
        (done,), _ = ray.wait(list(running), num_returns=1)
        part = running.pop(done)
        try:
            yield part, ray.get(done)
        except (ray.exceptions.WorkerCrashedError, ray.exceptions.OutOfMemoryError):
            reason = f"its worker process died {_TASK_RETRIES + 1} times (out of memory?)"
            yield part, [((source.frame_ids[position], reason), {}) for position in part]


def _measure_some(source: _Source, positions: range) -> Results:
    return [(_measure_one(source, position), _count_raw(source, position)) for position in positions]


def _measure_one(source: _Source, position: int) -> FrameMeasures | tuple[str, str]:
    try:
        return measure(source.read(position), source.spec.sensor)
    except Exception as error:  # whatever is wrong with one frame must not cost the others
        return source.frame_ids[position], reason(error)


def _count_raw(source: _Source, position: int) -> dict[int, int]:
    """Points by raw id: also of a frame that is refused for an id nobody knows."""
    frame = source.frames[position]
    if isinstance(source.frames, PreparedFrames) or source.spec.raw_labels is None or not frame.labels_uri:
        return {}
    try:
        return counted(source.spec.raw_labels(frame))
    except Exception:  # `_measure_one` says what is wrong
        return {}


def _class_map(
    source: _Source, frames: Sequence[FrameMeasures], raw_counts: Sequence[dict[int, int]]
) -> list[MappedId]:
    if isinstance(source.frames, PreparedFrames):  # their labels are classes already
        counts = np.sum([frame.label_counts for frame in frames], axis=0) if frames else np.zeros(256, np.int64)
        return class_map_of_classes(source.spec.taxonomy, dict(enumerate(counts.tolist())))
    total: Counter[int] = sum(map(Counter, raw_counts), Counter())
    total.pop(-1, 0)  # points without a label
    return class_map(source.spec.taxonomy, total)


def _print(findings: Sequence[Finding], title: str) -> None:
    table = Table(title=title, title_justify="left", show_lines=False)
    for heading in ("check", "verdict", "measured", "expected"):
        table.add_column(heading, overflow="fold")
    for finding in findings:
        verdict = Text(finding.severity, _STYLES[finding.severity])
        table.add_row(finding.check, verdict, finding.measured, finding.expected)
    console = Console(markup=False, emoji=False)  # a path may hold [brackets] and :colons:
    console.print(table)
    for finding in findings:
        if finding.fix:
            check = Text(finding.check, _STYLES[finding.severity])
            console.print(check, f": {finding.measured}. Fix: {finding.fix}", sep="")
