"""The commands that `tests.bench.faults` strikes, and what each leaves, without what a clock decides."""

import hashlib
import json
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from ray_lidarseg import storage
from tests.ray.processes import descendants

VERBS = ("world", "prepare", "train", "sweep", "evaluate", "predict")
_TIMES = ("scans_per_s", "data_wait_ratio", "memory_gib")
_SETTINGS = (
    *("split.ratio=0.5", "workers.use_gpu=no", "model.width_px=64", "train.labelled_per_step=2"),
    *("train.unlabelled_per_step=2", "train.log_every=1"),
)
_TRAIN = ("train.evaluate_every=20", "train.checkpoint_every=10")
_TRIAL = ("workers.num_workers=1", "train.steps=12", "train.evaluate_every=6", "train.checkpoint_every=3")
_STUDY = "question: Which rate?\nspace: {optim.lr: [0.008, 0.004, 0.002, 0.001]}\n"
_OVER = ("finished", "stopped", "failed")


@dataclass(frozen=True)
class Verb:
    """A command and what it leaves.

    Attributes:
        words: Of the command, given where it writes.
        began: Whether the results there have begun.
        left: Everything it leaves there that a clock does not decide.
        process: What the titles of the processes that work for it begin with; raylets name kinds of workers, too.
        begin_with: A folder it works in beside what is there already; empty for none.
        done: Work that is over there and must not be done twice, by name, with its times.
    """

    words: Callable[[str], list[str]]
    began: Callable[[str], bool]
    left: Callable[[str], dict[str, Any]]
    process: str
    begin_with: str = ""
    done: Callable[[str], dict[str, str]] = lambda out: {}


def verbs_in(folder: Path, pid: int, steps: int) -> dict[str, Verb]:
    """The commands by name; they read the world, the prepared frames and the run of a folder.

    Args:
        folder: Of all of it.
        pid: Of the process above the cluster's.
        steps: Of the training.
    """
    index, prepared, run = (str(folder / name) for name in ("index.parquet", "prepared", "run"))
    sets = _sets(f"data.prepared={prepared}", *_SETTINGS)
    study = folder / "rates.yaml"
    study.write_text(_STUDY)
    return {
        "world": Verb(
            lambda out: ["world", "--preset", "tiny", "--out", out],
            lambda out: len(list(Path(out).rglob("*.bin"))) > 1,
            lambda out: digests(out, "maps"),
            process="ray::_scene_task",
        ),
        "prepare": Verb(
            lambda out: ["prepare", index, "--out", out, "--masks", "slic", "--actors", "2:2"],
            lambda out: any("/shard-" in name for name in names(f"{out}/layers") or names(out)),
            shard_rows,
            process="ray::Map",
        ),
        "train": Verb(
            lambda out: ["train", "demo", *sets, *_sets(f"train.steps={steps}", *_TRAIN), "--run", out],
            lambda out: '"step": 12,' in text(f"{out}/metrics.jsonl"),
            lambda out: {"lines": run_numbers(out)},
            process="ray::RayTrainWorker",
        ),
        "sweep": Verb(
            lambda out: ["sweep", str(study), "--recipe", "demo", *sets, *_sets(*_TRIAL), "--out", out],
            lambda out: bool(trials_over(out)),
            trials,
            process="ray::ImplicitFunc",
            done=trials_over,
        ),
        "evaluate": Verb(
            lambda out: ["evaluate", out, "--split", "train"],
            lambda out: bool(descendants(pid, "ray::Map")) or any("evaluation" in name for name in names(out)),
            evaluations,
            process="ray::Map",
            begin_with=run,
        ),
        "predict": Verb(
            lambda out: ["predict", out, "--prepared", prepared, "--split", "train", "--out", f"{out}/labels"],
            lambda out: any(name.endswith(".label") for name in names(out)),
            lambda out: {name: value for name, value in digests(out).items() if name.endswith(".label")},
            process="ray::Map",
            begin_with=run,
        ),
    }


def _sets(*settings: str) -> list[str]:
    return [word for setting in settings for word in ("--set", setting)]


def names(out: str) -> list[str]:
    """All files below a place."""
    if storage.is_local(out):
        return [str(path) for path in Path(out).rglob("*") if path.is_file()]
    found = storage.list_files(out)
    return [*found, *(name for folder in storage.list_folders(out) for name in names(folder))]


def text(uri: str) -> str:
    """A file's content; empty where there is none."""
    return storage.read_bytes(uri).decode(errors="replace") if storage.exists(uri) else ""


def digests(out: str, *without: str) -> dict[str, Any]:
    """Digests of files by their names in a folder."""
    kept = (name for name in sorted(names(out)) if not any(word in name for word in ("in-use", *without)))
    return {name.removeprefix(out): hashlib.sha256(storage.read_bytes(name)).hexdigest() for name in kept}


def shard_rows(out: str) -> dict[str, Any]:
    """Rows by frame, of the decoded frames and of every layer: which frames share a shard may differ."""
    rows: dict[str, Any] = {}
    for name in (name for name in names(out) if "/shard-" in name and ".unfinished" not in name):
        filesystem, path = storage.resolve(name)
        for row in pq.read_table(path, filesystem=filesystem).to_pylist():
            rows[f"{name.rpartition('/')[0].removeprefix(out)}/{row['frame_id']}"] = repr(row)
    return rows


def evaluations(out: str) -> dict[str, Any]:
    """Everything that a run's evaluation says, without the commit that scored it."""
    found = {name: value for name, value in digests(out).items() if "/evaluation/" in name}
    for name in (name for name in found if name.endswith(".json")):
        found[name] = {key: value for key, value in json.loads(text(out + name)).items() if key != "commit"}
    return found


def run_numbers(run: str) -> list[dict[str, Any]]:
    """All lines of a run's metrics, without its speed."""
    lines = [json.loads(line) for line in text(f"{run}/metrics.jsonl").splitlines()]
    return [{key: value for key, value in line.items() if key not in _TIMES} for line in lines]


def trials(out: str) -> dict[str, Any]:
    """State, evaluations and every logged number of every trial of a sweep by name, and the names in its table."""
    found: dict[str, Any] = {}
    for name, record in _records(out).items():
        lines = run_numbers(f"{out}/trials/{name}")
        found[name] = {"state": record["state"], "evaluations": record["evaluations"], "lines": lines}
    if storage.exists(f"{out}/trials.parquet"):
        filesystem, path = storage.resolve(f"{out}/trials.parquet")
        found["table"] = pq.read_table(path, filesystem=filesystem)["trial"].to_pylist()
    return found


def trials_over(out: str) -> dict[str, str]:
    """Metrics with their times of the trials that are over: of one that is trained again, they change."""
    over = (name for name, record in _records(out).items() if record["state"] in _OVER)
    return {name: text(f"{out}/trials/{name}/metrics.jsonl") for name in over}


def difference(wanted: Any, there: Any, where: str = "") -> str:
    """The first thing in which two results differ; empty where they are the same."""
    if isinstance(wanted, dict) and isinstance(there, dict):
        parts = [(name, wanted.get(name), there.get(name)) for name in {**wanted, **there}]
    elif isinstance(wanted, list) and isinstance(there, list) and len(wanted) == len(there):
        parts = [(str(place), *pair) for place, pair in enumerate(zip(wanted, there, strict=True))]
    else:
        return "" if wanted == there else f"{where}: {wanted!r:.200} undisturbed, {there!r:.200} here"
    return next((found for name, *pair in parts if (found := difference(*pair, where=f"{where}/{name}"))), "")


def _records(out: str) -> dict[str, dict[str, Any]]:
    found = {}
    for folder in storage.list_folders(f"{out}/trials"):
        with suppress(ValueError):  # there is none yet, or it is torn
            found[folder.rpartition("/")[2]] = json.loads(text(f"{folder}/trial.json"))
    return found
