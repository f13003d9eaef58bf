"""The verb `report`: run, prediction and prepared folders as one HTML page that needs no network and no other file."""

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from ray_lidarseg import __version__, storage
from ray_lidarseg.datasets.taxonomy import Taxonomy
from ray_lidarseg.errors import DataError, LidarSegError
from ray_lidarseg.report import curves, pictures, tables
from ray_lidarseg.report.evidence_section import evidence_panels
from ray_lidarseg.report.feature_plane import feature_planes
from ray_lidarseg.report.rendered_section import rendered_galleries
from ray_lidarseg.report.run_summary import RunView, best_of_recipes, read_runs
from ray_lidarseg.report.scenes import NUM_FRAMES, Scene, predicted_scenes, validation_scenes
from ray_lidarseg.report.section import Picture, Section, css, encoded_picture, flat_picture, legend
from ray_lidarseg.report.sweep_section import is_sweep, sweep_panel
from ray_lidarseg.report.viewer import cloud
from ray_lidarseg.types import IGNORE

MAX_CHARTED = 24
"""More runs of one protocol are told apart in no chart: then the best run of each recipe is drawn. Ours."""

MAX_PICTURED = 12
"""Likewise for pictures of scans, of which each run takes two a frame, and must be loaded for them. Ours."""


def report(
    runs: Sequence[str],
    out: str,
    predictions: Sequence[str] = (),
    prepared: str = "",
    num_frames: int = NUM_FRAMES,
) -> None:
    """Writes the page; whatever is missing in a folder is said on the page, never raised.

    Args:
        runs: Run folders, finished or not, and folders of sweeps.
        out: HTML file; a path or a URI.
        predictions: Folders that `predict` wrote.
        prepared: Folder whose layers are shown: masks, pooled features, zero-shot labels of the points.
        num_frames: Frames pictured, of runs and of the prepared folder.

    Raises:
        DataError: Nothing to report is given, or no frame is to be pictured.
        StorageError: ``out`` cannot be written.
    """
    if not (runs or predictions or prepared):
        raise DataError("nothing to report: give run folders, --predictions FOLDER or --prepared FOLDER")
    if num_frames < 1:
        raise DataError(f"expected at least 1 frame to picture, got --frames {num_frames}")
    storage.check_file_writable(out)
    sweeps = [uri for uri in runs if is_sweep(uri)]
    views = read_runs([uri for uri in runs if uri not in sweeps])
    clouds: list[dict[str, Any]] = []
    sections = [
        _protocol_section(protocol, members, num_frames, clouds) for protocol, members in tables.by_protocol(views)
    ]
    predicted = [_prediction_section(folder, clouds) for folder in predictions]
    panels, gaps = evidence_panels(prepared, num_frames, clouds)
    page = (
        environment()
        .get_template("page.html")
        .render(
            version=__version__,
            made=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
            cards=[_card(index, view) for index, view in enumerate(views)],
            sweeps=[sweep_panel(uri) for uri in sweeps],
            sections=sections,
            predictions=predicted,
            evidence=panels,
            evidence_gaps=gaps,
            prepared=prepared,
            clouds=clouds,
            recipes=[(view.name, view.recipe.to_yaml()) for view in views if view.recipe is not None],
        )
    )
    storage.write_bytes(out, page.encode())
    print(f"report: {storage.absolute(out)} ({len(page) / 2**20:.1f} MiB)")


def environment() -> Environment:
    """Templates of this folder; what is not escaped by hand is escaped."""
    loader = FileSystemLoader(Path(__file__).parent)
    made = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    made.policies["json.dumps_kwargs"] = {}  # else keys are sorted, and the truth is no longer the first layer
    return made


def _card(index: int, view: RunView) -> dict[str, Any]:
    models = view.models()
    return {
        "name": view.name,
        "uri": view.uri,
        "colour": curves.PALETTE[index % len(curves.PALETTE)],
        "miou": tables.mean_and_deviation([models.get(view.deployed, {}).get("point")]),
        "deployed": view.deployed if models else "",
        "facts": tables.facts(view),
        "missing": view.missing,
    }


def _protocol_section(
    protocol: tuple[Any, ...], views: list[RunView], num_frames: int, clouds: list[dict[str, Any]]
) -> Section:
    taxonomy = views[0].taxonomy
    section = Section(
        tables.protocol_title(protocol), rows=tables.result_rows(views), legend=legend(taxonomy, "ignored")
    )
    section.robustness, section.options = tables.robustness_rows(views), tables.option_rows(views)
    section.class_map, unseen = tables.class_map_rows(views)
    charted, pictured = best_of_recipes(views, MAX_CHARTED), best_of_recipes(views, MAX_PICTURED)
    figures = (
        (curves.learning_curves(charted), "Learning curves"),
        (curves.class_bars(charted), ""),
        (feature_planes(charted), "Features on the main axes of their images' (PCA)"),
        (curves.ranges_and_reliability(charted), "By distance, and whether models are as often right as they say"),
        (curves.corruption_bars(charted), "Under corruption"),
        (
            curves.diagnosis(charted),
            "Why: what models and pseudo-labels are worth on scans whose labels no run may see",
        ),
    )
    for figure, caption in figures:
        if figure is not None:
            section.charts.append(encoded_picture(curves.png(figure), caption))
    scenes, section.notes = validation_scenes(pictured, num_frames)
    section.notes += unseen
    section.rendered = rendered_galleries(pictured, section.notes)
    section.notes += list(dict.fromkeys(note for view in views for note in view.robustness.get("notes", ())))
    section.notes += [
        f"{what} show {len(some)} of {len(views)} runs: the best of each recipe; give fewer runs to see others"
        for what, some in (("charts", charted), ("pictures", pictured))
        if len(some) < len(views)
    ]
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
        section.legend = legend(scenes[0].taxonomy, "ignored")
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
    return flat_picture(pictures.birds_eye(scene.frame.points, rgb, scene.frame.dataset), caption)


def _wide(scene: Scene, notes: list[str]) -> list[Picture]:
    """Range views of truth and every run, and one camera image with the points of truth and of the last run."""
    layers = {"truth": scene.frame.labels, **scene.said}
    wide = [
        flat_picture(
            pictures.range_view(scene.frame.points, pictures.class_colours(labels, scene.taxonomy), scene.sensor),
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
    return [flat_picture(side_by_side, f"{camera.name}: points coloured by {' and '.join(layers)}")]


def _shares(num_points: dict[str, int], taxonomy: Taxonomy) -> list[tuple[str, str, float]]:
    total = max(sum(num_points.values()), 1)
    return [
        (name.replace("_", " "), css(colour), 100 * num_points.get(name, 0) / total)
        for name, colour in zip(taxonomy.class_names, taxonomy.colours, strict=True)
    ]
