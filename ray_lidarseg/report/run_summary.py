"""What a report knows of a run: every piece that is there, and the name of every piece that is not."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from ray_lidarseg import storage
from ray_lidarseg.datasets.entries import dataset_of
from ray_lidarseg.datasets.taxonomy import Taxonomy
from ray_lidarseg.errors import LidarSegError, RunError
from ray_lidarseg.recipe.schema import Recipe
from ray_lidarseg.recipe.text_files import read_json, require
from ray_lidarseg.training.run_folder import RunFolder

T = TypeVar("T")


@dataclass(frozen=True)
class RunView:
    """A run folder as far as it goes.

    Attributes:
        name: Last part of the folder's path, made unique among the runs of a report.
        uri: The folder.
        recipe: None where there is no readable recipe.
        manifest: Empty where there is none.
        metrics: Lines of ``metrics.jsonl``.
        evaluation: ``evaluation/val.json``; empty where there is none.
        robustness: ``evaluation/robustness-val.json``, likewise.
        options: ``evaluation/val-<options>.json`` of every set of inference options scored.
        missing: What is not there, as sentences.
    """

    name: str
    uri: str
    recipe: Recipe | None
    manifest: dict[str, Any] = field(default_factory=dict)
    metrics: tuple[dict[str, Any], ...] = ()
    evaluation: dict[str, Any] = field(default_factory=dict)
    robustness: dict[str, Any] = field(default_factory=dict)
    options: tuple[dict[str, Any], ...] = ()
    missing: tuple[str, ...] = ()

    @property
    def taxonomy(self) -> Taxonomy:
        """Classes of the run's data set."""
        assert self.recipe is not None
        return dataset_of(self.recipe.data).taxonomy

    def lines(self, kind: str) -> list[dict[str, Any]]:
        """Metrics lines of one kind."""
        return [line for line in self.metrics if line.get("kind") == kind]

    @property
    def protocol(self) -> tuple[Any, ...]:
        """What numbers must share to stand in one table: data set, split protocol, ratio."""
        if self.recipe is None:
            return ("unknown",)
        split = self.manifest.get("split", {})
        ratio = split.get("ratio", self.recipe.split.ratio)
        return (self.taxonomy.name, split.get("protocol", self.recipe.split.protocol), ratio)

    @property
    def family(self) -> str:
        """The recipe without its seeds and without what cannot change a number: equal for repetitions of a run."""
        if self.recipe is None:
            return self.uri
        content = self.recipe.model_dump(mode="json", exclude={"name", "workers", "seed"})
        content["split"].pop("seed")
        content["data"].pop("prepared")
        return json.dumps(content, sort_keys=True)

    @property
    def deployed(self) -> str:
        """Name of the model to deploy among ``models``."""
        return self.recipe.method.deployed if self.recipe else ""

    def models(self) -> dict[str, dict[str, float | None]]:
        """Final ``point`` and ``cell`` mIoU of each model: of the evaluation, else of the last evaluating step."""
        if self.evaluation:
            parts = self.evaluation["models"].items()
            return {name: {level: levels[level]["miou_ratio"] for level in ("point", "cell")} for name, levels in parts}
        last = {line["model"]: line for line in self.lines("evaluate")}
        return {
            name: {"point": line.get("point_miou_ratio"), "cell": line.get("cell_miou_ratio")}
            for name, line in last.items()
        }

    def final_miou(self) -> float:
        """Final point mIoU of the model to deploy, -1 where nothing was evaluated."""
        models = list(self.models().values())
        point = models[-1]["point"] if models else None
        return -1.0 if point is None else point

    def class_iou(self) -> list[float | None]:
        """Point IoU of each class of the model to deploy; empty where nothing was evaluated."""
        if self.evaluation:
            return self.evaluation["models"][self.deployed]["point"]["iou_ratio"]
        lines = [line for line in self.lines("evaluate") if line["model"] == self.deployed]
        return lines[-1].get("point_iou_ratio", []) if lines else []

    def details(self) -> dict[str, Any]:
        """All numbers of the model to deploy in the evaluation; empty where there is none."""
        return self.evaluation["models"][self.deployed] if self.evaluation else {}


def read_runs(uris: Sequence[str]) -> list[RunView]:
    """Reads every run folder; what is missing is noted, never raised."""
    views: list[RunView] = []
    for uri in uris:
        name = uri.rstrip("/").rpartition("/")[2] or uri
        taken = sum(view.name == name or view.name.startswith(f"{name} (") for view in views)
        views.append(read_run(uri, f"{name} ({taken + 1})" if taken else name))
    return views


def best_of_recipes(views: Sequence[RunView], limit: int) -> list[RunView]:
    """All runs where they are no more than ``limit``; else the best of each recipe, and of these the best ``limit``.

    Best by the final point mIoU of the model to deploy; runs without one come last. The order given stays.
    """
    if len(views) <= limit:
        return list(views)
    ranked = sorted(views, key=lambda view: -view.final_miou())
    first: dict[str, RunView] = {}
    for view in ranked:
        first.setdefault(view.family, view)
    chosen = {view.name for view in list(first.values())[:limit]}
    return [view for view in views if view.name in chosen]


def read_run(uri: str, name: str) -> RunView:
    """Reads one run folder under the name it gets in the report."""
    folder, missing = RunFolder(uri), []

    def attempt(read: Callable[[], T], otherwise: T, sentence: str) -> T:
        try:
            return read()
        except (LidarSegError, ValueError, KeyError) as error:
            missing.append(f"{sentence} ({error})")
            return otherwise

    recipe = attempt(lambda: _recipe(folder), None, "no readable recipe: nothing of this run can be shown")
    if recipe is None:
        return RunView(name, folder.uri, None, missing=tuple(missing))
    manifest = attempt(lambda: _manifest(folder), {}, "no manifest: commit, hardware and split digest are unknown")
    metrics = attempt(folder.metrics, [], "no metrics: no curves")
    evaluation = attempt(lambda: _evaluation(folder), {}, "not evaluated: numbers are those of the last validation")
    robustness = attempt(lambda: _robustness(folder), {}, "robustness cannot be shown")
    options = attempt(lambda: _options(folder), (), "inference options cannot be shown")
    missing += _gaps(manifest, metrics, evaluation)
    known = (recipe, manifest, tuple(metrics), evaluation, robustness, options)
    return RunView(name, folder.uri, *known, missing=tuple(missing))


def _recipe(folder: RunFolder) -> Recipe:
    recipe = folder.recipe()
    dataset_of(recipe.data)  # raises where the classes of an own data set are unknown
    return recipe


def _evaluation(folder: RunFolder) -> dict[str, Any]:
    file = folder.path("evaluation", "val.json")
    if not storage.exists(file):
        raise ValueError("run `ray-lidarseg evaluate`")
    return _scored(folder, file)


def _scored(folder: RunFolder, file: str) -> dict[str, Any]:
    content = read_json(storage.read_bytes(file), file, RunError)
    require(content, _EVALUATION, file, RunError)
    deployed = folder.recipe().method.deployed
    if deployed not in content["models"]:
        raise RunError(f"{file} does not score the model to deploy, {deployed!r}: evaluate again")
    require(content["models"][deployed], _DETAILS, file, RunError)
    return content


def _robustness(folder: RunFolder) -> dict[str, Any]:
    file = folder.path("evaluation", "robustness-val.json")
    if not storage.exists(file):
        return {}
    content = read_json(storage.read_bytes(file), file, RunError)
    require(content, _ROBUSTNESS, file, RunError)
    return content


def _options(folder: RunFolder) -> tuple[dict[str, Any], ...]:
    files = storage.list_files(folder.path("evaluation"))
    own = [file for file in files if storage.name_of(file).startswith("val-") and file.endswith(".json")]
    return tuple(_scored(folder, file) for file in own)


_NUMBER = (int, float, type(None))
_LEVEL = {"miou_ratio": _NUMBER, "iou_ratio?": [_NUMBER], "*": object}
_EVALUATION = {
    "step": int,
    "models": {"*": {"point": {**_LEVEL, "iou_ratio": [_NUMBER]}, "cell": _LEVEL, "*": object}},
    "*": object,
}
_DETAILS = {
    "by_range?": [{"range": str, "points": int, "miou_ratio": _NUMBER, "*": object}],
    "calibration?": {
        "ece_ratio": _NUMBER,
        "bins": [{"points": int, "confidence": _NUMBER, "accuracy": _NUMBER}],
    },
    "point": {"class_points?": [int], "*": object},
    "*": object,
}
_SEVERITY = {"miou_ratio": _NUMBER, "*": object}
_CORRUPTION = {"mean_miou_ratio": _NUMBER, "rr_ratio": _NUMBER, "ce_ratio": _NUMBER, "*": _SEVERITY}
_ROBUSTNESS = {
    "clean": {"point": _LEVEL, "*": object},
    "corruptions": {"*": _CORRUPTION},
    "frames": int,
    "step": int,
    "frames_digest": str,
    "mrr_ratio": _NUMBER,
    "mce_ratio": _NUMBER,
    "baseline": (dict, type(None)),
    "notes": [str],
    "*": object,
}
_MANIFEST = {
    "split?": {
        "protocol?": str,
        "ratio?": (int, float),
        "digest?": str,
        "num_labelled?": int,
        "num_unlabelled?": int,
        "*": object,
    },
    "versions?": {"git_commit?": str, "*": object},
    "hardware?": {"gpus?": [str], "cpu?": str, "memory_gib?": (int, float), "*": object},
    "*": object,
}


def _manifest(folder: RunFolder) -> dict[str, Any]:
    content = folder.manifest()
    require(content, _MANIFEST, folder.path("manifest.json"), RunError)
    return content


def _gaps(manifest: dict[str, Any], metrics: list[dict[str, Any]], evaluation: dict[str, Any]) -> list[str]:
    gaps = []
    steps = [line["step"] for line in metrics if "step" in line]
    if manifest and not manifest.get("is_finished", True):
        gaps.append(f"not finished: stopped after step {max(steps, default=0)}; the same train command continues")
    if metrics and not evaluation and not any(line.get("kind") == "evaluate" for line in metrics):
        gaps.append("no validation yet: no mIoU")
    if evaluation and steps and evaluation["step"] < max(steps):
        gaps.append(f"the evaluation is of step {evaluation['step']}, the run is at {max(steps)}: evaluate it again")
    return gaps
