"""The run folder: everything a run was and did, on a local disk or in a bucket.

``recipe.yaml`` resolved, ``manifest.json`` (versions, split, seed, hardware), ``split.json`` (its frames, drawn once),
``metrics.jsonl``, ``tensorboard/``, ``checkpoints/step_XXXXXXXX/``; ``evaluation/`` by the verb of that name.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

import torch

from ray_lidarseg import storage
from ray_lidarseg.datasets.catalog import CATALOG_NAME
from ray_lidarseg.datasets.entries import dataset_of
from ray_lidarseg.datasets.sensor import resolve_sensor
from ray_lidarseg.errors import RunError
from ray_lidarseg.methods.build import build_method
from ray_lidarseg.methods.method import Method
from ray_lidarseg.models.norm_statistics import write_statistics
from ray_lidarseg.recipe.load import parse_recipe
from ray_lidarseg.recipe.schema import FREE_KEYS, Recipe
from ray_lidarseg.recipe.text_files import read_json, require
from ray_lidarseg.training import checkpoints, run_frames
from ray_lidarseg.training.environment import hardware, versions
from ray_lidarseg.training.health import Health
from ray_lidarseg.training.run_frames import RunFrames


class RunFolder:
    """A run folder by URI; reading one needs no Ray.

    Attributes:
        uri: Absolute path or ``s3://`` URI.
    """

    def __init__(self, uri: str):
        self.uri = storage.absolute(uri)

    def path(self, *parts: str) -> str:
        """URI of something in the folder."""
        return storage.join(self.uri, *parts)

    def write(self, name: str, data: bytes) -> None:
        """Creates or replaces a file of the folder as a whole."""
        storage.write_bytes(self.path(name), data)

    def open(self, recipe: Recipe, frames: RunFrames, start: Mapping[str, Any] | None = None) -> None:
        """Writes what the run is, before its first step or again where it continues."""
        self.write("recipe.yaml", recipe.to_yaml().encode())
        self.write(run_frames.FILE, frames.to_json())
        content = asdict(frames.split)
        counts = {f"num_{name}": len(content.pop(name)) for name in ("labelled", "unlabelled")}
        manifest = {
            "fingerprint": recipe.fingerprint,
            "seed": recipe.seed,
            "split": {**content, **counts},
            **({"start": dict(start)} if start else {}),
            "versions": versions(),
            "hardware": hardware(),
            "started_at": _now(),
            "is_finished": False,
        }
        self.write("manifest.json", json.dumps(manifest, indent=2).encode())

    def close(self) -> None:
        """Notes that the run got to its last step; leaves as many checkpoints as the recipe keeps, and the best one."""
        checkpoints.prune(self.uri, self.recipe().train.keep_checkpoints, self.best_step())
        manifest = {**self.manifest(), "finished_at": _now(), "is_finished": True}
        self.write("manifest.json", json.dumps(manifest, indent=2).encode())

    def recipe(self) -> Recipe:
        """The resolved recipe of the run.

        Raises:
            RunError: There is no run here.
        """
        return parse_recipe(self._read("recipe.yaml"), origin=self.path("recipe.yaml"))

    def manifest(self) -> dict[str, Any]:
        """What the run was made of and on.

        Raises:
            RunError: There is no run here.
        """
        return read_json(self._read("manifest.json"), self.path("manifest.json"), RunError)

    def metrics(self) -> list[dict[str, Any]]:
        """All lines of ``metrics.jsonl`` so far, in order; a line torn by a crash is left out.

        Raises:
            RunError: There is no run here, or it has not logged anything yet.
        """
        return parse_lines(self._read("metrics.jsonl").decode(errors="replace").splitlines())

    def best_step(self) -> int:
        """The step at which the deployed model had its best validation mIoU by point; 0 where nothing was evaluated."""
        lines = self.metrics() if storage.exists(self.path("metrics.jsonl")) else []
        return Health(self.recipe().method.deployed, lines).best_step

    def checkpoint(self, which: str | int = "latest") -> dict[str, Any]:
        """A checkpoint's content on the CPU.

        Args:
            which: ``latest``, ``best`` by validation, or the number of steps.

        Raises:
            RunError: There is no such checkpoint.
        """
        if which == "best" and not (which := self.best_step()):
            raise RunError(f"no validation frame was evaluated in {self.uri}: there is no best checkpoint, take latest")
        if which != "latest":
            return checkpoints.load(self.uri, _step_number(which))
        state = checkpoints.load_latest(self.uri)
        if state is None:
            raise RunError(f"{self.uri} has no checkpoint yet: `ray-lidarseg train` writes one every checkpoint_every")
        return state

    def belongs_to(self, recipe: Recipe, stored: Recipe | None = None) -> bool:
        """Whether there is a run here, and of this recipe.

        Args:
            recipe: What is asked for.
            stored: The run's own recipe where it was read already.

        Raises:
            RunError: The run here is of another recipe; the first differing keys are named. Or the folder holds
                prepared shards.
        """
        if not storage.exists(self.path("recipe.yaml")):
            if storage.exists(self.path(CATALOG_NAME)):
                raise RunError(f"{self.uri} holds prepared shards: give the run a folder of its own with --run")
            return False
        stored = stored or self.recipe()
        if stored.fingerprint != recipe.fingerprint:
            raise RunError(
                f"{self.uri} belongs to another recipe ({stored.fingerprint}, not {recipe.fingerprint}); they differ "
                f"in {_listing(stored, recipe)}: give another --run, or the recipe this run was started with"
            )
        return True

    def is_finished(self) -> bool:
        """Whether the run got to its last step."""
        return storage.exists(self.path("manifest.json")) and bool(self.manifest()["is_finished"])

    def prepared(self, recipe: Recipe) -> str:
        """Where the shards lie that the run was trained beside.

        Args:
            recipe: The run's.

        Raises:
            RunError: The recipe names none, names them by a path that means another folder elsewhere (runs of earlier
                releases), or they are not there.
        """
        place = recipe.data.prepared
        if not place:
            raise RunError("the run's recipe names no shards (data.prepared): give the folder with --prepared")
        if storage.is_local(place) and storage.absolute(place) != place:
            raise RunError(
                f"{self.uri} was trained by an earlier release, which kept data.prepared={place} as it was typed: "
                "give the folder with --prepared"
            )
        if not storage.exists(place):
            raise RunError(
                f"{self.uri} was trained beside the shards of {place}, which are not there (any more): where they were "
                "moved to, say so with --prepared"
            )
        return place

    def _read(self, name: str) -> bytes:
        if not storage.exists(self.path(name)):
            raise RunError(f"no {name} in {self.uri}: expected a folder that `ray-lidarseg train` wrote")
        return storage.read_bytes(self.path(name))


def load_method(
    run: str, which: str | int = "latest", device: torch.device | str = "cpu"
) -> tuple[Method, Recipe, int]:
    """A trained method from a run folder.

    Returns:
        The method in evaluation mode on ``device``, the run's recipe, and the number of steps it was trained.

    Raises:
        RunError: There is no run or no such checkpoint.
    """
    folder = RunFolder(run)
    recipe = folder.recipe()
    state = folder.checkpoint(which)
    method = build_method(recipe, resolve_sensor(recipe.data), dataset_of(recipe.data).taxonomy.num_classes)
    method.load_state_dict(state["method"])
    write_statistics(method.deployed_model, state.get("deployed_statistics", {}))  # absent from older checkpoints
    return method.to(device).eval(), recipe, state["step"]


def parse_lines(lines: Iterable[str]) -> list[dict[str, Any]]:
    """Metrics lines as dictionaries, without those a crash has torn or that are of another shape."""
    parsed = []
    for line in lines:
        try:
            content = read_json(line, "metrics.jsonl", RunError)
            kind = content.get("kind")
            require(content, _SHAPES.get(kind, _LINE) if isinstance(kind, str) else _LINE, "metrics.jsonl", RunError)
        except RunError:
            continue
        parsed.append(content)
    return parsed


_NUMBER = (int, float, type(None))
_LINE = {"kind?": str, "step?": int, "*": object}
_EVALUATED = {
    "kind": str,
    "step": int,
    "*": object,
    "model": str,
    "point_miou_ratio?": _NUMBER,
    "cell_miou_ratio?": _NUMBER,
    "point_iou_ratio?": [_NUMBER],
    "recall_ratio?": [_NUMBER],
}
_TRAINED = {"step": int, "loss_total?": _NUMBER, "scans_per_s?": _NUMBER, "memory_gib?": _NUMBER, "*": object}
_SHAPES = {"evaluate": _EVALUATED, "train": _TRAINED}


def differing_keys(one: Recipe, other: Recipe) -> list[str]:
    """Dotted keys in which two recipes differ, without those that may change when a run is continued."""
    left, right = flat(one.model_dump(mode="json")), flat(other.model_dump(mode="json"))
    different = [key for key in {**left, **right} if left.get(key) != right.get(key)]
    return [key for key in different if not any(key == free or key.startswith(f"{free}.") for free in FREE_KEYS)]


def _listing(stored: Recipe, asked: Recipe) -> str:
    left, right = flat(stored.model_dump(mode="json")), flat(asked.model_dump(mode="json"))
    keys = differing_keys(stored, asked)
    shown = [f"{key} ({left.get(key)!r:.60} there, {right.get(key)!r:.60} here)" for key in keys[:4]]
    return ", ".join(shown) + (f" and {len(keys) - 4} more" if len(keys) > 4 else "")


def flat(content: Any, prefix: str = "") -> dict[str, Any]:
    """Values by their dotted keys."""
    if not isinstance(content, dict):
        return {prefix.rstrip("."): content}
    return {key: value for name, part in content.items() for key, value in flat(part, f"{prefix}{name}.").items()}


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _step_number(which: str | int) -> int:
    try:
        return int(which)
    except ValueError:
        raise RunError(f"checkpoint {which!r}: expected 'latest', 'best' or a number of steps") from None
