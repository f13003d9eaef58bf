"""From a run and a list of scans to a folder of labels, as resumable Ray Data work.

The scans of a prepared folder, of an index, or raw files → those without an output yet → a pool of actors, each with
the model loaded once → labels and confidence of each scan. What is wrong with one scan is written down and
costs that scan only.
"""

import json
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from ray_lidarseg import storage
from ray_lidarseg.datasets import ontology_files
from ray_lidarseg.datasets.entries import dataset_of
from ray_lidarseg.datasets.origin import described, what_changed
from ray_lidarseg.datasets.prediction_log import LabelledScan, PredictionLog, read_log
from ray_lidarseg.datasets.submission import (
    FileFormat,
    submission_bytes,
)
from ray_lidarseg.datasets.work_list import work_list, work_list_files
from ray_lidarseg.errors import DataError, RunError
from ray_lidarseg.predict.job import Job, job_of
from ray_lidarseg.predict.labeller import Labeller
from ray_lidarseg.predict.scan_rows import scan_rows
from ray_lidarseg.recipe.text_files import read_json
from ray_lidarseg.runtime import pool
from ray_lidarseg.runtime.cluster import connect
from ray_lidarseg.runtime.progress import progress as progress_bar
from ray_lidarseg.storage.lock import held
from ray_lidarseg.training.environment import git_commit
from ray_lidarseg.training.inference_options import PLAIN, InferenceOptions

SUMMARY_NAME = "predictions.json"
FAILURES_NAME = "failures.jsonl"

_NUM_EXAMPLES = 4  # scans the summary names, for pictures
_NAMED_FAILURES = 5


@dataclass(frozen=True)
class PredictReport:
    """What one call did.

    Attributes:
        done: Scans labelled.
        skipped: Scans whose output was there already.
        failed: Scans with a reason in ``failures.jsonl``; the next call tries them again.
        scans_per_s: Of this call, loading the model included.
        num_points: Points of each class, by name, in the scans of this call.
        reasons: Frame id to what was wrong.
    """

    done: int
    skipped: int
    failed: int
    scans_per_s: float
    num_points: dict[str, int]
    reasons: dict[str, str]


def predict(
    run: str,
    out: str,
    prepared: str = "",
    index: str = "",
    scans: Sequence[str] = (),
    columns: int = 0,
    split: str = "test",
    file_format: FileFormat = "label",
    which: str | int = "latest",
    options: InferenceOptions = PLAIN,
) -> PredictReport:
    """Labels scans with the model a run would deploy (the teacher where there is one); the same call continues.

    Exactly one of ``prepared``, ``index`` and ``scans`` says which. A point that no model may see takes the label of
    its nearest neighbour with confidence 0, so every point of a file has a class.

    Args:
        run: Run folder.
        out: Folder for the outputs (``datasets.submission`` says where in it), ``predictions.json``, ``scans.jsonl``
            (``datasets.prediction_log``), ``failures.jsonl``, and ``work_list.parquet`` and ``.csv``, the least certain
            scans first (``datasets.work_list``); a path or a URI.
        prepared: Folder that `prepare` wrote.
        index: File that `index` wrote.
        scans: float32 files, or folders of them.
        columns: Columns of ``scans``, 4 or 5; 0: from name, size and values.
        split: Which frames of ``prepared`` or ``index``; also the folder of format ``lidarseg``.
        file_format: ``label`` (SemanticKITTI), ``lidarseg`` (nuScenes), or ``pcd``, ``ply``, ``las``: points, colours,
            labels, confidence and, of frames with labels, errors (``datasets.point_clouds``).
        which: Checkpoint: ``latest`` or a number of steps.
        options: Views, votes and an ensemble: better and slower.

    Raises:
        RunError: There is no run or checkpoint, or ``out`` holds the predictions of another one.
        RecipeError: The options do not fit the run.
        DataError: No scans, two scans with one name, or a format that cannot hold the run's classes.
        StorageError: ``out`` cannot be written, or another process writes into it.
    """
    out = storage.absolute(out)
    job = job_of(run, out, which, file_format, split, index, options)
    rows = scan_rows(job, prepared, index, scans, columns)
    if prepared:
        ontology_files.check_classes(job.data, prepared)
    _refuse_equal_names(rows, job)
    storage.check_writable(out)
    with held(out, "predict"):
        report = _label_missing(job, rows, prepared)
    print(_describe(report, out))
    return report


def _label_missing(job: Job, rows: list[dict[str, Any]], prepared: str) -> PredictReport:
    began = time.monotonic()
    summary = _claim(job, rows, prepared)
    there = _labelled_already(rows, job)
    paths = {row["frame_id"]: job.path(row["frame_id"]) for row in rows}
    waiting = [row for row in rows if paths[row["frame_id"]] not in there]
    progress = _Progress({row["frame_id"] for row in waiting})
    with PredictionLog(job.out, there.values()) as log:
        try:
            _run(waiting, job, prepared, progress, log)
        finally:
            report = progress.report(job, len(rows) - len(waiting), time.monotonic() - began)
            _write_failures(job.out, rows, progress)
            _write_summary(job.out, {**summary, **_totals(job, log), "num_failed": report.failed})
            for name, content in work_list_files(work_list(log.scans.values(), _class_names(job))).items():
                storage.write_bytes(storage.join(job.out, name), content)
    return report


@dataclass
class _Progress:
    """Counts while the pool runs; ``waiting`` are the scans no result came for yet."""

    waiting: set[str]
    done: int = 0
    failures: dict[str, str] = field(default_factory=dict)
    histogram: Counter[int] = field(default_factory=Counter)

    def fail(self, frame_id: str, error: str) -> None:
        self.waiting.discard(frame_id)
        self.failures[frame_id] = error

    def add(self, scan: LabelledScan) -> None:
        self.waiting.discard(scan.frame_id)
        self.done += 1
        self.histogram.update(dict(enumerate(scan.num_points)))

    def report(self, job: Job, skipped: int, seconds: float) -> PredictReport:
        names = _class_names(job)
        num_points = {name: self.histogram[index] for index, name in enumerate(names)}
        rate = self.done / max(seconds, 1e-9)
        return PredictReport(self.done, skipped, len(self.failures), rate, num_points, self.failures)


def _refuse_equal_names(rows: list[dict[str, Any]], job: Job) -> None:
    """Also names that differ in the case of their letters only: some disks keep one file for both."""
    counts = Counter(job.path(row["frame_id"]).lower() for row in rows)
    repeated = [path for row in rows if counts[(path := job.path(row["frame_id"])).lower()] > 1]
    if repeated:
        names = " and ".join(dict.fromkeys(repeated[:2]))
        raise DataError(f"several scans would write {names}: predict them into different folders")


def _claim(job: Job, rows: list[dict[str, Any]], prepared: str) -> dict[str, Any]:
    """Writes the summary before the work, so that a folder never holds labels of two models."""
    same = {name: getattr(job, name) for name in ("run", "step", "weights", "fingerprint", "file_format")}
    file = storage.join(job.out, SUMMARY_NAME)
    if storage.exists(file):
        there = _summary_there(file)
        if there.get("weights") == job.weights:
            there.pop("run", None)  # the run folder may have moved
        other = [
            f"{name} {there[name]}, not {value}" for name, value in same.items() if there.get(name, value) != value
        ]
        if other:
            raise RunError(f"{job.out} holds other predictions ({'; '.join(other)}): choose another folder")
    summary = {
        **same,
        "split": job.split,
        "dataset": job.data.dataset,
        "data": job.data.model_dump(mode="json"),
        "read_as": job.read_as.model_dump(mode="json") if job.read_as else None,
        "class_names": list(_class_names(job)),
        "commit": git_commit(),
        "inference": job.options.to_json(),
        "num_scans": len(rows),
        "prepared": storage.absolute(prepared) if prepared else "",
        "index": job.index,
        "examples": [_example(row, job) for row in rows[:: max(1, len(rows) // _NUM_EXAMPLES)][:_NUM_EXAMPLES]],
    }
    _write_summary(job.out, summary)
    if job.file_format == "lidarseg":
        storage.write_bytes(storage.join(job.out, storage.file_name(job.split), "submission.json"), submission_bytes())
    return summary


def _class_names(job: Job) -> tuple[str, ...]:
    return dataset_of(job.data).taxonomy.class_names


def _summary_there(file: str) -> dict[str, Any]:
    return read_json(
        storage.read_bytes(file), f"{file} (choose another folder, or delete it with its labels)", RunError
    )


def _totals(job: Job, log: PredictionLog) -> dict[str, Any]:
    """Points by class and number of all scans whose labels lie in the folder, whichever calls made them."""
    names, points = _class_names(job), log.points_by_class()
    return {
        "num_points": {name: points[index] for index, name in enumerate(names)},
        "num_labelled": len(log.scans),
    }


def _example(row: dict[str, Any], job: Job) -> dict[str, Any]:
    return {**{name: row[name] for name in row if name != "values"}, "labels": job.path(row["frame_id"])}


def _labelled_already(rows: list[dict[str, Any]], job: Job) -> dict[str, LabelledScan]:
    """What the folder holds, by label file; torn ones, and scans of this call that changed, are named and left out."""
    found = read_log(job.out)
    folders = {storage.join(job.out, path).rpartition("/")[0] for path in found}
    there = {file: size for folder in folders for file, size in storage.list_sizes(folder).items()}
    sizes = {path: there[file] for path in found if (file := storage.join(job.out, path)) in there}
    if torn := [path for path, size in sizes.items() if size < found[path].num_bytes]:  # longer: somebody's own
        print(f"{len(torn)} label files are torn ({', '.join(torn[:3])}); they are written again", flush=True)
    found = {path: found[path] for path in sizes if path not in torn}
    now = {job.path(row["frame_id"]): {**json.loads(row["values"]), "read_as": job.read_as_digest} for row in rows}
    changed = what_changed({path: scan.origin for path, scan in found.items() if path in now}, now)
    if changed:
        shown = described({found[path].frame_id: what for path, what in changed.items()})
        print(f"{len(changed)} scans changed since they were labelled: {shown}; they are labelled again", flush=True)
    return {path: scan for path, scan in found.items() if path not in changed}


def _run(waiting: list[dict[str, Any]], job: Job, prepared: str, progress: _Progress, log: PredictionLog) -> None:
    arguments = {"job": job, "prepared": storage.absolute(prepared) if prepared else ""}
    with connect(), progress_bar(len(waiting), "predict", "scan") as bar:
        of_one = lambda result: (result["frame_id"],)  # noqa: E731
        for result in pool.stream_twice(waiting, Labeller, arguments, job.batch, "frame_id", of_one):
            scan = LabelledScan.from_line(result["line"])
            if scan is None:
                progress.fail(result["frame_id"], result["error"])
            else:
                progress.add(scan)
                log.add(scan)
            bar.update()
            bar.set_postfix(failed=len(progress.failures), refresh=False)
    for frame_id in sorted(progress.waiting):
        progress.fail(frame_id, "its worker process kept dying (out of memory?)")


def _write_summary(out: str, summary: dict[str, Any]) -> None:
    storage.write_bytes(storage.join(out, SUMMARY_NAME), json.dumps(summary, indent=1).encode())


def _write_failures(out: str, rows: list[dict[str, Any]], progress: _Progress) -> None:
    uris = {row["frame_id"]: row["points_uri"] for row in rows}
    lines = (
        json.dumps({"frame_id": frame_id, "points_uri": uris[frame_id], "reason": reason}) + "\n"
        for frame_id, reason in progress.failures.items()
    )
    storage.write_bytes(storage.join(out, FAILURES_NAME), "".join(lines).encode())


def _describe(report: PredictReport, out: str) -> str:
    parts = [f"{report.done} scans labelled ({report.scans_per_s:.1f} scans/s)", f"{report.skipped} were there already"]
    lines = [f"{out}: {', '.join([*parts, f'{report.failed} failed'])}"]
    lines += [f"  {name}: {reason}" for name, reason in list(report.reasons.items())[:_NAMED_FAILURES]]
    if report.failed > _NAMED_FAILURES:
        lines.append(f"  … all in {storage.join(out, FAILURES_NAME)}")
    total = sum(report.num_points.values())
    ranked = sorted(report.num_points.items(), key=lambda item: -item[1])
    lines += [f"  {name:22} {count / total:7.2%}" for name, count in ranked if count]
    return "\n".join(lines)
