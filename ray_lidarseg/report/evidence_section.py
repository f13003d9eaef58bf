"""The part of the page on image teachers: one panel for each combination of layers of a prepared folder."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ray_lidarseg.datasets.layers import Layer
from ray_lidarseg.datasets.taxonomy import Taxonomy
from ray_lidarseg.report import pictures
from ray_lidarseg.report.evidence_frames import CameraEvidence, Counts, FrameEvidence, Shown, read_evidence
from ray_lidarseg.report.evidence_pictures import (
    FeatureColours,
    covered_ratio,
    masks_over,
    points_over,
    segments_painted,
)
from ray_lidarseg.report.section import Picture, css, flat_picture, legend, photo_picture
from ray_lidarseg.report.viewer import labelled_cloud
from ray_lidarseg.types import IGNORE

_SHA_DIGITS = 8


@dataclass
class EvidencePanel:
    """What the page shows of one combination of layers.

    Attributes:
        title: Names of the teachers.
        facts: Label and text: the layers, and numbers over the frames shown.
        legend: Class name and CSS colour.
        bars: Class name, CSS colour and IoU in percent of zero-shot labels; empty without a score.
        frames: For each frame its title, its pictures from above, and those on its images.
        notes: What is missing.
    """

    title: str
    facts: list[tuple[str, str]] = field(default_factory=list)
    legend: list[tuple[str, str]] = field(default_factory=list)
    bars: list[tuple[str, str, float]] = field(default_factory=list)
    frames: list[tuple[str, list[Picture], list[Picture]]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def evidence_panels(
    prepared: str, num_frames: int, clouds: list[dict[str, Any]]
) -> tuple[list[EvidencePanel], list[str]]:
    """Panels of a prepared folder, and what is missing, as sentences; nothing is raised.

    Args:
        prepared: Folder or URI; without one there is no panel.
        num_frames: How many frames are pictured.
        clouds: Scans of the 3-D viewer; one of each combination with zero-shot labels is added.
    """
    if not prepared:
        return [], []
    found, problems = read_evidence(prepared, num_frames)
    panels = []
    for shown in found:
        panels.append(_panel(shown))
        if shown.frames and len(shown.frames[0].zero_shot):
            first = shown.frames[0]
            cloud = labelled_cloud(first.frame, shown.taxonomy, {"zero-shot": first.zero_shot})
            clouds.append({"title": panels[-1].title, **cloud})
    return panels, problems


def _panel(shown: Shown) -> EvidencePanel:
    teachers = [f"{layer.kind} of {layer.identity['name']}" for layer in shown.layers if layer.kind != "pairs"]
    panel = EvidencePanel(", ".join(teachers), notes=shown.notes)
    panel.facts = [(layer.kind, layer_sentence(layer)) for layer in shown.layers]
    panel.facts += number_facts(shown.counts, shown.total)
    panel.legend = legend(shown.taxonomy, "no segment, or no truth")
    panel.bars = class_bars(shown.counts, shown.taxonomy)
    rows = [image.features for evidence in shown.frames for image in evidence.cameras if len(image.features)]
    colours = FeatureColours.of(np.concatenate(rows)) if rows else None
    for evidence in shown.frames:
        title = f"{evidence.frame.split} frame {evidence.frame.frame_id}"
        on_images = [
            picture
            for image in evidence.cameras
            for picture in _image_pictures(image, evidence, shown.taxonomy, colours)
        ]
        panel.frames.append((title, _birds_eyes(evidence, shown.taxonomy, colours), on_images))
    return panel


def layer_sentence(layer: Layer) -> str:
    """Teacher, folder, parameters and the checkpoint's digest of a layer, on one line."""
    given = {key: value for key, value in layer.identity.items() if key != "name" and value not in (None, "")}
    return " · ".join([layer.identity["name"], layer.name, *(f"{key} {_short(value)}" for key, value in given.items())])


def number_facts(counts: Counts, total: int) -> list[tuple[str, str]]:
    """Numbers over the frames shown, as label and text."""
    facts = [("measured", f"over the frames shown here: {counts.frames} of {total:,} of the folder")]
    if counts.images:
        each, covered = counts.segments / counts.images, counts.covered_ratio / counts.images
        facts.append(("images", f"{counts.images}, {each:.1f} masks each; {covered:.1%} of the pixels have one"))
    if counts.points:
        seen, paired = counts.seen / counts.points, counts.paired / counts.points
        facts.append(("points", f"{counts.points:,}; {seen:.1%} seen by a camera, {paired:.1%} paired with a segment"))
    if counts.scored:
        iou = counts.confusion.iou()
        facts.append(
            (
                "zero-shot",
                f"accuracy {counts.confusion.accuracy():.1%} and mIoU {counts.confusion.miou():.1%} over the "
                f"{int((~iou.isnan()).sum())} classes in truth or labels, of {counts.scored:,} paired points with a "
                f"truth; saying the commonest class everywhere: {counts.commonest_ratio:.1%} accuracy",
            )
        )
    return facts


def class_bars(counts: Counts, taxonomy: Taxonomy) -> list[tuple[str, str, float]]:
    """Name, colour and IoU in percent of every class in truth or zero-shot labels; none without a score."""
    if not counts.scored:
        return []
    pairs = zip(taxonomy.class_names, taxonomy.colours, counts.confusion.iou().tolist(), strict=True)
    return [(name.replace("_", " "), css(colour), 100 * iou) for name, colour, iou in pairs if iou == iou]  # not NaN


def _short(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(_short(part) for part in value.values())
    if isinstance(value, list):
        return " ".join(map(str, value))
    text = str(value)
    return text[:_SHA_DIGITS] if len(text) == 64 else text


def _image_pictures(
    image: CameraEvidence, evidence: FrameEvidence, taxonomy: Taxonomy, colours: FeatureColours | None
) -> list[Picture]:
    num_segments, covered = int(image.segments.max(initial=0)), covered_ratio(image.segments)
    caption = f"{image.camera.name}: {num_segments} mask{'s' * (num_segments != 1)} on {covered:.0%} of the image"
    found = [photo_picture(masks_over(image.photo, image.segments), caption)]
    if colours is not None and len(image.features) == num_segments:
        painted = segments_painted(image.photo, image.segments, colours(image.features))
        found.append(photo_picture(painted, "pooled features"))
    layers = {"zero-shot": evidence.zero_shot, "truth": evidence.frame.labels}
    for name, labels in layers.items():
        if len(labels):
            found.append(_labels_on_image(image, evidence, pictures.class_colours(labels, taxonomy), name))
    if len(found) < 4:
        found.insert(0, photo_picture(image.photo, image.camera.name))
    return found


def _labels_on_image(image: CameraEvidence, evidence: FrameEvidence, rgb: np.ndarray, name: str) -> Picture:
    seen = evidence.point_camera == image.position
    range_m = np.linalg.norm(evidence.frame.points[seen, :3].astype(np.float64), axis=1)
    drawn = points_over(image.photo, evidence.point_pixel[seen], rgb[seen], range_m, image.camera.width_px)
    return photo_picture(drawn, f"{name} of the points")


def _birds_eyes(evidence: FrameEvidence, taxonomy: Taxonomy, colours: FeatureColours | None) -> list[Picture]:
    frame, truth, said = evidence.frame, evidence.frame.labels, evidence.zero_shot
    layers: dict[str, np.ndarray] = {}
    if colours is not None:
        layers["pooled features of the points"] = point_colours(evidence, colours)
    if len(said):
        layers["zero-shot labels"] = pictures.class_colours(said, taxonomy)
    if len(truth):
        layers["truth"] = pictures.class_colours(truth, taxonomy)
    if len(said) and len(truth):
        judged = np.where(evidence.is_paired, truth, IGNORE)
        layers["zero-shot errors (paired points with a truth)"] = pictures.error_colours(judged, said)
    return [
        flat_picture(pictures.birds_eye(frame.points, rgb, frame.dataset), caption) for caption, rgb in layers.items()
    ]


def point_colours(evidence: FrameEvidence, colours: FeatureColours) -> np.ndarray:
    """RGB [P] of each point's segment; ``UNKNOWN`` where unpaired."""
    rgb = np.tile(np.array(pictures.UNKNOWN, np.uint8), (len(evidence.frame.points), 1))
    for image in evidence.cameras:
        chosen = evidence.is_paired & (evidence.point_camera == image.position)
        rgb[chosen] = colours(image.features)[evidence.point_segment[chosen] - 1]
    return rgb
