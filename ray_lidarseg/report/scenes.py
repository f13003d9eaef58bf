"""Scans with what the runs say of them: validation frames of the shards, and folders that `predict` wrote."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pyarrow.compute as pc
from pydantic import ValidationError

from ray_lidarseg import storage
from ray_lidarseg.datasets.catalog import Catalog, read_catalog
from ray_lidarseg.datasets.decode import decode
from ray_lidarseg.datasets.entries import dataset_of
from ray_lidarseg.datasets.ontology_files import mean_the_same
from ray_lidarseg.datasets.parquet_files import open_parquet
from ray_lidarseg.datasets.prediction_log import LabelledScan, read_log
from ray_lidarseg.datasets.prepared_frames import PreparedFrames
from ray_lidarseg.datasets.scans import decode_scan
from ray_lidarseg.datasets.sensor import resolve_sensor
from ray_lidarseg.datasets.shards import content_digest
from ray_lidarseg.datasets.submission import read_confidence, read_labels
from ray_lidarseg.datasets.taxonomy import Taxonomy
from ray_lidarseg.datasets.work_list import least_certain
from ray_lidarseg.errors import DataError, LidarSegError
from ray_lidarseg.models.inference import ScanLabels, label_frames
from ray_lidarseg.recipe.ontology import Ontology
from ray_lidarseg.recipe.schema import Data
from ray_lidarseg.recipe.text_files import read_json, require
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
        confidence: Their probabilities [P] by run, where they are known.
    """

    frame: Keyframe
    sensor: SensorSpec
    taxonomy: Taxonomy
    said: dict[str, np.ndarray] = field(default_factory=dict)
    confidence: dict[str, np.ndarray] = field(default_factory=dict)


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
                scene.said[view.name], scene.confidence[view.name] = labels.labels, labels.confidence
        except (LidarSegError, RuntimeError) as error:
            problems.append(f"{view.name} has no pictures: {error}")
    return scenes, problems


def predicted_scenes(
    folder: str, scans: Sequence[str] = (), num_least_certain: int = 0
) -> tuple[list[Scene], dict[str, Any], list[str]]:
    """Some scans of a folder that `predict` wrote, its summary, and what is missing, as sentences.

    Args:
        folder: A path or a URI.
        scans: Ids of the scans.
        num_least_certain: Without ``scans``: so many of the least certain ones; 0: the examples the summary names.
    """
    folder = storage.absolute(folder)
    problems: list[str] = []
    file = storage.join(folder, "predictions.json")
    try:
        summary = read_json(storage.read_bytes(file), file, DataError)
        require(summary, _SUMMARY, file, DataError)
    except LidarSegError as error:
        return [], {}, [f"{folder} has no predictions.json ({error})"]
    scenes = []
    for example in _asked_for(folder, summary, scans, num_least_certain, problems):
        try:
            scenes.append(_predicted(folder, summary, example))
        except (LidarSegError, ValidationError, OSError) as error:
            problems.append(f"{example['frame_id']}: {error}")
    return scenes, summary, problems


def _asked_for(
    folder: str, summary: dict[str, Any], scans: Sequence[str], num_least_certain: int, problems: list[str]
) -> list[dict[str, Any]]:
    if not (scans or num_least_certain):
        return summary["examples"]
    log = {scan.frame_id: scan for scan in least_certain(read_log(folder).values())}
    problems += [f"{name}: not labelled in {folder}" for name in scans if name not in log]
    chosen = [log[name] for name in scans if name in log] if scans else list(log.values())[:num_least_certain]
    alike = summary["examples"][0] if summary["examples"] else {}
    return [
        {**alike, "frame_id": scan.frame_id, "points_uri": scan.points_uri, "labels": scan.labels} for scan in chosen
    ]


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
    "index?": str,
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


def _said(view: RunView, frames: Sequence[Keyframe]) -> list[ScanLabels]:
    method, recipe, _ = load_method(view.uri)
    sensor = resolve_sensor(recipe.data)
    model, use_intensity = method.classifier, recipe.data.use_intensity
    return [label_frames(model, [frame], sensor, use_intensity)[0] for frame in frames]


def _predicted(folder: str, summary: dict[str, Any], example: dict[str, Any]) -> Scene:
    data = Data.model_validate(summary["data"])
    taxonomy = dataset_of(data).taxonomy
    file, file_format = storage.join(folder, example["labels"]), summary["file_format"]
    content = storage.read_bytes(file)
    labels = read_labels(content, taxonomy, file_format)
    frame = _scan(summary, example)
    if not mean_the_same(data, frame.dataset, _ontology(summary)):
        frame = replace(frame, labels=frame.labels[:0])  # ids of other classes are no truth
    if len(labels) != len(frame.points):
        raise DataError(f"{len(labels)} labels, but the scan has {len(frame.points)} points: it was replaced since")
    _refuse_replaced(frame, read_log(folder).get(example["labels"]))
    confidence: dict[str, np.ndarray] = {}
    with suppress(LidarSegError):  # the labels say something without it, too
        values = read_confidence(content, file, file_format)
        confidence |= {"prediction": values} if values.shape == labels.shape else {}
    return Scene(frame, resolve_sensor(data), taxonomy, {"prediction": labels}, confidence)


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
    if summary.get("index"):
        return decode(_listed(summary["index"], example["frame_id"]), _ontology(summary))
    if example["dataset"]:
        row = Keyframe(example["frame_id"], example["dataset"], "", "", 0, example["points_uri"])
        return decode(row, _ontology(summary))
    return decode_scan(example["points_uri"], example["columns"])


def _listed(index: str, frame_id: str) -> Keyframe:
    with open_parquet(*storage.resolve(index), writer="index") as file:
        table = file.read(use_threads=False)
    rows = table.filter(pc.equal(table.column("frame_id"), frame_id)).to_pylist()
    if not rows:
        raise DataError(f"{index} lists no frame {frame_id} any more")
    return Keyframe.from_row(rows[0])


def _ontology(summary: dict[str, Any]) -> Ontology | None:
    return Ontology.model_validate(summary["read_as"]) if summary["read_as"] else None
