"""Robustness of a run's model to deploy: one resumable pass over clean frames and their 24 corrupted forms.

What is counted so far lies in ``evaluation/robustness-<split>/counted.json``, with the frames it is of; the same
command goes on from there as long as checkpoint, frames and corruptions are the same.
"""

import hashlib
import json
import time
from collections.abc import Mapping
from typing import Any

import pyarrow as pa

from ray_lidarseg import storage
from ray_lidarseg.datasets.catalog import Catalog
from ray_lidarseg.datasets.corruptions.corrupt import without_effect
from ray_lidarseg.datasets.corruptions.severities import CORRUPTIONS, SEVERITIES, VERSION, settings
from ray_lidarseg.datasets.entries import dataset_of
from ray_lidarseg.datasets.prepared_frames import PreparedFrames
from ray_lidarseg.datasets.sensor import resolve_sensor
from ray_lidarseg.datasets.spec import DatasetSpec
from ray_lidarseg.errors import DataError, RunError, reason
from ray_lidarseg.evaluate.score_tables import describe_robustness, numbers, numbers_of
from ray_lidarseg.evaluate.scored_frames import FOLDER, choose, digest_of, results
from ray_lidarseg.metrics.robustness import Baseline, published_baseline, robustness
from ray_lidarseg.metrics.scoring import Scores
from ray_lidarseg.metrics.variant_scoring import CLEAN, VARIANTS, score_variants
from ray_lidarseg.recipe.text_files import read_json, require
from ray_lidarseg.runtime import pool
from ray_lidarseg.storage.lock import held
from ray_lidarseg.training.environment import git_commit
from ray_lidarseg.training.inference_options import PLAIN, InferenceOptions, load_models
from ray_lidarseg.training.run_folder import RunFolder, load_method

_SAVE_EVERY_S = 10.0  # ours: what a killed pass loses
_BASELINE_SHAPE = {
    "dataset": str,
    "split": str,
    "frames_digest": str,
    "corruptions_version": int,
    "corruptions": {"*": {"mean_miou_ratio": (int, float, type(None)), "*": object}},
    "*": object,
}


def evaluate_robustness(
    run: str,
    prepared: str = "",
    split: str = "val",
    which: str | int = "latest",
    baseline: str = "",
    options: InferenceOptions = PLAIN,
) -> dict[str, Any]:
    """Scores a run's model to deploy under every corruption and writes ``evaluation/robustness-<split>.json``.

    Args:
        run: Run folder, path or URI.
        prepared: Shards to score on; empty: those of the recipe.
        split: ``train``, ``val`` or ``test``; only its labelled frames count.
        which: Checkpoint: ``latest`` or a number of steps.
        baseline: What errors are relative to: ``minkunet18`` (published, for the official validation frames alone), or
            the folder of a run scored on the same frames; empty: no errors, only resilience.
        options: As for ``evaluate``; they name the file, too.

    Returns:
        What was written: all numbers of ``evaluate`` on clean scans, mIoU, IoU of each class and points at each
        severity of each corruption, RR, mRR, CE and mCE, and every number of the corruptions, marked where it is not
        certain.

    Raises:
        RunError: There is no run or no such checkpoint, or another process scores it.
        DataError: As for ``evaluate``; images; an unknown baseline, or one of another data set or other frames.
        StorageError: The run folder cannot be written; said before the work.
    """
    folder = RunFolder(run)
    _, recipe, step = load_method(folder.uri, which)
    options.check(recipe)
    dataset = dataset_of(recipe.data)
    if dataset.is_images:
        raise DataError(f"{dataset.taxonomy.name} holds images: robustness is measured on corrupted LiDAR scans")
    place, catalog = choose(folder, recipe, prepared, split)
    name = "-".join(filter(None, ("robustness", split, options.name)))
    frames = {"dataset": dataset.taxonomy.name, "split": split, "frames_digest": digest_of(catalog)}
    reference = _baseline(baseline, frames, len(catalog), dataset.name) if baseline else None
    storage.check_writable(folder.path(FOLDER))
    key = {**frames, "corruptions_version": VERSION, "step": step, "inference": options.to_json()}
    key["weights"] = [folder.checkpoint(step)["sha256"][:16], *options.weights()]
    with held(folder.path(FOLDER, name), "evaluate"):
        counted = _Counted(folder, f"{FOLDER}/{name}/counted.json", key, dataset.taxonomy.num_classes)
        arguments = {"run": folder.uri, "step": step, "prepared": place, "split_catalog": catalog, "options": options}
        counted.add_missing(catalog, arguments, recipe.train.evaluate_batch)
        result = {
            **key,
            **numbers_of_variants(dataset, counted.scores, reference),
            "model": recipe.method.deployed,
            "frames": len(catalog),
            "inference_name": options.name,
            "commit": git_commit(),
            "fingerprint": recipe.fingerprint,
            "prepared": place,
        }
        try:
            folder.write(f"{FOLDER}/{name}.json", json.dumps(result, indent=1).encode())
        finally:
            print(describe_robustness(result), flush=True)
    storage.remove_folder(folder.path(FOLDER, name))  # the counts are in the result
    return result


class _VariantScorer:
    """One actor: the model, and the shards; each frame is read once and scored 25 times."""

    def __init__(self, run: str, step: int, prepared: str, split_catalog: Catalog, options: InferenceOptions):
        self.device = pool.own_device()
        models, self.recipe, _ = load_models(run, step, self.device, options)
        self.model = models[self.recipe.method.deployed]
        self.sensor, self.dataset = resolve_sensor(self.recipe.data), dataset_of(self.recipe.data)
        self.frames = PreparedFrames(*storage.resolve(prepared), split_catalog)

    def __call__(self, rows: pa.Table) -> pa.Table:
        positions = rows.column("position").to_pylist()
        result = {"positions": positions, "error": "", "counts": ""}
        try:
            frames = [self.frames[position] for position in positions]
            use_intensity, batch = self.recipe.data.use_intensity, len(frames)
            scores = score_variants(self.model, frames, self.dataset, self.sensor, use_intensity, self.device, batch)
            result["counts"] = json.dumps({name: part.to_json() for name, part in scores.items()})
        except Exception as error:  # the driver raises it, as the DataError it is
            result["error"] = reason(error)
        return pa.Table.from_pylist([result])


class _Counted:
    """The counts so far and the frames they are of, in a file that is replaced as a whole now and then."""

    def __init__(self, folder: RunFolder, name: str, key: Mapping[str, Any], num_classes: int):
        self._folder, self._name, self._key = folder, name, dict(key)
        self.scores = {variant: Scores.empty(num_classes) for variant in VARIANTS}
        self._done: set[str] = set()
        if storage.exists(folder.path(name)):
            self._read(folder.path(name))

    def add_missing(self, catalog: Catalog, arguments: dict[str, Any], batch: int) -> None:
        """Scores the frames that are not counted yet; what was counted is saved, however it ends."""
        missing = [place for place, frame_id in enumerate(catalog.frame_id) if frame_id not in self._done]
        if self._done:
            print(f"{len(self._done)} of {len(catalog)} frames are counted already", flush=True)
        saved_s = time.monotonic()
        try:
            for part in results(missing, _VariantScorer, arguments, batch, "robustness"):
                for variant, counts in json.loads(part["counts"]).items():
                    self.scores[variant].merge(Scores.from_json(counts))
                self._done.update(catalog.frame_id[position] for position in part["positions"])
                if time.monotonic() - saved_s > _SAVE_EVERY_S:
                    self._save()
                    saved_s = time.monotonic()
        finally:
            self._save()

    def _read(self, uri: str) -> None:
        content = read_json(storage.read_bytes(uri), f"{uri} (delete it to begin anew)", RunError)
        if content.get("key") != self._key:
            print(f"{uri} is of another checkpoint, other frames or other corruptions: begun anew", flush=True)
            return
        counts = content["counts"]
        if content.get("digest") != _digest(counts):
            raise RunError(f"{uri} is torn: delete it, the same command begins anew")
        self.scores = {variant: Scores.from_json(counts[variant]) for variant in VARIANTS}
        self._done = set(content["done"])

    def _save(self) -> None:
        counts = {variant: part.to_json() for variant, part in self.scores.items()}
        content = {"key": self._key, "digest": _digest(counts), "done": sorted(self._done), "counts": counts}
        self._folder.write(self._name, json.dumps(content).encode())


def _digest(counts: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(counts, sort_keys=True).encode()).hexdigest()[:16]


def numbers_of_variants(
    dataset: DatasetSpec, scores: Mapping[str, Scores], baseline: Baseline | None
) -> dict[str, Any]:
    """What counts under every corruption say; the corruptions' own numbers and their doubts with them."""
    point = {
        corruption: {
            severity: numbers(scores[f"{corruption}/{severity}"].point, dataset.absent) for severity in SEVERITIES
        }
        for corruption in CORRUPTIONS
    }
    clean = numbers_of(scores[CLEAN], dataset.absent)
    miou = {name: [part["miou_ratio"] or 0.0 for part in parts.values()] for name, parts in point.items()}
    found = robustness(clean["point"]["miou_ratio"] or 0.0, miou, baseline)
    corruptions = {
        name: {
            "mean_miou_ratio": sum(miou[name]) / len(SEVERITIES),
            "rr_ratio": found.resilience[name],
            "ce_ratio": found.error.get(name),
            **{severity: {**part, "points": sum(part["class_points"])} for severity, part in parts.items()},
        }
        for name, parts in point.items()
    }
    used = settings(dataset.name)
    doubts = dict.fromkeys(f"{setting.corruption}: {setting.doubt}" for setting in used if setting.doubt)
    return {
        "class_names": list(dataset.taxonomy.class_names),
        "absent_rule": dataset.absent,
        "mrr_ratio": found.mrr_ratio,
        "mce_ratio": found.mce_ratio,
        "baseline": {"name": baseline.name, "miou_ratio": dict(baseline.miou_ratio)} if baseline else None,
        "notes": [*without_effect(dataset), *(f"not certain, {doubt}" for doubt in doubts)],
        "settings": [setting.to_json() for setting in used],
        "clean": clean,
        "corruptions": corruptions,
    }


def _baseline(named: str, frames: Mapping[str, str], num_frames: int, dataset: str) -> Baseline:
    """A published table, or what a run scored on the same frames."""
    if not storage.exists(storage.join(storage.absolute(named), "recipe.yaml")):
        return published_baseline(named, dataset, num_frames)
    file = RunFolder(named).path(FOLDER, f"robustness-{frames['split']}.json")
    if not storage.exists(file):
        raise DataError(
            f"baseline {named} has no {storage.name_of(file)}: run `ray-lidarseg evaluate --robustness` on it"
        )
    content = read_json(storage.read_bytes(file), file, DataError)
    require(content, _BASELINE_SHAPE, file, DataError)
    wanted = {**frames, "corruptions_version": VERSION}
    other = [f"{name} {content[name]}, not {value}" for name, value in wanted.items() if content[name] != value]
    if other:
        raise DataError(
            f"baseline {named} was scored on something else ({'; '.join(other)}): errors are relative to the same "
            "frames and corruptions; evaluate it on these"
        )
    means = {name: part["mean_miou_ratio"] for name, part in content["corruptions"].items()}
    return Baseline(storage.name_of(RunFolder(named).uri), frames["dataset"], frames["frames_digest"], means)
