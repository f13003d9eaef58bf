"""What images say about the points of a frame, as training reads it from the layers of a prepared folder."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float, Float16, Float32, Int8, Int64, UInt16
from pyarrow import fs

from ray_lidarseg.datasets.catalog import Catalog
from ray_lidarseg.datasets.layers import (
    TEXT_FILE,
    LayerRows,
    cameras_of,
    content_of,
    layer_folder,
    layer_names,
    read_layer,
)
from ray_lidarseg.errors import DataError
from ray_lidarseg.storage.whole_files import patiently
from ray_lidarseg.types import IMAGE_FEATURES, IMAGE_SEGMENT, LANGUAGE_LOGITS

if TYPE_CHECKING:  # reading the words of a layer does without
    from torch import Tensor

_MAX_TEXT_BYTES = 256 << 20  # ours: a hundred thousand words of 512 numbers

_FEATURE_BYTES = 2  # float16
_BELOW = 2e-3
"""How far the score of a class without words lies below the lowest of the others: more than float16 rounds. Ours."""
_EXTRAS = (IMAGE_FEATURES, LANGUAGE_LOGITS, IMAGE_SEGMENT)


def class_logits(
    features: Float[np.ndarray, "N F"], embeddings: Float[np.ndarray, "K _"], class_idx: Int64[np.ndarray, "K"]
) -> Float32[np.ndarray, "N C"]:
    """Cosine of each feature with each class: the highest over the class's words (OpenScene's rule).

    Args:
        features: Unit rows; a zero row (nothing known) gets zeros.
        embeddings: Unit row of each word; a zero row is none. A class of nothing else gets a little less than the
            lowest of the others, so that it is never the answer.
        class_idx: Class of each word, ascending, every class at least once.

    Raises:
        DataError: Features and words differ in dimension, or the classes have gaps or are not in order.
    """
    if features.shape[1] != embeddings.shape[1]:
        raise DataError(
            f"features have {features.shape[1]} values, embedded words {embeddings.shape[1]}: "
            "both must come from the same teacher; prepare the features again"
        )
    first_word = np.flatnonzero(np.diff(class_idx, prepend=-1))
    if not np.array_equal(class_idx[first_word], np.arange(len(first_word))):
        raise DataError(f"expected words in class order without gaps, got classes {class_idx.tolist()}")
    cosine = features.astype(np.float32) @ embeddings.astype(np.float32).T
    is_word = embeddings.any(axis=1)
    cosine[:, ~is_word] = -2.0  # below any cosine
    best = np.maximum.reduceat(cosine, first_word, axis=1)
    is_known = np.logical_or.reduceat(is_word, first_word)
    best[:, ~is_known] = best[:, is_known].min(axis=1, keepdims=True, initial=1.0) - _BELOW
    return best


@dataclass(frozen=True)
class TextEmbeddings:
    """Words of all classes as a text tower sees them.

    Attributes:
        embeddings: [K, F] unit rows, one a word or synonym; zeros of a class that no picture shows.
        class_idx: [K] class id of each row, ascending; every class has at least one.
        names: The K words.
        reject: [R, F] unit rows of words that mean none of the classes, such as sky; none by default.
    """

    embeddings: Float[np.ndarray, "K F"]
    class_idx: Int64[np.ndarray, "K"]
    names: tuple[str, ...]
    reject: Float[np.ndarray, "R F"] = field(default_factory=lambda: np.zeros((0, 0), np.float32))

    @property
    def num_classes(self) -> int:
        """C."""
        return int(self.class_idx[-1]) + 1

    def logits(self, features: Float[np.ndarray, "N F"]) -> Float32[np.ndarray, "N C"]:
        """Cosine of each unit row with each class; see ``class_logits``."""
        return class_logits(features, self.embeddings, self.class_idx)

    def to_bytes(self) -> bytes:
        """The content of ``text.npz``."""
        sink = io.BytesIO()
        arrays = {"embeddings": self.embeddings, "class_idx": self.class_idx, "names": np.array(self.names)}
        np.savez(sink, **arrays, **({"reject": self.reject} if len(self.reject) else {}))
        return sink.getvalue()

    @staticmethod
    def from_bytes(data: bytes, origin: str = TEXT_FILE) -> "TextEmbeddings":
        """The inverse of ``to_bytes``.

        Raises:
            DataError: Not such a file; or it unpacks to more than any list of words needs.
        """
        try:
            with zipfile.ZipFile(io.BytesIO(data)) as archive:
                num_bytes = sum(entry.file_size for entry in archive.infolist())
            if num_bytes > _MAX_TEXT_BYTES:
                raise ValueError(f"it unpacks to {num_bytes} bytes, more than {_MAX_TEXT_BYTES}")
            with np.load(io.BytesIO(data), allow_pickle=False) as content:
                embeddings, class_idx = content["embeddings"], content["class_idx"]
                names = tuple(content["names"].tolist())
                reject = content["reject"] if "reject" in content else embeddings[:0]
        except Exception as error:  # the readers of archive and arrays promise no type for a corrupt file
            reason = " ".join(str(error).split())
            raise DataError(f"{origin} is no whole {TEXT_FILE} ({reason:.200}): delete it and prepare again") from error
        is_table = embeddings.ndim == 2 and embeddings.dtype.kind == "f" and bool(np.isfinite(embeddings).all())
        is_index = class_idx.ndim == 1 and class_idx.dtype.kind in "iu" and class_idx[:1].tolist() == [0]
        is_sorted = is_index and bool(np.isin(np.diff(class_idx.astype(np.int64)), (0, 1)).all())
        are_words = all(isinstance(name, str) for name in names)
        if not (is_table and is_sorted and are_words and len(embeddings) == len(class_idx) == len(names)) or (
            reject.shape[1:] != embeddings.shape[1:] or reject.dtype.kind != "f"
        ):
            raise DataError(f"{origin} does not hold an embedding, class and name a word: delete it and prepare again")
        return TextEmbeddings(embeddings, class_idx, names, reject)


def read_text(filesystem: fs.FileSystem, folder: str, name: str) -> TextEmbeddings | None:
    """The words of a features layer; None where its teacher has no text tower."""
    path = f"{layer_folder(folder, name)}/{TEXT_FILE}"
    if filesystem.get_file_info(path).type == fs.FileType.NotFound:
        return None
    return TextEmbeddings.from_bytes(patiently(filesystem, lambda: content_of(filesystem, path)), path)


@dataclass(frozen=True)
class Evidence:
    """What images say about the points of one key-frame; P is all points of the file, in file order.

    Attributes:
        point_camera: [P] position of the camera that sees the point in ``Keyframe.cameras``, -1 none.
        point_segment: [P] its segment in that camera's image, 1 … N, 0 none.
        segment_features: For each camera of the frame [N, F], unit rows; row i belongs to segment i + 1.
        feature_dim: F.
    """

    point_camera: Int8[np.ndarray, "P"]
    point_segment: UInt16[np.ndarray, "P"]
    segment_features: tuple[Float16[np.ndarray, "_ F"], ...]
    feature_dim: int

    def image_segment(self) -> Int64[np.ndarray, "P"]:
        """``IMAGE_SEGMENT`` of each point, in file order; a point whose segment has no feature (zeros) has none."""
        idx = self._row_idx()
        return np.where(self._rows().any(axis=1)[idx], idx, 0)

    def segments(
        self, text: TextEmbeddings | None = None, names: Iterable[str] = (IMAGE_FEATURES,)
    ) -> dict[str, Float16[np.ndarray, "N _"]]:
        """What is known of the segments of all cameras, by name: see ``PointBatch.segments``.

        Args:
            text: Words of the classes; needed for ``LANGUAGE_LOGITS``.
            names: ``IMAGE_FEATURES``, ``LANGUAGE_LOGITS``, both or none.

        Raises:
            DataError: Logits are asked for without words.
        """
        rows = self._rows()
        makers = {IMAGE_FEATURES: lambda: rows, LANGUAGE_LOGITS: lambda: _logits(rows, text)}
        return {name: make() for name, make in makers.items() if name in names}

    def _rows(self) -> Float16[np.ndarray, "N F"]:
        """Features of the segments of all cameras, one camera after the other behind a row of zeros."""
        return np.concatenate([np.zeros((1, self.feature_dim), np.float16), *self.segment_features])

    def _row_idx(self) -> Int64[np.ndarray, "P"]:
        """[P] row of each point in ``_rows``; 0 where unpaired."""
        sizes = np.array([len(features) for features in self.segment_features] or [0])
        starts = 1 + np.cumsum(sizes) - sizes
        is_paired = (self.point_camera >= 0) & (self.point_segment > 0)
        camera = self.point_camera[is_paired].astype(np.int64)
        segment = self.point_segment[is_paired].astype(np.int64)
        if len(camera) and (int(camera.max()) >= len(sizes) or bool((segment > sizes[camera]).any())):
            raise DataError("points are paired with segments that have no feature row: prepare both layers again")
        idx = np.zeros(len(is_paired), np.int64)
        idx[is_paired] = starts[camera] + segment - 1
        return idx


def _logits(rows: Float16[np.ndarray, "N F"], text: TextEmbeddings | None) -> Float16[np.ndarray, "N C"]:
    if text is None:
        raise DataError(
            f"{LANGUAGE_LOGITS} needs a features layer of a teacher with a text tower: prepare with --features clip"
        )
    return text.logits(rows.astype(np.float32)).astype(np.float16)


def check_extras(names: Iterable[str]) -> None:
    """Refuses names of extras no layer can give.

    Raises:
        DataError: See above.
    """
    if unknown := sorted(set(names) - set(_EXTRAS)):
        raise DataError(f"no extra {', '.join(unknown)}: layers give {', '.join(_EXTRAS)}")


class EvidenceReader:
    """Evidence of the frames of a catalog, from one features layer and the pairs that belong to it.

    May be pickled and used in forked and in spawned DataLoader workers. Images and masks are never read.

    Args:
        filesystem: Where the prepared folder lies.
        folder: The prepared folder.
        catalog: Its frames.
        layer: ``features-…``, ``features-…/pairs-…`` or ``auto``; see ``evidence_layers``.
    """

    def __init__(self, filesystem: fs.FileSystem, folder: str, catalog: Catalog, layer: str):
        features, pairs = evidence_layers(filesystem, folder, layer)
        self.catalog = catalog
        self.text = read_text(filesystem, folder, features)
        self._features = LayerRows(filesystem, folder, features)
        self._pairs = LayerRows(filesystem, folder, pairs)
        self.feature_dim = self._features.layer.feature_dim

    @property
    def num_missing(self) -> int:
        """Frames of the catalog no evidence exists for: a teacher failed on them."""
        return sum(not self._has(frame_id) for frame_id in self.catalog.frame_id)

    def evidence(self, index: int) -> Evidence:
        """Evidence of entry ``index`` of the catalog; a frame a teacher failed on has none of its points paired.

        Raises:
            DataError: A shard cannot be read, or the layers do not fit the frame's number of points.
        """
        frame_id, num_points = self.catalog.frame_id[index], int(self.catalog.num_points[index])
        if not self._has(frame_id):
            return Evidence(np.full(num_points, -1, np.int8), np.zeros(num_points, np.uint16), (), self.feature_dim)
        pairs = self._pairs.row(frame_id, ("point_camera", "point_segment"))
        camera = np.frombuffer(pairs["point_camera"], np.int8)
        segment = np.frombuffer(pairs["point_segment"], np.uint16)
        if not len(camera) == len(segment) == num_points:
            raise DataError(
                f"frame {frame_id} has {num_points} points, {self._pairs.layer.name} pairs {len(camera)} of them: "
                "delete that layer and run `ray-lidarseg prepare` again"
            )
        return Evidence(camera, segment, self._segment_features(frame_id), self.feature_dim)

    def read(self, index: int, names: Iterable[str]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """What entry ``index`` brings to a batch.

        Args:
            index: Of the catalog.
            names: Which of ``IMAGE_SEGMENT``, ``IMAGE_FEATURES`` and ``LANGUAGE_LOGITS``.

        Returns:
            Extras of all points of the file, and segments: see ``PointBatch``.

        Raises:
            DataError: See ``evidence`` and ``Evidence``, or a name is unknown.
        """
        return self._of(self.evidence(index), names)

    def empty(self, names: Iterable[str]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """The same of no points at all."""
        nothing = Evidence(np.zeros(0, np.int8), np.zeros(0, np.uint16), (), self.feature_dim)
        return self._of(nothing, names)

    def _of(self, evidence: Evidence, names: Iterable[str]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        import torch

        wanted = set(names)
        check_extras(wanted)
        segments = evidence.segments(self.text, wanted)
        extras = {IMAGE_SEGMENT: torch.from_numpy(evidence.image_segment())} if wanted else {}
        return extras, {name: torch.from_numpy(rows) for name, rows in segments.items()}

    def _has(self, frame_id: str) -> bool:
        return frame_id in self._features and frame_id in self._pairs

    def _segment_features(self, frame_id: str) -> tuple[np.ndarray, ...]:
        row = self._features.row(frame_id, ("segment_features", "num_segments"))
        found = []
        for camera in cameras_of(row):
            data, count = row[f"{camera}.segment_features"], row[f"{camera}.num_segments"]
            if len(data) != count * self.feature_dim * _FEATURE_BYTES:
                raise DataError(
                    f"frame {frame_id}, {camera}: {len(data)} bytes of features, expected {count} x {self.feature_dim} "
                    f"float16: delete {self._features.layer.name} and run `ray-lidarseg prepare` again"
                )
            found.append(np.frombuffer(data, np.float16).reshape(count, self.feature_dim))
        return tuple(found)


def evidence_layers(filesystem: fs.FileSystem, folder: str, layer: str) -> tuple[str, str]:
    """The features layer and the pairs layer that ``data.evidence`` means.

    Args:
        filesystem: Where the prepared folder lies.
        folder: The prepared folder.
        layer: ``auto`` (the only features layer), ``features-…`` (with the only pairs of the same masks), or both
            names with a slash between.

    Raises:
        DataError: No such layer, or several fit; the message names them and what to do.
    """
    names = layer_names(filesystem, folder)
    features, _, pairs = layer.partition("/")
    if features == "auto":
        features = _only([name for name in names if name.startswith("features-")], "features", folder)
    reads = set(read_layer(filesystem, folder, features).reads)
    fitting = [
        name
        for name in names
        if name.startswith("pairs-") and reads & set(read_layer(filesystem, folder, name).reads) and pairs in ("", name)
    ]
    return features, _only(fitting, "pairs", folder, prefix=f"{features}/")


def _only(names: list[str], kind: str, folder: str, prefix: str = "") -> str:
    if not names:
        raise DataError(
            f"{folder} has no {kind} layer: write one with `ray-lidarseg prepare INDEX --out {folder} --masks slic "
            "--features clip`"
        )
    if len(names) > 1:
        choices = " or ".join(f"data.evidence={prefix}{name}" for name in names)
        raise DataError(f"{folder} has {len(names)} {kind} layers, say which to read: {choices}")
    return names[0]
