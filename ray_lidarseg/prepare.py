"""The verb `prepare`: decode an index into Parquet shards that training reads, as a resumable Ray Data pipeline.

index rows → those no finished shard holds → blocks of a few → decode and write one shard a block.
Only index rows and one result line a frame travel through Ray; points go from file to shard inside a task. What is bad
about a frame is a result, not an exception, so it costs that frame and nothing else.
"""

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pyarrow as pa

from ray_lidarseg.datasets.decode import decode
from ray_lidarseg.datasets.points import num_nonfinite
from ray_lidarseg.datasets.shards import open_parquet, shard_entries, write_catalog, write_shard
from ray_lidarseg.datasets.whole_files import remove_unfinished
from ray_lidarseg.errors import DataError, LidarSegError
from ray_lidarseg.ontology import Ontology
from ray_lidarseg.runtime import ontologies, storage
from ray_lidarseg.runtime.cluster import connect, worker_environment
from ray_lidarseg.runtime.pool import quiet_data
from ray_lidarseg.runtime.progress import progress as progress_bar
from ray_lidarseg.sample import Keyframe

if TYPE_CHECKING:
    import ray

FAILURES_NAME = "failures.jsonl"
_FRAMES_PER_SHARD = 8  # ours: what a crash costs, 5 MiB of nuScenes or 14 MiB of SemanticKITTI
_TASK_RETRIES = 2  # of a task whose process died; Ray Data's own default is to try for ever
_NAMED_FAILURES = 5
_ORIGIN = ("points_uri", "labels_uri", "scene", "split")  # what makes a frame of the index the one in a shard
_RESULT = pa.schema([("frame_id", pa.string()), ("error", pa.string()), ("num_nonfinite", pa.int64())])


@dataclass(frozen=True)
class PrepareReport:
    """What one call did.

    Attributes:
        done: Frames written.
        skipped: Frames of the index that were there already.
        failed: Frames with a reason in ``failures.jsonl``; the next call tries them again.
        nonfinite_points: Points with a NaN or an infinity in the written frames; kept in the shard, not trained on.
    """

    done: int
    skipped: int
    failed: int
    nonfinite_points: int = 0


@dataclass
class _Progress:
    """Counts while the pipeline runs; ``waiting`` are the frames no result came for yet."""

    total: int
    limit: float
    waiting: set[str]
    done: int = 0
    nonfinite_points: int = 0
    failures: dict[str, str] = field(default_factory=dict)

    def add(self, frame_id: str, error: str, num_nonfinite: int) -> None:
        self.waiting.discard(frame_id)
        if error:
            self.failures[frame_id] = error
        else:
            self.done += 1
            self.nonfinite_points += num_nonfinite

    @property
    def too_many_failed(self) -> bool:
        return len(self.failures) > self.limit * self.total + 1e-9


def prepare(index: str, out: str, max_failed_ratio: float = 0.01) -> PrepareReport:
    """Decodes every frame of an index that ``out`` does not hold yet, then writes the catalog over all shards.

    Interrupted at any moment, the same call continues: a shard is there whole or not at all.

    Args:
        index: What `index` wrote; a path or a URI.
        out: Folder of the shards, ``catalog.parquet`` and ``failures.jsonl``; a path or a URI.
        max_failed_ratio: Share of the index's frames that may be unreadable. Ours: one in a hundred.

    Raises:
        DataError: More frames failed; the first reasons are named, finished shards stay. Or ``out`` was prepared from
            another index, or ``max_failed_ratio`` is no share.
        StorageError: ``out`` cannot be written.
    """
    if not 0.0 <= max_failed_ratio <= 1.0:
        raise DataError(f"--max-failed-ratio {max_failed_ratio:g} is no share of the frames: expected 0 … 1")
    index, out = storage.absolute(index), storage.absolute(out)
    storage.check_writable(out)
    filesystem, folder = storage.resolve(out)
    remove_unfinished(filesystem, folder)
    listed, ontology = _listed(index), ontologies.of_index(index)
    ontologies.keep(ontology, out)
    finished = _finished(listed, out)
    progress = _Progress(len(listed), max_failed_ratio, set(listed) - finished)
    try:
        if progress.waiting:
            _run(index, out, ontology, progress)
    finally:
        _write_failures(out, listed, progress)
    with storage.explained("write", out):
        catalog = write_catalog(filesystem, folder)
    report = PrepareReport(progress.done, len(finished), len(progress.failures), progress.nonfinite_points)
    print(_summary(report, out, len(catalog)))
    return report


def _listed(index: str) -> dict[str, dict[str, str]]:
    """Frame ids of the index, each with its ``_ORIGIN``."""
    with open_parquet(*storage.resolve(index), writer="index") as file:
        rows = file.read(columns=["frame_id", *_ORIGIN]).to_pylist()
    return {row["frame_id"]: row for row in rows}


def _finished(listed: dict[str, dict[str, str]], out: str) -> set[str]:
    finished = set()
    for entry in shard_entries(*storage.resolve(out)):
        now = listed.get(entry["frame_id"], entry)
        for name in _ORIGIN:
            if entry[name] != now[name]:
                raise DataError(
                    f"{out} holds frame {entry['frame_id']} with {name} {entry[name] or '(none)'}, the index says "
                    f"{now[name] or '(none)'}: prepare this index into a new folder"
                )
        finished.add(entry["frame_id"])
    return finished & listed.keys()


def _run(index: str, out: str, ontology: Ontology | None, progress: _Progress) -> None:
    with connect(), quiet_data(), progress_bar(len(progress.waiting), "prepare", "frame") as bar:
        for frames_per_shard in (_FRAMES_PER_SHARD, 1):  # a frame that kills its process took others with it
            num_blocks = math.ceil(len(progress.waiting) / frames_per_shard)
            for frame_id, error, num_nonfinite in _results(index, out, ontology, progress.waiting, num_blocks):
                progress.add(frame_id, error, num_nonfinite)
                bar.update()
                bar.set_postfix(failed=len(progress.failures), refresh=False)
                _stop_if_too_many_failed(progress, out)
    for frame_id in sorted(progress.waiting):
        progress.add(frame_id, f"its worker process died {_TASK_RETRIES + 1} times (out of memory?)", 0)
    _stop_if_too_many_failed(progress, out)


def _results(
    index: str, out: str, ontology: Ontology | None, waiting: set[str], num_blocks: int
) -> Iterator[tuple[str, str, int]]:
    if not waiting:
        return
    import ray

    filesystem, path = storage.resolve(index)
    environment = {"env_vars": worker_environment()}
    task = {"batch_format": "pyarrow", "batch_size": None, "runtime_env": environment, "max_retries": _TASK_RETRIES}
    rows = ray.data.read_parquet(path, filesystem=filesystem)
    rows = rows.map_batches(_among, fn_kwargs={"waiting": ray.put(set(waiting))}, **task)
    blocks = rows.repartition(num_blocks)  # before it, one block may be the whole file
    results = blocks.map_batches(_prepare_rows, fn_kwargs={"out": out, "ontology": ontology}, **task)
    for batch in results.iter_batches(batch_size=None, batch_format="pyarrow"):
        for row in batch.to_pylist():
            yield row["frame_id"], row["error"], row["num_nonfinite"]


def _among(rows: pa.Table, waiting: "ray.ObjectRef") -> pa.Table:
    import ray

    wanted = ray.get(waiting)
    return rows.filter(pa.array([frame_id in wanted for frame_id in rows.column("frame_id").to_pylist()], pa.bool_()))


def _prepare_rows(rows: pa.Table, out: str, ontology: Ontology | None) -> pa.Table:
    """Decodes index rows and writes the good ones as one shard; one result a row, with an error where it went wrong."""
    frames: list[Keyframe] = []
    errors: dict[str, str] = {}
    for row in rows.to_pylist():
        try:
            frames.append(decode(Keyframe.from_row(row), storage.read_bytes, ontology))
        except Exception as error:  # whatever is wrong with one frame must not cost the others
            errors[row["frame_id"]] = _reason(error)
    if frames:
        try:
            write_shard(*storage.resolve(out), frames)
        except Exception as error:  # a full disk: recorded for each frame, and soon more than may fail
            errors |= {frame.frame_id: f"cannot write its shard: {_reason(error)}" for frame in frames}
    nonfinite = {frame.frame_id: num_nonfinite(frame.points) for frame in frames}
    ids = rows.column("frame_id").to_pylist()
    return pa.Table.from_pylist(
        [{"frame_id": i, "error": errors.get(i, ""), "num_nonfinite": nonfinite.get(i, 0)} for i in ids], schema=_RESULT
    )


def _reason(error: Exception) -> str:
    return str(error) if isinstance(error, LidarSegError) else f"{type(error).__name__}: {error}"


def _stop_if_too_many_failed(progress: _Progress, out: str) -> None:
    if not progress.too_many_failed:
        return
    failed, total = len(progress.failures), progress.total
    enough = math.ceil(100 * failed / total) / 100
    first = [f"  {frame_id}: {reason}" for frame_id, reason in list(progress.failures.items())[:_NAMED_FAILURES]]
    raise DataError(
        "\n".join(
            [
                f"{failed} of {total} frames cannot be prepared, more than the share {progress.limit:g} that may fail. "
                "The first:",
                *first,
                f"All so far: {storage.join(out, FAILURES_NAME)}. Finished shards stay; repair the files and give the "
                f"same command again, or go on without these frames with --max-failed-ratio {enough:g} or more.",
            ]
        )
    )


def _write_failures(out: str, listed: dict[str, dict[str, str]], progress: _Progress) -> None:
    uris = {frame_id: {name: listed[frame_id][name] for name in _ORIGIN[:2]} for frame_id in progress.failures}
    rows = ({"frame_id": name, **uris[name], "reason": reason} for name, reason in progress.failures.items())
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    storage.write_bytes(storage.join(out, FAILURES_NAME), lines.encode())


def _summary(report: PrepareReport, out: str, num_prepared: int) -> str:
    parts = [f"{report.done} frames prepared", f"{report.skipped} were there already", f"{report.failed} failed"]
    if report.failed:
        parts[-1] += f" (see {storage.join(out, FAILURES_NAME)})"
    if report.nonfinite_points:
        parts.append(f"{report.nonfinite_points} points are not finite and will not be trained on")
    if others := num_prepared - report.done - report.skipped:
        parts.append(f"{others} of other indexes are there, too")
    return f"{out}: " + ", ".join(parts)
