"""Scans that are plain float32 columns, with one little-endian integer a point as label: nuScenes and SemanticKITTI."""

from dataclasses import dataclass, replace

import numpy as np

from ray_lidarseg import storage
from ray_lidarseg.datasets.label_bits import refuse_upper_half
from ray_lidarseg.datasets.taxonomy import Taxonomy
from ray_lidarseg.errors import DataError
from ray_lidarseg.sample import Keyframe

_FLOAT_BYTES = 4


@dataclass(frozen=True, eq=False)
class BinaryScans:
    """Layout of a data set's binary files.

    Attributes:
        columns: Names of the float32 columns of a scan: x, y, z, intensity, and ring where there is one.
        max_intensity: Highest raw intensity the format allows; a file with other columns exceeds it at once.
        label_type: One little-endian integer a point.
        label_mask: Its semantic bits; SemanticKITTI keeps the instance in the high 16.
        taxonomy: What the labels mean.
    """

    columns: tuple[str, ...]
    max_intensity: float
    label_type: str
    label_mask: int
    taxonomy: Taxonomy

    def decode(self, frame: Keyframe) -> Keyframe:
        """An index row with its points (intensity scaled to [0, 1]), labels and, where the format has one, ring.

        Raises:
            DataError: A file is empty, truncated, of another layout, its labels do not fit its points, or an id is
                unknown. The message names the file.
            StorageError: A file is missing or cannot be read.
        """
        scan = storage.read_bytes(frame.points_uri)
        return self.decode_bytes(frame, scan, storage.read_bytes(frame.labels_uri) if frame.labels_uri else b"")

    def decode_bytes(self, frame: Keyframe, scan: bytes, labels: bytes = b"") -> Keyframe:
        """``decode`` of the files' content; ``labels`` counts where ``labels_uri`` is set."""
        columns = self._columns(scan, frame)
        points = columns[:, :4].copy()
        points[:, 3] *= 1.0 / self.max_intensity
        train = self._labels(labels, len(points), frame) if frame.labels_uri else frame.labels
        return replace(frame, points=points, labels=train, ring=_ring(columns, frame))

    def raw_labels(self, frame: Keyframe) -> np.ndarray:
        """Semantic ids [P] of a frame's label file, whether the taxonomy knows them or not.

        Raises:
            DataError: The file holds no whole number of labels.
            StorageError: It is missing or cannot be read.
        """
        content, label_type = storage.read_bytes(frame.labels_uri), np.dtype(self.label_type)
        if len(content) % label_type.itemsize:
            raise DataError(f"{frame.labels_uri} has {len(content)} bytes, no multiple of {label_type.itemsize}")
        return self._classes(content, frame.labels_uri)

    def _classes(self, content: bytes, uri: str) -> np.ndarray:
        label_type = np.dtype(self.label_type)
        stored = np.frombuffer(content, label_type)
        if label_type == np.uint32:
            refuse_upper_half(stored, uri)
        return stored & label_type.type(self.label_mask)

    def _columns(self, content: bytes, frame: Keyframe) -> np.ndarray:
        row_bytes = _FLOAT_BYTES * len(self.columns)
        if not content:
            raise DataError(f"{frame.points_uri} is an empty scan: expected float32 {', '.join(self.columns)}")
        if len(content) % row_bytes:
            raise DataError(
                f"{frame.points_uri} is truncated or has other columns: {len(content)} bytes are not a multiple of "
                f"{row_bytes} (float32 {', '.join(self.columns)})"
            )
        columns = np.frombuffer(content, "<f4").reshape(-1, len(self.columns))
        intensity = columns[:, 3]
        if not (np.isfinite(intensity.min()) and np.isfinite(intensity.max())):  # a NaN is the least and the greatest
            intensity = intensity[np.isfinite(intensity)]
        if len(intensity) and not (intensity.min() >= 0.0 and intensity.max() <= self.max_intensity):
            raise DataError(
                f"{frame.points_uri}: {self.columns[3]} reaches from {intensity.min():g} to {intensity.max():g}, "
                f"expected 0 … {self.max_intensity:g}: the file does not have the columns {', '.join(self.columns)}"
            )
        return columns

    def _labels(self, content: bytes, num_points: int, frame: Keyframe) -> np.ndarray:
        label_type = np.dtype(self.label_type)
        if len(content) != num_points * label_type.itemsize:
            raise DataError(
                f"{frame.labels_uri} has {len(content)} bytes, expected {num_points * label_type.itemsize} "
                f"({num_points} points of {label_type.itemsize} bytes): labels and scan do not belong together"
            )
        raw = self._classes(content, frame.labels_uri)
        try:
            return self.taxonomy.to_train(raw)
        except DataError as error:
            raise DataError(f"{frame.labels_uri}: {error}") from error


def _ring(columns: np.ndarray, frame: Keyframe) -> np.ndarray:
    if columns.shape[1] < 5:
        return frame.ring
    with np.errstate(invalid="ignore"):
        channel = columns[:, 4].astype(np.uint8)
    if (channel == columns[:, 4]).all():  # nothing but channels; what else there may be is looked at one by one
        return channel
    ring = np.nan_to_num(columns[:, 4], nan=0.0, posinf=0.0, neginf=0.0)
    is_channel = (ring >= 0) & (ring <= np.iinfo(np.uint8).max) & (ring == np.floor(ring))
    if not is_channel.all():
        raise DataError(
            f"{frame.points_uri}: ring holds {ring[~is_channel][0]:g}, expected whole numbers 0 … 255: the file does "
            "not have the columns x, y, z, intensity, ring"
        )
    return ring.astype(np.uint8)
