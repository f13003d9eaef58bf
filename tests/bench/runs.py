"""Trainings for benchmarks: each a process of its own with one thread, a few at a time, without Ray.

A run is ``ray_lidarseg.training.trainer.train_alone``: what each worker of the train verb does, alone. So whatever
method a recipe names runs, the folder is a run folder that `evaluate` and `report` read, and a run that was stopped
continues from its last whole checkpoint.

`python -m tests.bench.runs RECIPE FOLDER` is one such run; its figures go to FOLDER/figures.json.
"""

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from ray_lidarseg.datasets.nuscenes import CLASSES as NUSCENES
from ray_lidarseg.recipe.load import load_recipe, override
from ray_lidarseg.recipe.schema import Recipe
from ray_lidarseg.synthetic.nuscenes_writer import dataset_id
from ray_lidarseg.synthetic.options import with_options
from ray_lidarseg.synthetic.presets import preset_named
from tests.bench.ledger import Ledger, Row, print_table

MIN_SEEDS = 3  # below it a difference is no finding
FIGURES, LOG = "figures.json", "log.txt"
_ALONE = {"workers.num_workers": 1, "workers.cpus_per_worker": 1, "workers.loader_processes": 0}
_OF_PSEUDO_LABELS = ("keep_ratio", "precision_ratio", "recall_ratio", "opacity_ratio")
_LOG_LINES = 12  # of a run that failed
_SETTINGS = {
    "OMP_NUM_THREADS": "1",
    "OMP_WAIT_POLICY": "passive",
    "MALLOC_MMAP_THRESHOLD_": str(1 << 32),  # glibc keeps large blocks: else each is cleared page by page, every step
    "MALLOC_TRIM_THRESHOLD_": str(1 << 33),
}


@dataclass(frozen=True)
class Job:
    """One training a benchmark wants.

    Attributes:
        key: What tells its row from all others in the ledger.
        recipe: With ``data.prepared`` set.
        folder: Run folder; one that holds part of this recipe's steps is continued.
        module: What trains it, as `python -m MODULE RECIPE FOLDER`.
    """

    key: Row
    recipe: Recipe
    folder: Path
    module: str = "tests.bench.runs"


def prepared_folder(folder: Path) -> str:
    """Where the prepared shards of a world below ``folder`` are or will be."""
    return str((folder / "prepared").resolve())


def prepared_world(folder: Path, preset: str, seed: int, options: Mapping[str, object] | None = None) -> str:
    """The prepared shards of a world below ``folder``, made where they are missing (this part runs on Ray)."""
    prepared = Path(prepared_folder(folder))
    if not (prepared / "catalog.parquet").exists():  # written last
        from ray_lidarseg.index import index
        from ray_lidarseg.prepare import prepare
        from ray_lidarseg.runtime.cluster import connect
        from ray_lidarseg.world import generate

        with connect():
            generate(preset, str(folder / "world"), seed, options)
            made = preset_named(preset)
            index(made.layout, str(folder / "world"), str(folder / "index.parquet"), version=made.version)
            prepare(str(folder / "index.parquet"), str(prepared))
    return str(prepared)


def world_id(preset: str, seed: int, options: Mapping[str, object] | None = None) -> str:
    """Names a world and the version of the generator that made it."""
    return dataset_id(with_options(preset_named(preset), options or {}), seed)


def measure_all(
    ledger: Ledger,
    jobs: Sequence[Job],
    at_once: int,
    prepare: Callable[[], object] = lambda: None,
    runner: Callable[[Recipe, Path], Row] | None = None,
) -> list[Row]:
    """The rows of all jobs, in their order; those the ledger lacks are trained, ``at_once`` at a time.

    Each row is in the ledger's file as soon as its run has ended. Where one fails, the others end before it raises.

    Args:
        ledger: Where the rows are, and go to.
        jobs: The runs of the whole table.
        at_once: Processes.
        prepare: Makes what the runs read; called before the first of them, and not at all where no row is missing.
        runner: What trains a recipe in a folder; ``in_child`` unless a test says otherwise.
    """
    missing = [job for job in jobs if ledger.find(job.key) is None]
    if missing:
        prepare()
    with ThreadPoolExecutor(at_once) as pool:
        start = lambda job: pool.submit(runner or partial(in_child, module=job.module), job.recipe, job.folder)  # noqa: E731
        trained = {start(job): job for job in missing}
        for number, done in enumerate(as_completed(trained), start=1):
            if done.exception() is None:
                row = ledger.measure(trained[done].key, done.result)
                print(f"{number}/{len(missing)} {_sentence(trained[done], row)}", flush=True)
    for done in trained:
        done.result()
    return [ledger.measure(job.key, dict) for job in jobs]


def in_child(recipe: Recipe, folder: Path, module: str = Job.module) -> Row:
    """The figures of a recipe's run, trained in a child process unless the folder has them already.

    Raises:
        RuntimeError: The child failed; the end of its log is in the message.
    """
    if known := figures_of(folder, recipe):
        return known
    folder.mkdir(parents=True, exist_ok=True)
    wanted = folder / "wanted.yaml"
    wanted.write_text(recipe.to_yaml())
    child(module, wanted, folder)
    return json.loads((folder / FIGURES).read_text())


def child(module: str, wanted: Path, folder: Path) -> None:
    """Runs `python -m MODULE WANTED FOLDER` with one thread; what it says goes to a log in the folder.

    Raises:
        RuntimeError: It failed; the end of its log is in the message.
    """
    command = [sys.executable, "-m", module, str(wanted), str(folder)]
    with open(folder / LOG, "a") as log:
        code = subprocess.run(command, stdout=log, stderr=subprocess.STDOUT, env={**os.environ, **_SETTINGS}).returncode
    if code:
        end = "\n".join((folder / LOG).read_text().splitlines()[-_LOG_LINES:])
        raise RuntimeError(f"the run in {folder} ended with {code}; its log ends:\n{end}")


def figures_of(folder: Path, recipe: Recipe) -> Row | None:
    """What the run of this recipe in a folder gave; None where it has not ended, or another one lies there."""
    file = folder / FIGURES
    figures = json.loads(file.read_text()) if file.exists() else {}
    return figures if figures.get("fingerprint") == recipe.fingerprint else None


def train_here(recipe: Recipe, folder: Path) -> Row:
    """Trains a recipe in this process, from its last checkpoint where there is one, and writes and returns its figures.

    Raises:
        RunError: The folder belongs to another recipe.
    """
    import torch

    from ray_lidarseg.training.run_folder import RunFolder
    from ray_lidarseg.training.trainer import train_alone

    torch.set_num_threads(1)
    began, cpu_began, run = time.monotonic(), time.process_time(), RunFolder(str(folder))
    trainer = train_alone(override(recipe, _ALONE), run.uri)
    row = {**_scores(run.metrics(), recipe), **_circumstances(run.manifest(), trainer)}
    row |= {"fingerprint": recipe.fingerprint, "wall_s": round(time.monotonic() - began, 1)}
    row |= {"cpu_s": round(time.process_time() - cpu_began, 1)}
    run.write(FIGURES, json.dumps(row, indent=1).encode())
    return row


def print_classes(columns: Mapping[str, Sequence[Row]], class_names: Sequence[str] = NUSCENES.class_names) -> None:
    """A table of the IoU of each class in percent, the mean over the rows of each column."""
    print()
    print_table(
        ["class", *columns],
        [[name, *(_class_mean(rows, index) for rows in columns.values())] for index, name in enumerate(class_names)],
    )


def std(values: Collection[float]) -> float:
    """Standard deviation over seeds (n - 1): 0 of one, NaN where a value is."""
    return float(np.std(list(values), ddof=1)) if len(values) > 1 else 0.0


def mean_std(values: Collection[float]) -> str:
    """Mean ± standard deviation, as tables print it."""
    return f"{statistics.mean(values):.1f} ± {std(values):.1f}"


def _class_mean(rows: Sequence[Row], index: int) -> str:
    known = [100 * row["iou_ratio"][index] for row in rows if row["iou_ratio"][index] is not None]
    return f"{statistics.mean(known):.1f}" if known else "-"


def _scores(lines: Sequence[Row], recipe: Recipe) -> Row:
    """Of the last step: mIoU of every model, and of the one to deploy also the IoU of each class; its curve, and means.

    ``curve`` holds step and mIoU by point of each evaluation; the means are those of what the method logged of its
    pseudo-labels in the last third of the lines.
    """
    evaluations = [line for line in lines if line["kind"] == "evaluate" and line["step"] == recipe.train.steps]
    figures = {
        f"{line['model']}_{level}_miou_ratio": line[f"{level}_miou_ratio"]
        for line in evaluations
        for level in ("point", "cell")
    }
    deployed = next(line for line in evaluations if line["model"] == recipe.method.deployed)
    return {
        **figures,
        "miou_ratio": deployed["point_miou_ratio"],
        "cell_miou_ratio": deployed["cell_miou_ratio"],
        "unlabelled_miou_ratio": _on_unlabelled(lines, recipe.method.deployed),
        "iou_ratio": [None if value is None else round(value, 4) for value in deployed["point_iou_ratio"]],
        "curve": [
            [line["step"], round(line["point_miou_ratio"], 4)]
            for line in lines
            if line["kind"] == "evaluate"
            and line["model"] == recipe.method.deployed
            and line["point_miou_ratio"] is not None
        ],
        **_of_pseudo_labels([line for line in lines if line["kind"] == "train"]),
    }


def _of_pseudo_labels(lines: Sequence[Row]) -> Row:
    late = lines[2 * len(lines) // 3 :]
    names = [name for name in (late[-1] if late else {}) if name.endswith(_OF_PSEUDO_LABELS)]
    means = {name: round(statistics.mean(line[name] for line in late), 4) for name in names}
    return {**means, **_of_counts(late)}


def _of_counts(lines: Sequence[Row]) -> Row:
    """Precision and recall of all lines together: a line is one step, and some label no pixel at all."""
    shares = {"pseudo_precision_ratio": "pseudo_labelled_count", "pseudo_recall_ratio": "pseudo_known_count"}
    counted = [line for line in lines if "pseudo_right_count" in line]
    right = sum(line["pseudo_right_count"] for line in counted)
    sums = {name: sum(line[of] for line in counted) for name, of in shares.items()}
    return {name: round(right / total, 4) for name, total in sums.items() if total}


def _on_unlabelled(lines: Sequence[Row], model: str) -> float | None:
    """Point mIoU on the training scans without labels at the last diagnosis; None where there was none."""
    found = [line[f"{model}_unlabelled_miou_ratio"] for line in lines if line["kind"] == "diagnose"]
    return found[-1] if found else None


def _circumstances(manifest: Row, trainer) -> Row:
    return {
        "labelled_frames": manifest["split"]["num_labelled"],
        "split_digest": manifest["split"]["digest"],
        "train_steps": trainer.plan.recipe.train.steps,
        "parameters": sum(parameter.numel() for parameter in trainer.loop.method.student.parameters()),
    }


def _sentence(job: Job, row: Row) -> str:
    return f"{job.folder.name}: mIoU {row['miou_ratio']:.1%}, {row['wall_s']:.0f} s"


if __name__ == "__main__":
    train_here(load_recipe(sys.argv[1]), Path(sys.argv[2]))
