"""What the layers of a prepared folder say of a few frames, read back as training reads it, with images and masks."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Bool, Float16, Int8, Int16, UInt8, UInt16
from pyarrow import fs

from ray_lidarseg import storage
from ray_lidarseg.datasets import ontology_files
from ray_lidarseg.datasets.catalog import Catalog, read_catalog
from ray_lidarseg.datasets.entries import dataset_named
from ray_lidarseg.datasets.evidence import EvidenceReader
from ray_lidarseg.datasets.layers import Layer, LayerRows, cameras_of, layer_names, read_layer, segments_of
from ray_lidarseg.datasets.prepared_frames import PreparedFrames
from ray_lidarseg.datasets.taxonomy import Taxonomy
from ray_lidarseg.errors import DataError, LidarSegError
from ray_lidarseg.metrics.confusion import Confusion
from ray_lidarseg.report.evidence_pictures import blank_photo, covered_ratio, read_photo
from ray_lidarseg.sample import CameraImage, Keyframe
from ray_lidarseg.types import IGNORE, LANGUAGE_LOGITS

PHOTO_WIDTH_PX = 480  # of the page's pictures of images: sharp at a quarter of its width on a dense screen


@dataclass(frozen=True)
class Combination:
    """Layers that belong together, by name.

    Attributes:
        masks: What the others are computed from.
        pairs: ``""`` where there is none.
        features: ``""`` where there is none.
    """

    masks: str
    pairs: str = ""
    features: str = ""


@dataclass(frozen=True)
class CameraEvidence:
    """One image of a frame.

    Attributes:
        camera: Calibration.
        position: In ``Keyframe.cameras``.
        photo: RGB, ``PHOTO_WIDTH_PX`` wide; white where the image is gone.
        segments: [h, w] at the image's own size, 1 … N, 0 none.
        features: [N, F] unit rows, row i for segment i + 1; [0, F] without a features layer.
    """

    camera: CameraImage
    position: int
    photo: UInt8[np.ndarray, "H W 3"]
    segments: UInt16[np.ndarray, "h w"]
    features: Float16[np.ndarray, "N F"]


@dataclass(frozen=True)
class FrameEvidence:
    """One frame.

    Attributes:
        frame: Decoded; its ``labels`` are the truth, empty where there is none.
        cameras: Its images, those that look forward first.
        point_camera: [P] position of the camera that sees the point, -1 none.
        point_pixel: [P, 2] column and row in that image, -1 none.
        point_segment: [P] its segment in that image, 0 none.
        is_paired: [P] whether the point has a segment, and that a feature where there is a features layer.
        zero_shot: [P] the class whose words are nearest to the feature, IGNORE where unpaired; [0] without words.
    """

    frame: Keyframe
    cameras: tuple[CameraEvidence, ...]
    point_camera: Int8[np.ndarray, "P"]
    point_pixel: Int16[np.ndarray, "P 2"]
    point_segment: UInt16[np.ndarray, "P"]
    is_paired: Bool[np.ndarray, "P"]
    zero_shot: UInt8[np.ndarray, "Q"]


@dataclass
class Counts:
    """Numbers over the frames shown.

    Attributes:
        frames: Their number.
        images: Images with masks.
        segments: Of all images.
        covered_ratio: Sum over images of the share of pixels with a segment.
        points: Of all frames.
        seen: Points that some image shows.
        paired: Points with a segment (and its feature).
        confusion: Zero-shot labels of the paired points with a truth.
    """

    confusion: Confusion
    frames: int = 0
    images: int = 0
    segments: int = 0
    covered_ratio: float = 0.0
    points: int = 0
    seen: int = 0
    paired: int = 0

    def add(self, shown: FrameEvidence) -> None:
        """Counts one frame."""
        self.frames += 1
        self.images += len(shown.cameras)
        self.segments += sum(int(image.segments.max(initial=0)) for image in shown.cameras)
        self.covered_ratio += sum(covered_ratio(image.segments) for image in shown.cameras)
        self.points += len(shown.frame.points)
        self.seen += int((shown.point_camera >= 0).sum())
        self.paired += int(shown.is_paired.sum())
        if len(shown.zero_shot) and len(shown.frame.labels):
            self.confusion.add(shown.frame.labels[shown.is_paired], shown.zero_shot[shown.is_paired])

    @property
    def scored(self) -> int:
        """Paired points with a truth."""
        return int(self.confusion.counts.sum())

    @property
    def commonest_ratio(self) -> float:
        """Accuracy of whoever says the commonest class of the truth everywhere."""
        return float(self.confusion.counts.sum(dim=1).max()) / max(self.scored, 1)


@dataclass
class Shown:
    """One combination of layers, on a few frames.

    Attributes:
        layers: Its masks, pairs and features layers, as far as there are.
        taxonomy: Of truth and zero-shot labels.
        frames: Read.
        counts: Over them.
        total: Frames of the folder.
        notes: What is missing, as sentences.
    """

    layers: list[Layer]
    taxonomy: Taxonomy
    counts: Counts
    total: int
    frames: list[FrameEvidence] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def read_evidence(prepared: str, num_frames: int) -> tuple[list[Shown], list[str]]:
    """Every combination of layers of a prepared folder on a few of its frames, and what is missing, as sentences.

    Args:
        prepared: Folder or URI.
        num_frames: How many; evenly spaced over the labelled ones where there are labels.
    """
    folder = storage.absolute(prepared)
    try:
        filesystem, path = storage.resolve(folder)
        catalog = read_catalog(filesystem, path)
        taxonomy = _taxonomy(folder, catalog.dataset[0])
        found = combinations(filesystem, path)
    except LidarSegError as error:
        return [], [str(error)]
    if not found:
        return [], [
            f"{folder} has no layers, so there is nothing to show of image teachers: write some with `ray-lidarseg "
            f"prepare INDEX --out {prepared} --masks slic --features clip`"
        ]
    problems: list[str] = []
    shown = []
    for combination in found:
        try:
            shown.append(_shown(filesystem, path, catalog, taxonomy, combination, num_frames))
        except LidarSegError as error:
            problems.append(f"{combination.features or combination.masks} cannot be shown: {error}")
    return shown, problems


def combinations(filesystem: fs.FileSystem, folder: str) -> list[Combination]:
    """Layers that belong together: each features layer with each pairs layer of the same masks; masks alone, too.

    Raises:
        DataError: A layer's description cannot be read.
    """
    layers = {name: read_layer(filesystem, folder, name) for name in layer_names(filesystem, folder)}

    def on(kind: str, masks: str) -> list[str]:
        return [name for name, layer in layers.items() if layer.kind == kind and masks in layer.reads] or [""]

    return [
        Combination(masks, pairs, features)
        for masks, layer in layers.items()
        if layer.kind == "masks"
        for features in on("features", masks)
        for pairs in on("pairs", masks)
    ]


def _taxonomy(folder: str, dataset: str) -> Taxonomy:
    return dataset_named(dataset, ontology_files.of_prepared(folder)).taxonomy


def _shown(
    filesystem: fs.FileSystem, folder: str, catalog: Catalog, taxonomy: Taxonomy, names: Combination, num_frames: int
) -> Shown:
    layers = [read_layer(filesystem, folder, name) for name in (names.masks, names.pairs, names.features) if name]
    shown = Shown(layers, taxonomy, Counts(Confusion(taxonomy.num_classes)), len(catalog))
    layer_rows = _LayersOfAFrame(filesystem, folder, catalog, names)
    shown.notes += layer_rows.gaps()
    for index in _chosen(catalog, layer_rows.has, num_frames):
        evidence = layer_rows.read(index, shown.notes)
        shown.frames.append(evidence)
        shown.counts.add(evidence)
    if not shown.frames:
        shown.notes.append(f"{names.masks} holds no frame yet: run the same `ray-lidarseg prepare` again")
    elif not shown.counts.images:
        shown.notes.append("the frames shown have no cameras: index the data set with its images")
    elif not shown.counts.scored:
        shown.notes.append("no zero-shot score: the frames shown have no paired point with both a truth and words")
    return shown


def _chosen(catalog: Catalog, has: Callable[[str], bool], num_frames: int) -> list[int]:
    """Evenly spaced frames of those the masks layer holds; labelled ones where there are any."""
    there = [index for index, name in enumerate(catalog.frame_id) if has(name)]
    there = [index for index in there if catalog.is_labelled[index]] or there
    stride = max(1, len(there) // num_frames)
    return there[::stride][:num_frames]


class _LayersOfAFrame:
    """Rows of the layers of one combination, by the position of a frame in the catalog."""

    def __init__(self, filesystem: fs.FileSystem, folder: str, catalog: Catalog, names: Combination):
        self._catalog = catalog
        self._names = names
        self._frames = PreparedFrames(filesystem, folder, catalog)
        self._masks = LayerRows(filesystem, folder, names.masks)
        self._pairs = LayerRows(filesystem, folder, names.pairs) if names.pairs else None
        both = f"{names.features}/{names.pairs}"
        is_whole = bool(names.features and names.pairs)
        self._evidence = EvidenceReader(filesystem, folder, catalog, both) if is_whole else None
        self.has = self._masks.__contains__

    def gaps(self) -> list[str]:
        """What the combination lacks."""
        if self._evidence is None:
            return [
                f"{self._names.masks} has no features layer: no feature colours, no zero-shot labels; add `--features "
                "clip` to its `ray-lidarseg prepare`"
            ]
        missing = self._evidence.num_missing
        gaps = (
            [f"the teachers were not shown, or failed on, {missing} of {len(self._catalog)} frames"] if missing else []
        )
        if self._evidence.text is None:
            gaps.append(f"{self._names.features} has no words (its teacher has no text tower): no zero-shot labels")
        return gaps

    def read(self, index: int, notes: list[str]) -> FrameEvidence:
        """Everything of one frame; images that are gone leave a note."""
        frame = self._frames[index]
        camera, pixel, segment = self._pairing(frame)
        features: tuple[np.ndarray, ...] = ()
        is_paired = (camera >= 0) & (segment > 0)
        zero_shot = np.zeros(0, np.uint8)
        if self._evidence is not None:
            evidence = self._evidence.evidence(index)
            features = evidence.segment_features
            text = self._evidence.text
            row = evidence.image_segment()
            is_paired = row > 0
            logits = None if text is None else evidence.segments(text, [LANGUAGE_LOGITS])[LANGUAGE_LOGITS][row]
            zero_shot = _nearest_class(logits, is_paired)
        images = tuple(self._images(frame, features, notes))
        return FrameEvidence(frame, images, camera, pixel, segment, is_paired, zero_shot)

    def _pairing(self, frame: Keyframe) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        if self._pairs is None or frame.frame_id not in self._pairs:
            nobody = np.full((len(frame.points), 2), -1, np.int16)
            return nobody[:, 0].astype(np.int8), nobody, np.zeros(len(frame.points), np.uint16)
        row = self._pairs.row(frame.frame_id)
        camera = np.frombuffer(row["point_camera"], np.int8)
        segment = np.frombuffer(row["point_segment"], np.uint16)
        if len(camera) != len(frame.points):
            raise DataError(f"frame {frame.frame_id} has {len(frame.points)} points, its pairs are of {len(camera)}")
        return camera, np.frombuffer(row["point_pixel"], np.int16).reshape(-1, 2), segment

    def _images(self, frame: Keyframe, features: tuple[np.ndarray, ...], notes: list[str]) -> Iterator[CameraEvidence]:
        row = self._masks.row(frame.frame_id)
        names = [camera.name for camera in frame.cameras]
        if cameras_of(row) != names:
            raise DataError(f"frame {frame.frame_id} has the cameras {names}, its masks are of {cameras_of(row)}")
        of_camera = dict(zip(names, features, strict=True)) if features else {}
        nothing = np.zeros((0, features[0].shape[1] if features else 0), np.float16)
        for position in sorted(range(len(names)), key=lambda position: "FRONT" not in names[position]):
            camera = frame.cameras[position]
            segments = segments_of(row, camera.name)
            photo = _photo(camera, notes)
            photo = blank_photo(segments, PHOTO_WIDTH_PX) if photo is None else photo
            yield CameraEvidence(camera, position, photo, segments, of_camera.get(camera.name, nothing))


def _photo(camera: CameraImage, notes: list[str]) -> np.ndarray | None:
    try:
        return read_photo(camera.image or storage.read_bytes(camera.uri), PHOTO_WIDTH_PX)
    except (LidarSegError, OSError) as error:
        notes.append(f"{camera.name} is drawn on white: {error}")
        return None


def _nearest_class(logits: np.ndarray | None, is_paired: np.ndarray) -> np.ndarray:
    if logits is None:
        return np.zeros(0, np.uint8)
    return np.where(is_paired, logits.argmax(axis=1), IGNORE).astype(np.uint8)
