"""The verb `evaluate`: mIoU of every model of a run, by point and by cell, on labelled prepared frames.

Catalog positions → a Ray Data pool of actors, each with the models loaded once → exact counts, summed here. The result
does not depend on how many actors there are.
"""

import json
import math
from typing import Any

import pyarrow as pa

from ray_lidarseg import storage
from ray_lidarseg.datasets import ontology_files
from ray_lidarseg.datasets.entries import dataset_of
from ray_lidarseg.datasets.sensor import resolve_sensor
from ray_lidarseg.datasets.shards import Catalog, PreparedFrames, read_catalog
from ray_lidarseg.errors import DataError, reason
from ray_lidarseg.metrics.confusion import Confusion
from ray_lidarseg.metrics.scoring import Scores, score
from ray_lidarseg.recipe.schema import Recipe
from ray_lidarseg.runtime import pool
from ray_lidarseg.runtime.cluster import connect
from ray_lidarseg.runtime.progress import progress
from ray_lidarseg.training.environment import git_commit
from ray_lidarseg.training.run_folder import RunFolder, load_method
from ray_lidarseg.training.run_frames import described, stored_frames

_FOLDER = "evaluation"
_LEVELS = ("point", "cell")


def evaluate(run: str, prepared: str = "", split: str = "val", which: str | int = "latest") -> dict[str, Any]:
    """Scores a run's models and writes ``evaluation/<split>.json`` into its folder.

    Args:
        run: Run folder, path or URI.
        prepared: Shards to score on; empty: those of the recipe, with its ``data.val_frames``.
        split: ``train``, ``val`` or ``test``; only its labelled frames count.
        which: Checkpoint: ``latest`` or a number of steps.

    Returns:
        What was written: checkpoint step, frames, commit, and for each model and level (``point``, ``cell``) the mean
        IoU after both rules for absent classes, the IoU of each class (None where absent) and the confusion counts.

    Raises:
        RunError: There is no run, or no such checkpoint.
        DataError: No labelled frame, shards of another data set, or a frame that cannot be read.
        StorageError: The run folder cannot be written; said before the work.
    """
    folder = RunFolder(run)
    method, recipe, step = load_method(folder.uri, which)
    place = storage.absolute(prepared) if prepared else folder.prepared(recipe)
    everything = read_catalog(*storage.resolve(place))
    if not prepared:
        everything = everything.with_validation(recipe.data.val_frames)
        _compare_with_training(folder, everything, place)
    catalog = _labelled(everything, split)
    _check_dataset(catalog, recipe)
    ontology_files.check_classes(recipe.data, place)
    storage.check_writable(folder.path(_FOLDER))
    scores = _score(folder.uri, recipe, place, catalog, step, list(method.segmentors()))
    result = {**_result(folder, recipe, scores, split, step), "prepared": place}
    try:
        folder.write(f"{_FOLDER}/{split}.json", json.dumps(result, indent=1).encode())
    finally:  # what took so long is seen, whatever became of the disk
        print(describe(result), flush=True)
    return result


def describe(result: dict[str, Any]) -> str:
    """An evaluation as a table for people: per-class IoU of every model at both levels, then the means."""
    columns = [(model, level) for model in result["models"] for level in _LEVELS]
    parts = [result["models"][model][level] for model, level in columns]
    rows = [["IoU, %", *(f"{model}/{level}" for model, level in columns)]]
    for index, name in enumerate(result["class_names"]):
        rows.append([name, *(_percent(part["iou_ratio"][index]) for part in parts)])
    for rule, meaning in (("skip", "absent left out"), ("zero", "absent as 0")):
        mark = " *" if rule == result["absent_rule"] else ""
        rows.append([f"mIoU, {meaning}{mark}", *(_percent(part[f"miou_{rule}_ratio"]) for part in parts)])
    title = (
        f"{result['frames']} frames of {result['split']} after {result['step']} steps (* rule of {result['dataset']})"
    )
    return "\n".join([title, *_aligned(rows)])


class _Scorer:
    """One actor: the run's models, and the shards."""

    def __init__(self, run: str, step: int, prepared: str, split_catalog: Catalog):
        self.device = pool.own_device()
        self.method, self.recipe, _ = load_method(run, step, self.device)
        self.sensor = resolve_sensor(self.recipe.data)
        self.frames = PreparedFrames(*storage.resolve(prepared), split_catalog)

    def __call__(self, rows: pa.Table) -> pa.Table:
        positions = rows.column("position").to_pylist()
        result: dict[str, Any] = {"num_frames": len(positions), "error": "", "counts": ""}
        try:
            frames = [self.frames[position] for position in positions]
            result["counts"] = json.dumps({name: self._counts(model, frames) for name, model in self._models()})
        except Exception as error:  # the driver raises it, as the DataError it is
            result["error"] = reason(error)
        return pa.Table.from_pylist([result])

    def _models(self) -> list[tuple[str, Any]]:
        return list(self.method.segmentors().items())

    def _counts(self, model: Any, frames: list[Any]) -> dict[str, list[list[int]]]:
        use_intensity = self.recipe.data.use_intensity
        scores = score(model, frames, self.sensor, model.num_classes, use_intensity, self.device, len(frames))
        return {level: getattr(scores, level).as_list() for level in _LEVELS}


def _compare_with_training(folder: RunFolder, catalog: Catalog, prepared: str) -> None:
    """Says when the shards are not what the run was trained beside, and refuses those of another project."""
    frames = stored_frames(folder.uri)
    if frames is None or not frames.content:
        return
    if frames.content.keys().isdisjoint(catalog.frame_id):
        raise DataError(
            f"{prepared} holds none of the {len(frames.content)} frames {folder.uri} was trained beside: another data "
            "set lies there now; if it is meant, say so with --prepared"
        )
    if changed := frames.changed(dict(zip(catalog.frame_id, catalog.digest, strict=True))):
        print(f"{described(changed)} since {folder.uri} began; what is there now is scored", flush=True)


def _labelled(catalog: Catalog, split: str) -> Catalog:
    chosen = catalog.of_split(split)
    labelled = chosen.select(name for name, known in zip(chosen.frame_id, chosen.is_labelled, strict=True) if known)
    if not len(labelled):
        raise DataError(
            f"no labelled frame of split {split!r} among {len(catalog)} prepared ones ({len(chosen)} of that split): "
            "give another --split, or take frames out of train with data.val_frames"
        )
    return labelled


def _check_dataset(catalog: Catalog, recipe: Recipe) -> None:
    others = sorted(set(catalog.dataset) - {recipe.data.dataset})
    if others:
        raise DataError(
            f"the shards hold frames of {', '.join(others)}, the run was trained for the classes of "
            f"{recipe.data.dataset}: give shards of that data set"
        )


def _score(run: str, recipe: Recipe, prepared: str, catalog: Catalog, step: int, names: list[str]) -> dict[str, Scores]:
    arguments = {
        "run": run,
        "step": step,
        "prepared": prepared,
        "split_catalog": catalog,
    }
    num_classes = dataset_of(recipe.data).taxonomy.num_classes
    scores = {name: Scores.empty(num_classes) for name in names}
    rows = [{"position": position} for position in range(len(catalog))]
    done = 0
    with connect(), progress(len(rows), "evaluate", "frame") as bar:
        for part in pool.stream(rows, _Scorer, arguments, recipe.train.evaluate_batch):
            if part["error"]:
                raise DataError(part["error"])
            _add(scores, json.loads(part["counts"]), part["num_frames"])
            done += part["num_frames"]
            bar.update(part["num_frames"])
    if done < len(rows):
        raise DataError(
            f"{len(rows) - done} of {len(rows)} frames gave no result, their worker process kept dying (out of "
            "memory?): set train.evaluate_batch to less in the run's recipe.yaml"
        )
    return scores


def _add(scores: dict[str, Scores], counts: dict[str, dict[str, list[list[int]]]], num_frames: int) -> None:
    for name, levels in counts.items():
        part = Scores(*(Confusion.from_list(levels[level]) for level in _LEVELS), num_frames)
        scores[name].merge(part)


def _result(folder: RunFolder, recipe: Recipe, scores: dict[str, Scores], split: str, step: int) -> dict[str, Any]:
    dataset = dataset_of(recipe.data)
    return {
        "split": split,
        "frames": next(iter(scores.values())).num_frames,
        "step": step,
        "dataset": dataset.taxonomy.name,
        "class_names": list(dataset.taxonomy.class_names),
        "absent_rule": dataset.absent,
        "commit": git_commit(),
        "fingerprint": recipe.fingerprint,
        "deployed": recipe.method.deployed,
        "models": {
            name: {level: _numbers(getattr(part, level), dataset.absent) for level in _LEVELS}
            for name, part in scores.items()
        },
    }


def _numbers(confusion: Confusion, absent_rule: str) -> dict[str, Any]:
    means = {f"miou_{rule}_ratio": _or_none(confusion.miou(rule)) for rule in ("skip", "zero")}
    return {
        "miou_ratio": means[f"miou_{absent_rule}_ratio"],
        **means,
        "accuracy_ratio": _or_none(confusion.accuracy()),
        "iou_ratio": [_or_none(value) for value in confusion.iou().tolist()],
        "confusion": confusion.as_list(),
    }


def _or_none(value: float) -> float | None:
    return None if math.isnan(value) else value


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f}"


def _aligned(rows: list[list[str]]) -> list[str]:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return [
        "  ".join(
            [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        )
        for row in rows
    ]
