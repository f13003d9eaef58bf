"""From a segmentor to a label and a confidence for every point of a file, including those no model may see.

A benchmark wants one class per point of the file. Returns that are too near or not finite are no input of any model,
so they take the label of the nearest usable point, with confidence 0 (Source: ours; benchmark rules only say that no
point may stay without a class).
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Integer, UInt8
from scipy.spatial import cKDTree
from torch import nn

from ray_lidarseg.datasets.image_scans import at_stored_size
from ray_lidarseg.datasets.points import to_batch
from ray_lidarseg.models.segmentor import Output, Segmentor
from ray_lidarseg.sample import ImageSensor, Keyframe, PointBatch, SensorSpec

FALLBACK_CLASS = 0
"""Label of every point of a scan without one usable point; confidence 0 says that it means nothing."""


@dataclass(frozen=True)
class ScanLabels:
    """What a model says of one scan.

    Attributes:
        labels: [P] class id of every point of the file, in file order; never IGNORE.
        confidence: [P] softmax probability of that class, 0 where the point was not usable.
        cell_labels: [V] class id of each cell (voxel, or pixel of the range image) of the scan.
        cell_targets: [V] true class of each cell as the model's training sees it, IGNORE where there is none.
    """

    labels: UInt8[np.ndarray, "P"]
    confidence: Float32[np.ndarray, "P"]
    cell_labels: UInt8[np.ndarray, "V"]
    cell_targets: UInt8[np.ndarray, "V"]


def label_frames(
    segmentor: Segmentor,
    frames: Sequence[Keyframe],
    sensor: SensorSpec,
    use_intensity: bool = True,
    device: torch.device | str = "cpu",
) -> list[ScanLabels]:
    """Labels decoded key-frames in one forward; the segmentor's mode is restored afterwards.

    Unusable points with finite coordinates take the label of the nearest usable point of their scan, the others the
    scan's most frequent label; a scan without a usable point is ``FALLBACK_CLASS`` everywhere. Confidence is 0 there.
    Pixels of an image at its stored size take what the nearest pixel of the sensor's grid has.

    Args:
        segmentor: On ``device`` already.
        frames: Decoded key-frames; labels are only needed for ``cell_targets``.
        sensor: Their LiDAR.
        use_intensity: As in the recipe the model was trained with.
        device: Where to compute.

    Returns:
        One result per frame, in order; no frames give none.
    """
    if not frames:
        return []
    batches, masks = zip(*(to_batch(frame, sensor, use_intensity) for frame in frames), strict=True)
    batch = PointBatch.pack(batches).to(device)
    with evaluating(segmentor), torch.no_grad():
        output = segmentor(batch)
    scans = _split(output, batch)
    if isinstance(sensor, ImageSensor):
        return [_whole_image(frame, sensor, scan) for frame, scan in zip(frames, scans, strict=True)]
    return [_whole_file(frame.points, mask, scan) for frame, mask, scan in zip(frames, masks, scans, strict=True)]


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Evaluation mode inside the block, for every submodule its own mode again after it."""
    modes = [(child, child.training) for child in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for child, was_training in modes:
            child.training = was_training


def _split(output: Output, batch: PointBatch) -> list[ScanLabels]:
    """The result of a packed batch, scan by scan; a cell belongs to the one scan its points are of."""
    confidence, labels = output.point_logits.float().softmax(dim=1).max(dim=1)
    cell_scan = torch.full((len(output.cell_logits),), -1, device=batch.device)
    cell_scan[output.cells.point_cell.long()] = batch.scan_idx
    columns = {
        "labels": (labels, batch.scan_idx, np.uint8),
        "confidence": (confidence, batch.scan_idx, np.float32),
        "cell_labels": (output.cell_logits.argmax(dim=1), cell_scan, np.uint8),
        "cell_targets": (output.cells.targets, cell_scan, np.uint8),
    }
    host = {
        name: (value.cpu().numpy().astype(kind), owner.cpu().numpy()) for name, (value, owner, kind) in columns.items()
    }
    return [
        ScanLabels(**{name: value[owner == scan] for name, (value, owner) in host.items()})
        for scan in range(batch.num_scans)
    ]


def _whole_file(points: Float[np.ndarray, "P 4"], is_usable: Bool[np.ndarray, "P"], scan: ScanLabels) -> ScanLabels:
    labels = np.full(len(points), FALLBACK_CLASS, np.uint8)
    confidence = np.zeros(len(points), np.float32)
    labels[is_usable], confidence[is_usable] = scan.labels, scan.confidence
    if is_usable.any() and not is_usable.all():
        labels[~is_usable] = nearest_labels(points[~is_usable, :3], points[is_usable, :3], scan.labels)
    return ScanLabels(labels, confidence, scan.cell_labels, scan.cell_targets)


def _whole_image(frame: Keyframe, sensor: ImageSensor, scan: ScanLabels) -> ScanLabels:
    labels, confidence = (at_stored_size(values, frame, sensor) for values in (scan.labels, scan.confidence))
    return replace(scan, labels=labels, confidence=confidence)


def nearest_labels(
    queries: Float[np.ndarray, "Q 3"], points: Float[np.ndarray, "P 3"], labels: Integer[np.ndarray, "P"]
) -> Integer[np.ndarray, "Q"]:
    """The label of the nearest point, for queries that are not finite the most frequent label (lowest id of a tie).

    Args:
        queries: [Q, 3] metres.
        points: [P, 3] finite, metres; at least one.
        labels: [P] class ids.
    """
    found = np.full(len(queries), np.bincount(labels).argmax(), labels.dtype)
    is_finite = np.isfinite(queries).all(axis=1)
    if is_finite.any():
        # Split at midpoints: thousands of returns off the own car, all far from any leaf, are answered sooner.
        tree = cKDTree(points, balanced_tree=False, compact_nodes=False)
        _, nearest = tree.query(queries[is_finite])
        found[is_finite] = labels[nearest]
    return found
