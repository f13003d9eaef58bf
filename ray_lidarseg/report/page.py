"""The verb `report`: run folders and prediction folders as one HTML page that needs no network and no other file."""

import base64
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from ray_lidarseg import __version__
from ray_lidarseg.datasets.taxonomy import Taxonomy
from ray_lidarseg.errors import LidarSegError
from ray_lidarseg.report import curves, pictures, tables
from ray_lidarseg.report.runs import RunView, read_runs
from ray_lidarseg.report.scenes import Scene, predicted_scenes, validation_scenes
from ray_lidarseg.report.viewer import cloud
from ray_lidarseg.runtime import storage
from ray_lidarseg.types import IGNORE


@dataclass(frozen=True)
class Picture:
    """One image of the page: a data URI and what to say under it."""

    source: str
    caption: str


@dataclass
class Section:
    """What the page shows of one protocol, or of one folder of predictions.

    Attributes:
        title: Heading.
        rows: Result table; empty for predictions.
        charts: Full-width figures.
        frames: For each frame its title and the pictures side by side.
        wide: Full-width pictures below each other.
        legend: Class name and CSS colour.
        shares: Class name, CSS colour and percent of the points, for predictions.
        notes: What is missing, or worth knowing.
        about: One sentence on predictions.
    """

    title: str
    rows: list[dict[str, Any]] = field(default_factory=list)
    charts: list[Picture] = field(default_factory=list)
    frames: list[tuple[str, list[Picture]]] = field(default_factory=list)
    wide: list[Picture] = field(default_factory=list)
    legend: list[tuple[str, str]] = field(default_factory=list)
    shares: list[tuple[str, str, float]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    about: str = ""


def report(runs: Sequence[str], out: str, predictions: Sequence[str] = ()) -> None:
    """Writes the page; whatever is missing in a folder is said on the page, never raised.

    Args:
        runs: Run folders, finished or not.
        out: HTML file; a path or a URI.
        predictions: Folders that `predict` wrote.

    Raises:
        StorageError: ``out`` cannot be written.
    """
    views = read_runs(runs)
    clouds: list[dict[str, Any]] = []
    sections = [_protocol_section(protocol, members, clouds) for protocol, members in tables.by_protocol(views)]
    predicted = [_prediction_section(folder, clouds) for folder in predictions]
    page = (
        _environment()
        .get_template("page.html")
        .render(
            version=__version__,
            made=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
            cards=[_card(index, view) for index, view in enumerate(views)],
            sections=sections,
            predictions=predicted,
            clouds=clouds,
            recipes=[(view.name, view.recipe.to_yaml()) for view in views if view.recipe is not None],
        )
    )
    storage.write_bytes(out, page.encode())
    print(f"report: {storage.absolute(out)} ({len(page) / 2**20:.1f} MiB)")


def _environment() -> Environment:
    loader = FileSystemLoader(Path(__file__).parent)
    made = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    made.policies["json.dumps_kwargs"] = {}  # else keys are sorted, and the truth is no longer the first layer
    return made


def _card(index: int, view: RunView) -> dict[str, Any]:
    models = view.models()
    best = list(models.values())[-1] if models else {}
    return {
        "name": view.name,
        "uri": view.uri,
        "colour": curves.PALETTE[index % len(curves.PALETTE)],
        "miou": tables.mean_and_deviation([best.get("point")]),
        "deployed": list(models)[-1] if models else "",
        "facts": tables.facts(view),
        "missing": view.missing,
    }


def _protocol_section(protocol: tuple[Any, ...], views: list[RunView], clouds: list[dict[str, Any]]) -> Section:
    taxonomy = views[0].taxonomy
    section = Section(tables.protocol_title(protocol), rows=tables.result_rows(views), legend=_legend(taxonomy))
    for figure, caption in ((curves.learning_curves(views), "Learning curves"), (curves.class_bars(views), "")):
        if figure is not None:
            section.charts.append(Picture(_uri(curves.png(figure)), caption))
    scenes, section.notes = validation_scenes(views)
    section.frames = [(f"Validation frame {scene.frame.frame_id}", _birds_eyes(scene)) for scene in scenes]
    if scenes:
        section.wide = _wide(scenes[0], section.notes)
        clouds.append({"title": section.title, **cloud(scenes[0])})
    return section


def _prediction_section(folder: str, clouds: list[dict[str, Any]]) -> Section:
    scenes, summary, problems = predicted_scenes(folder)
    name = folder.rstrip("/").rpartition("/")[2]
    section = Section(f"Predictions · {name}", notes=problems)
    section.about = _about(summary) if summary else ""
    if scenes:
        section.legend = _legend(scenes[0].taxonomy)
        section.shares = _shares(summary.get("num_points", {}), scenes[0].taxonomy)
        section.frames = [("", [picture for scene in scenes for picture in _predicted_pictures(scene)])]
        clouds.append({"title": section.title, **cloud(scenes[0])})
    return section


def _about(summary: dict[str, Any]) -> str:
    labelled, failed = summary.get("num_labelled", 0), summary.get("num_failed", 0)
    return (
        f"{labelled:,} of {summary['num_scans']:,} scans labelled, {failed} failed; model of {summary['run']} after "
        f"{summary['step']:,} steps (recipe {summary['fingerprint']}), format {summary['file_format']}"
    )


def _birds_eyes(scene: Scene) -> list[Picture]:
    truth = scene.frame.labels
    found = [_birds_eye(scene, pictures.class_colours(truth, scene.taxonomy), "truth")]
    known = truth != IGNORE
    for name, said in scene.said.items():
        wrong = np.mean(truth[known] != said[known]) if known.any() else 0.0
        found.append(_birds_eye(scene, pictures.class_colours(said, scene.taxonomy), name))
        found.append(_birds_eye(scene, pictures.error_colours(truth, said), f"{name}: errors ({wrong:.1%} of points)"))
    return found


def _predicted_pictures(scene: Scene) -> list[Picture]:
    colours = pictures.class_colours(next(iter(scene.said.values())), scene.taxonomy)
    return [_birds_eye(scene, colours, scene.frame.frame_id)]


def _birds_eye(scene: Scene, rgb: np.ndarray, caption: str) -> Picture:
    return Picture(_image_uri(pictures.birds_eye(scene.frame.points, rgb, scene.frame.dataset)), caption)


def _wide(scene: Scene, notes: list[str]) -> list[Picture]:
    """Range views of truth and every run, and one camera image with the points of truth and of the last run."""
    layers = {"truth": scene.frame.labels, **scene.said}
    wide = [
        Picture(
            _image_uri(
                pictures.range_view(scene.frame.points, pictures.class_colours(labels, scene.taxonomy), scene.sensor)
            ),
            f"range view: {name}",
        )
        for name, labels in layers.items()
    ]
    ends = {name: layers[name] for name in ("truth", list(layers)[-1])}
    return wide + _camera_pictures(scene, ends, notes)


def _camera_pictures(scene: Scene, layers: dict[str, np.ndarray], notes: list[str]) -> list[Picture]:
    camera = pictures.best_camera(scene.frame.cameras)
    if camera is None:
        notes.append("the shards name no camera: no overlay")
        return []
    try:
        image = camera.image or storage.read_bytes(camera.uri)
    except LidarSegError as error:
        notes.append(f"no camera overlay: {error}")
        return []
    overlays = [
        pictures.camera_overlay(camera, image, scene.frame.points, pictures.class_colours(labels, scene.taxonomy))
        for labels in layers.values()
    ]
    gap = np.full((overlays[0].shape[0], 8, 3), 255, np.uint8)
    side_by_side = np.concatenate([part for overlay in overlays for part in (overlay, gap)][:-1], axis=1)
    return [Picture(_image_uri(side_by_side), f"{camera.name}: points coloured by {' and '.join(layers)}")]


def _legend(taxonomy: Taxonomy) -> list[tuple[str, str]]:
    colours = [_css(colour) for colour in taxonomy.colours]
    named = [(name.replace("_", " "), colour) for name, colour in zip(taxonomy.class_names, colours, strict=True)]
    return [*named, ("ignored", _css(np.array(pictures.UNKNOWN)))]


def _shares(num_points: dict[str, int], taxonomy: Taxonomy) -> list[tuple[str, str, float]]:
    total = max(sum(num_points.values()), 1)
    return [
        (name.replace("_", " "), _css(colour), 100 * num_points.get(name, 0) / total)
        for name, colour in zip(taxonomy.class_names, taxonomy.colours, strict=True)
    ]


def _css(colour: np.ndarray) -> str:
    return "#" + "".join(f"{int(value):02x}" for value in colour)


def _image_uri(image: np.ndarray) -> str:
    return _uri(pictures.png(image))


def _uri(png: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"
