"""Raw files to decoded key-frames: every check that the bytes are what the format promises."""

from dataclasses import dataclass, replace

import numpy as np

from ray_lidarseg import storage
from ray_lidarseg.datasets import image_scans as images
from ray_lidarseg.datasets import manifest
from ray_lidarseg.datasets.ontology_taxonomy import MANIFEST
from ray_lidarseg.datasets.sensor import sensor_of
from ray_lidarseg.datasets.taxonomy import taxonomy_of
from ray_lidarseg.errors import DataError
from ray_lidarseg.recipe.ontology import Ontology
from ray_lidarseg.recipe.schema import IMAGE_DATASETS
from ray_lidarseg.sample import Keyframe

_FLOAT_BYTES = 4


@dataclass(frozen=True)
class _Format:
    """Layout of a data set's binary files.

    Attributes:
        columns: Names of the float32 columns of a scan.
        max_intensity: Highest raw intensity the format allows; a file with other columns exceeds it at once.
        label_type: One little-endian integer a point.
        label_mask: Its semantic bits; SemanticKITTI keeps the instance in the high 16.
    """

    columns: tuple[str, ...]
    max_intensity: float
    label_type: str
    label_mask: int


_FORMATS = {
    "nuscenes": _Format(("x", "y", "z", "intensity", "ring"), 255.0, "u1", 0xFF),
    "semantickitti": _Format(("x", "y", "z", "remission"), 1.0, "<u4", 0xFFFF),
}


def decode(frame: Keyframe, ontology: Ontology | None = None) -> Keyframe:
    """Reads and checks a key-frame's scan and labels.

    Non-finite points stay (they belong to the file; training drops them). Intensity is scaled and clipped to [0, 1].

    Args:
        frame: An index row.
        ontology: What the files of own logs hold (``datasets.manifest``); the built-in data sets need none.

    Returns:
        The frame with ``points``, ``labels`` (empty without ``labels_uri``) and ``ring`` (empty where the format has
        none); of an image data set, with its image and ``labels`` (``datasets.images``).

    Raises:
        DataError: A file is empty, truncated, of another layout, its labels do not fit its points, or an id is unknown.
            The message names the file.
        StorageError: A file is missing or cannot be read.
    """
    decoded = decode_unclipped(frame, ontology)
    if frame.dataset == MANIFEST:  # the other formats refuse what lies beyond
        np.clip(decoded.points[:, 3], 0.0, 1.0, out=decoded.points[:, 3])
    return decoded


def decode_unclipped(frame: Keyframe, ontology: Ontology | None = None) -> Keyframe:
    """What ``decode`` gives, with intensities beyond the stated range where the file has them: for checks."""
    if frame.dataset == MANIFEST:
        if ontology is None:
            raise DataError(
                f"frame {frame.frame_id} comes from a manifest: its scan cannot be read without an ontology"
            )
        return manifest.decode(frame, ontology)
    scan, labels = storage.read_bytes(frame.points_uri), _read_if_any(frame.labels_uri)
    if frame.dataset in IMAGE_DATASETS:
        return images.decode(frame, scan, labels)
    return decode_binary(frame, scan, labels)


def decode_binary(frame: Keyframe, scan: bytes, labels: bytes = b"") -> Keyframe:
    """A nuScenes or SemanticKITTI frame from the content of its files; ``labels`` counts where ``labels_uri`` is set.

    Raises:
        DataError: See ``decode``.
    """
    scale = sensor_of(frame.dataset).intensity_scale
    layout = _FORMATS[frame.dataset]
    columns = _columns(scan, layout, frame)
    points = columns[:, :4].copy()
    points[:, 3] *= scale
    train = _labels(labels, len(points), layout, frame) if frame.labels_uri else frame.labels
    return replace(frame, points=points, labels=train, ring=_ring(columns, frame))


def _read_if_any(uri: str) -> bytes:
    return storage.read_bytes(uri) if uri else b""


def _columns(content: bytes, layout: _Format, frame: Keyframe) -> np.ndarray:
    row_bytes = _FLOAT_BYTES * len(layout.columns)
    if not content:
        raise DataError(f"{frame.points_uri} is an empty scan: expected float32 {', '.join(layout.columns)}")
    if len(content) % row_bytes:
        raise DataError(
            f"{frame.points_uri} is truncated or has other columns: {len(content)} bytes are not a multiple of "
            f"{row_bytes} (float32 {', '.join(layout.columns)})"
        )
    columns = np.frombuffer(content, "<f4").reshape(-1, len(layout.columns))
    intensity = columns[np.isfinite(columns[:, 3]), 3]
    if len(intensity) and not (intensity.min() >= 0.0 and intensity.max() <= layout.max_intensity):
        raise DataError(
            f"{frame.points_uri}: {layout.columns[3]} reaches from {intensity.min():g} to {intensity.max():g}, "
            f"expected 0 … {layout.max_intensity:g}: the file does not have the columns {', '.join(layout.columns)}"
        )
    return columns


def _ring(columns: np.ndarray, frame: Keyframe) -> np.ndarray:
    if columns.shape[1] < 5:
        return frame.ring
    ring = np.nan_to_num(columns[:, 4], nan=0.0, posinf=0.0, neginf=0.0)
    is_channel = (ring >= 0) & (ring <= np.iinfo(np.uint8).max) & (ring == np.floor(ring))
    if not is_channel.all():
        raise DataError(
            f"{frame.points_uri}: ring holds {ring[~is_channel][0]:g}, expected whole numbers 0 … 255: the file does "
            "not have the columns x, y, z, intensity, ring"
        )
    return ring.astype(np.uint8)


def _labels(content: bytes, num_points: int, layout: _Format, frame: Keyframe) -> np.ndarray:
    label_type = np.dtype(layout.label_type)
    if len(content) != num_points * label_type.itemsize:
        raise DataError(
            f"{frame.labels_uri} has {len(content)} bytes, expected {num_points * label_type.itemsize} "
            f"({num_points} points of {label_type.itemsize} bytes): labels and scan do not belong together"
        )
    raw = np.frombuffer(content, label_type) & label_type.type(layout.label_mask)
    try:
        return taxonomy_of(frame.dataset).to_train(raw)
    except DataError as error:
        raise DataError(f"{frame.labels_uri}: {error}") from error
