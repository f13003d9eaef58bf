"""The verb itself: decode what is missing, then each layer that was asked for, one stage after the other."""

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass

from ray_lidarseg.datasets.shards import write_catalog
from ray_lidarseg.datasets.whole_files import remove_unfinished
from ray_lidarseg.errors import DataError
from ray_lidarseg.prepare.decoding import listed_frames, progress_of, run_decoding
from ray_lidarseg.prepare.progress import FAILURES_NAME
from ray_lidarseg.runtime import ontologies, storage
from ray_lidarseg.runtime.cluster import connect


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
    with ExitStack() as stack:
        return _decode(index, out, max_failed_ratio, lambda: stack.enter_context(connect()))


def _decode(index: str, out: str, max_failed_ratio: float, start_ray: Callable[[], None]) -> PrepareReport:
    filesystem, folder = storage.resolve(out)
    remove_unfinished(filesystem, folder)
    listed, ontology = listed_frames(index), ontologies.of_index(index)
    ontologies.keep(ontology, out)
    progress = progress_of(listed, out, max_failed_ratio)
    num_finished = len(listed) - len(progress.waiting)
    try:
        if progress.waiting:
            start_ray()
            run_decoding(index, out, ontology, progress)
    finally:
        progress.write_failures()
    with storage.explained("write", out):
        catalog = write_catalog(filesystem, folder)
    report = PrepareReport(progress.done, num_finished, len(progress.failures), progress.nonfinite_points)
    print(_summary(report, out, len(catalog)))
    return report


def _summary(report: PrepareReport, out: str, num_prepared: int) -> str:
    parts = [f"{report.done} frames prepared", f"{report.skipped} were there already", f"{report.failed} failed"]
    if report.failed:
        parts[-1] += f" (see {storage.join(out, FAILURES_NAME)})"
    if report.nonfinite_points:
        parts.append(f"{report.nonfinite_points} points are not finite and will not be trained on")
    if others := num_prepared - report.done - report.skipped:
        parts.append(f"{others} of other indexes are there, too")
    return f"{out}: " + ", ".join(parts)
