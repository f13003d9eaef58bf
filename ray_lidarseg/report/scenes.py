"""Scans with what the runs say of them: validation frames of the shards, and folders that `predict` wrote."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from pydantic import ValidationError

from ray_lidarseg import storage
from ray_lidarseg.datasets.decode import decode
from ray_lidarseg.datasets.entries import dataset_of
from ray_lidarseg.datasets.prediction_log import LabelledScan, read_log
from ray_lidarseg.datasets.scans import decode_scan
from ray_lidarseg.datasets.sensor import resolve_sensor
from ray_lidarseg.datasets.shards import Catalog, PreparedFrames, content_digest, read_catalog
from ray_lidarseg.datasets.submission import read_labels
from ray_lidarseg.datasets.taxonomy import Taxonomy
from ray_lidarseg.errors import DataError, LidarSegError
from ray_lidarseg.models.inference import label_frames
from ray_lidarseg.recipe.bad_input import read_json, require
from ray_lidarseg.recipe.ontology import Ontology
from ray_lidarseg.recipe.schema import Data
from ray_lidarseg.report.run_summary import RunView
from ray_lidarseg.sample import Keyframe, SensorSpec
from ray_lidarseg.storage.stamps import changed_files
from ray_lidarseg.training.run_folder import RunFolder, load_method

NUM_FRAMES = 2  # pictures a person looks at; a report of ten runs labels twenty scans


@dataclass(frozen=True)
class Scene:
    """One scan and what is known of it.

    Attributes:
        frame: Decoded; its ``labels`` are the truth, empty where there is none.
        sensor: Its LiDAR.
        taxonomy: Of truth and predictions.
        said: Class ids [P] by run.
    """

    frame: Keyframe
    sensor: SensorSpec
    taxonomy: Taxonomy
    said: dict[str, np.ndarray] = field(default_factory=dict)


def validation_scenes(views: Sequence[RunView], num_frames: int = NUM_FRAMES) -> tuple[list[Scene], list[str]]:
    """The same few validation frames, labelled by every run that can; and what is missing, as sentences."""
    problems: list[str] = []
    if any(view.recipe is not None and view.recipe.is_images for view in views):
        return [], ["runs on images: pictures are drawn of scans only"]
    frames = _first_frames(views, num_frames, problems)
    if not frames:
        return [], problems or ["no validation frame: no pictures"]
    recipe = views[0].recipe
    assert recipe is not None
    scenes = [Scene(frame, resolve_sensor(recipe.data), views[0].taxonomy) for frame in frames]
    for view in views:
        try:
            for scene, labels in zip(scenes, _said(view, frames), strict=True):
                scene.said[view.name] = labels
        except (LidarSegError, RuntimeError) as error:
            problems.append(f"{view.name} has no pictures: {error}")
    return scenes, problems


def predicted_scenes(folder: str) -> tuple[list[Scene], dict[str, Any], list[str]]:
    """The example scans of a folder that `predict` wrote, its summary, and what is missing, as sentences."""
    folder = storage.absolute(folder)
    problems: list[str] = []
    file = storage.join(folder, "predictions.json")
    try:
        summary = read_json(storage.read_bytes(file), file, DataError)
        require(summary, _SUMMARY, file, DataError)
    except LidarSegError as error:
        return [], {}, [f"{folder} has no predictions.json ({error})"]
    scenes = []
    for example in summary["examples"]:
        try:
            scenes.append(_predicted(folder, summary, example))
        except (LidarSegError, ValidationError, OSError) as error:
            problems.append(f"{example['frame_id']}: {error}")
    return scenes, summary, problems


_SUMMARY = {
    "examples": [
        {
            "frame_id": str,
            "labels": str,
            "dataset": str,
            "points_uri": str,
            "columns": int,
            "position": int,
            "*": object,
        }
    ],
    "data": dict,
    "read_as": (dict, type(None)),
    "prepared": str,
    "file_format": str,
    "run": str,
    "step": int,
    "fingerprint": str,
    "num_scans": int,
    "num_labelled?": int,
    "num_failed?": int,
    "num_points?": {"*": int},
    "*": object,
}


def _first_frames(views: Sequence[RunView], num_frames: int, problems: list[str]) -> list[Keyframe]:
    for view in views:
        try:
            frames = _frames(view)
            stride = max(1, len(frames) // num_frames)
            return [frames[position] for position in range(0, len(frames), stride)[:num_frames]]
        except LidarSegError as error:
            problems.append(f"{view.name}: its shards cannot be read ({error})")
    return []


def _frames(view: RunView) -> PreparedFrames:
    assert view.recipe is not None
    filesystem, path = storage.resolve(RunFolder(view.uri).prepared(view.recipe))
    catalog = read_catalog(filesystem, path).with_validation(view.recipe.data.val_frames)
    return PreparedFrames(filesystem, path, _labelled(catalog.of_split("val")))


def _labelled(catalog: Catalog) -> Catalog:
    return catalog.select(name for name, known in zip(catalog.frame_id, catalog.is_labelled, strict=True) if known)


def _said(view: RunView, frames: Sequence[Keyframe]) -> list[np.ndarray]:
    method, recipe, _ = load_method(view.uri)
    sensor = resolve_sensor(recipe.data)
    model, use_intensity = method.deployed_model, recipe.data.use_intensity
    return [label_frames(model, [frame], sensor, use_intensity)[0].labels for frame in frames]


def _predicted(folder: str, summary: dict[str, Any], example: dict[str, Any]) -> Scene:
    data = Data.model_validate(summary["data"])
    taxonomy = dataset_of(data).taxonomy
    content = storage.read_bytes(storage.join(folder, example["labels"]))
    labels = read_labels(content, taxonomy, summary["file_format"])
    frame = _scan(summary, example)
    if len(labels) != len(frame.points):
        raise DataError(f"{len(labels)} labels, but the scan has {len(frame.points)} points: it was replaced since")
    _refuse_replaced(frame, read_log(folder).get(example["labels"]))
    return Scene(frame, resolve_sensor(data), taxonomy, {"prediction": labels})


def _refuse_replaced(frame: Keyframe, labelled: LabelledScan | None) -> None:
    """Labels of another scan make a picture that looks right."""
    if labelled is None:  # of an earlier release
        return
    scan = content_digest(frame).partition("/")[0]
    if changed_files(labelled.origin.files) or labelled.origin.values.get("scan", scan) != scan:
        raise DataError("the scan was replaced since it was labelled: give the predict command again")


def _scan(summary: dict[str, Any], example: dict[str, Any]) -> Keyframe:
    if summary["prepared"]:
        filesystem, path = storage.resolve(summary["prepared"])
        return PreparedFrames(filesystem, path, read_catalog(filesystem, path).select([example["frame_id"]]))[0]
    if example["dataset"]:
        row = Keyframe(example["frame_id"], example["dataset"], "", "", 0, example["points_uri"])
        ontology = Ontology.model_validate(summary["read_as"]) if summary["read_as"] else None
        return decode(row, ontology)
    return decode_scan(example["points_uri"], example["columns"])
