"""Trials of a sweep: a combination and a seed as one run folder, and a record of how far it got.

A trial is named by the fingerprint of its recipe, so that what was trained once is found again, whatever the search.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from ray_lidarseg import storage
from ray_lidarseg.errors import LidarSegError, RecipeError, RunError
from ray_lidarseg.recipe.bad_input import shown
from ray_lidarseg.recipe.load import parse_recipe, settled
from ray_lidarseg.recipe.schema import Recipe
from ray_lidarseg.recipe.text_files import read_json, require
from ray_lidarseg.sweep.study import METRICS, Params, Study
from ray_lidarseg.training.completion import complete
from ray_lidarseg.training.run_folder import RunFolder

FOLDER, RECORD = "trials", "trial.json"
OVER = ("finished", "stopped", "failed")
"""States a trial does not leave; ``stopped`` is the scheduler's."""

_SHAPE = {
    "params": {"*": object},
    "seed": int,
    "recipe": str,
    "state": str,
    "evaluations": [{"step": int, "*": (int, float)}],
    "seconds": (int, float),
    "num_workers": int,
    "num_gpus": int,
    "reason": str,
}


@dataclass
class Trial:
    """One training of a sweep; its run folder is ``trials/NAME`` of the sweep's.

    Attributes:
        params: The combination.
        seed: Of the training and of the label split.
        recipe: Complete.
        state: ``waiting``, ``running``, or one of ``OVER``.
        evaluations: Step and metrics of every evaluation so far, in order.
        seconds: Spent on it, over all starts of the sweep.
        num_workers: Training workers it has.
        num_gpus: GPUs it has.
        reason: Why it failed.
    """

    params: Params
    seed: int
    recipe: Recipe
    state: str = "waiting"
    evaluations: list[dict[str, float]] = field(default_factory=list)
    seconds: float = 0.0
    num_workers: int = 1
    num_gpus: int = 0
    reason: str = ""

    @property
    def name(self) -> str:
        """The fingerprint of its recipe."""
        return self.recipe.fingerprint

    @property
    def is_over(self) -> bool:
        """Whether nothing of it is left to do."""
        return self.state in OVER

    @property
    def step(self) -> int:
        """Of the last evaluation; 0 before."""
        return int(self.evaluations[-1]["step"]) if self.evaluations else 0

    def value(self, metric: str) -> float | None:
        """A metric at the last evaluation that has it."""
        return next((line[metric] for line in reversed(self.evaluations) if metric in line), None)

    def saw(self, step: int, metrics: Mapping[str, float]) -> None:
        """Takes an evaluation; a resumed trial repeats those behind its checkpoint."""
        self.evaluations = [line for line in self.evaluations if line["step"] < step]
        self.evaluations.append({"step": step, **metrics})

    def write(self, out: str) -> None:
        """Keeps its record in the sweep's folder."""
        content = {**asdict(self), "recipe": self.recipe.to_yaml()}
        storage.write_bytes(storage.join(out, FOLDER, self.name, RECORD), json.dumps(content, indent=1).encode())


def read_trials(out: str) -> dict[str, Trial]:
    """The trials a sweep's folder knows of, by name; one whose record a crash has torn as its run folder has it.

    Raises:
        RunError: A record is not what this program writes.
    """
    found = {}
    for folder in storage.list_folders(storage.join(out, FOLDER)):
        file = storage.join(folder, RECORD)
        if storage.exists(file):
            trial = _read(file, folder)
            found[trial.name] = trial
    return found


def _read(file: str, folder: str) -> Trial:
    try:
        said = read_json(storage.read_bytes(file), file, RunError)
    except RunError as error:
        run = RunFolder(folder)
        if not storage.exists(run.path("recipe.yaml")):
            raise
        print(f"{error}: the trial goes on from its run folder", flush=True)
        return _of_run(run)
    return _parsed(said, file)


def _of_run(run: RunFolder) -> Trial:
    """A trial as far as its run says: it is not over, as nobody knows whether it was stopped, but keeps what it saw."""
    recipe = run.recipe()
    trial = Trial({}, recipe.seed, recipe, num_workers=recipe.workers.most)
    by_step: dict[int, list[dict[str, Any]]] = {}
    for line in run.metrics() if storage.exists(run.path("metrics.jsonl")) else []:
        by_step.setdefault(line["step"], []).append(line)
    for step, lines in by_step.items():
        if metrics := metrics_of(lines, recipe.method.deployed):
            trial.saw(step, metrics)
    return trial


def _parsed(said: Any, origin: str) -> Trial:
    require(said, _SHAPE, origin, RunError)
    if said["state"] not in ("waiting", "running", *OVER):
        raise RunError(f"{origin}: no state {shown(said['state'])}: the file is not what this program writes")
    recipe = parse_recipe(said["recipe"], origin=f"{origin}: its recipe")
    return Trial(**{**{key: said[key] for key in _SHAPE}, "recipe": recipe})


def make_trial(study: Study, base: Recipe, params: Params, seed: int) -> Trial:
    """A trial from a combination and a seed.

    Raises:
        LidarSegError: The combination makes no valid recipe, or its prepared folder does not hold what it reads.
    """
    changes = {key: _filled(value, base.data.prepared) for key, value in study.changes(params).items()}
    try:
        recipe = complete(settled(base, {**changes, "seed": seed, "split.seed": seed}))
    except LidarSegError as error:
        raise type(error)(f"trial {described(params)}: {error}") from error
    return Trial(params, seed, recipe, num_workers=recipe.workers.most)


def common_recipe(study: Study, base: Recipe) -> Recipe:
    """What all trials share: the recipe of the sweep with the study's own settings.

    Raises:
        RecipeError: They do not fit it.
    """
    return settled(base, {key: _filled(value, base.data.prepared) for key, value in study.recipe.items()})


def described(params: Mapping[str, Any]) -> str:
    """A combination for people: ``split.ratio=10% method=lasermix``."""
    return " ".join(f"{name}={_short(value)}" for name, value in params.items())


def metrics_of(lines: list[dict[str, Any]], deployed: str) -> dict[str, float]:
    """What a sweep compares, of the metrics lines of one evaluation: those of the model to deploy that are known."""
    own = next((line for line in lines if line.get("kind") == "evaluate" and line.get("model") == deployed), {})
    known = {name: own.get(name) for name in METRICS}
    return {name: float(value) for name, value in known.items() if value is not None and math.isfinite(value)}


def _filled(value: Any, prepared: str) -> Any:
    if not isinstance(value, str) or "{prepared}" not in value:
        return value
    if not prepared:
        raise RecipeError(f"the study reads {value}: give the sweep --set data.prepared=FOLDER")
    return value.replace("{prepared}", prepared.rstrip("/"))


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
