"""Scores of every model of a run on frames as they are, by point, by cell and by distance."""

import json
from typing import Any

import pyarrow as pa

from ray_lidarseg import storage
from ray_lidarseg.datasets.catalog import Catalog
from ray_lidarseg.datasets.entries import dataset_of
from ray_lidarseg.datasets.evidence import TextEmbeddings
from ray_lidarseg.datasets.prepared_frames import PreparedFrames
from ray_lidarseg.datasets.sensor import resolve_sensor
from ray_lidarseg.errors import RunError, reason
from ray_lidarseg.evaluate.language import other_words, score_language
from ray_lidarseg.evaluate.rendered import render_views
from ray_lidarseg.evaluate.score_tables import describe, numbers_of
from ray_lidarseg.evaluate.scored_frames import FOLDER, choose, results
from ray_lidarseg.methods.distill import Distill
from ray_lidarseg.metrics.scoring import Scores, score
from ray_lidarseg.recipe.schema import Recipe
from ray_lidarseg.runtime import pool
from ray_lidarseg.training.environment import git_commit
from ray_lidarseg.training.inference_options import PLAIN, InferenceOptions, load_models
from ray_lidarseg.training.run_folder import RunFolder, load_method


def evaluate(
    run: str,
    prepared: str = "",
    split: str = "val",
    which: str | int = "latest",
    options: InferenceOptions = PLAIN,
    words: str = "",
) -> dict[str, Any]:
    """Scores a run's models and writes ``evaluation/<split>.json`` into its folder; of method nerf pictures, too.

    A distilled network is scored by the words of its classes (zero-shot), and beside it the images alone, the surer of
    both at each point, and the structure of its features: see ``metrics.zero_shot``.

    Args:
        run: Run folder, path or URI.
        prepared: Shards to score on; empty: those of the recipe, with its ``data.val_frames``.
        split: ``train``, ``val`` or ``test``; only its labelled frames count.
        which: Checkpoint: ``latest`` or a number of steps.
        words: Of a distilled network: class embeddings (``.npz``) in place of those it was distilled with; the file is
            then ``evaluation/words-<split>.json``. Not together with an ensemble.
        options: With any, the model to deploy alone is scored, into ``evaluation/<split>-<options>.json``.

    Returns:
        What was written: checkpoint step, frames, commit, and for each model and level (``point``, ``cell``) the mean
        IoU after both rules for absent classes, the IoU of each class (None where absent), its points and the confusion
        counts; the same by distance, and the calibration of its confidence.

    Raises:
        RunError: There is no run, or no such checkpoint, or a distilled network without words.
        RecipeError: The options do not fit the run.
        DataError: No labelled frame, shards of another data set, or a frame that cannot be read.
        StorageError: The run folder cannot be written; said before the work.
    """
    if words and options.ensemble:
        raise RunError("--words is read by one network: leave --ensemble out, its members keep their own words")
    folder = RunFolder(run)
    method, recipe, step = load_method(folder.uri, which)
    options.check(recipe)
    said = other_words(method, words)
    place, catalog = choose(folder, recipe, prepared, split)
    storage.check_writable(folder.path(FOLDER))
    names = [recipe.method.deployed] if options.name else list(method.classifiers())
    scores = _score(folder.uri, recipe, place, catalog, step, names, options, said)
    result = {**_result(recipe, scores, split, step, options), "prepared": place}
    if isinstance(method, Distill):
        result["words"] = words
        if not options.name:
            result |= _language(folder.uri, recipe, place, catalog, step, said)
    name = "-".join(filter(None, ("words" if words else "", split, options.name)))
    try:
        folder.write(f"{FOLDER}/{name}.json", json.dumps(result, indent=1).encode())
    finally:  # what took so long is seen, whatever became of the disk
        print(describe(result), flush=True)
    if not options.name:
        render_views(folder, recipe, place, catalog, split, step)
    return result


class _Scorer:
    """One actor: the run's models, and the shards."""

    def __init__(
        self, run: str, step: int, prepared: str, split_catalog: Catalog, options: InferenceOptions, words: bytes
    ):
        self.device = pool.own_device()
        said = TextEmbeddings.from_bytes(words) if words else None
        self.models, self.recipe, _ = load_models(run, step, self.device, options, said)
        self.sensor = resolve_sensor(self.recipe.data)
        self.frames = PreparedFrames(*storage.resolve(prepared), split_catalog)

    def __call__(self, rows: pa.Table) -> pa.Table:
        positions = rows.column("position").to_pylist()
        result: dict[str, Any] = {"positions": positions, "error": "", "counts": ""}
        try:
            frames = [self.frames[position] for position in positions]
            counts = {name: self._counts(model, frames) for name, model in self.models.items()}
            result["counts"] = json.dumps(counts)
        except Exception as error:  # the driver raises it, as the DataError it is
            result["error"] = reason(error)
        return pa.Table.from_pylist([result])

    def _counts(self, model: Any, frames: list[Any]) -> dict[str, Any]:
        use_intensity = self.recipe.data.use_intensity
        return score(model, frames, self.sensor, model.num_classes, use_intensity, self.device, len(frames)).to_json()


def _score(
    run: str,
    recipe: Recipe,
    prepared: str,
    catalog: Catalog,
    step: int,
    names: list[str],
    options: InferenceOptions,
    words: bytes,
) -> dict[str, Scores]:
    arguments = {"run": run, "step": step, "prepared": prepared, "split_catalog": catalog}
    arguments |= {"options": options, "words": words}
    num_classes = dataset_of(recipe.data).taxonomy.num_classes
    scores = {name: Scores.empty(num_classes) for name in names}
    for part in results(range(len(catalog)), _Scorer, arguments, recipe.train.evaluate_batch, "evaluate"):
        for name, counts in json.loads(part["counts"]).items():
            scores[name].merge(Scores.from_json(counts))
    return scores


def _language(run: str, recipe: Recipe, prepared: str, catalog: Catalog, step: int, words: bytes) -> dict[str, Any]:
    dataset = dataset_of(recipe.data)
    found = score_language(run, recipe, prepared, catalog, step, words, dataset.taxonomy.num_classes)
    return {} if found is None else {**found.result(dataset.absent), "plane": found.plane()}


def _result(
    recipe: Recipe, scores: dict[str, Scores], split: str, step: int, options: InferenceOptions
) -> dict[str, Any]:
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
        "inference_name": options.name,
        "inference": options.to_json(),
        "models": {
            name: numbers_of(part, dataset.absent, has_range=not dataset.is_images) for name, part in scores.items()
        },
    }
