"""Own logs: one manifest lists the key-frames, one ontology file says what is in them. No code to write.

The manifest is JSONL (one JSON object a line) or Parquet (one row) with one record per LiDAR key-frame:

================ ======= ===============================================================================================
column           type    meaning
================ ======= ===============================================================================================
frame_id         string  unique within the manifest
scene            string  drive the frame belongs to; label splits keep drives apart
split            string  train, val or test
timestamp_us     int     LiDAR time, microseconds
points           string  the scan: a path relative to the manifest, an absolute path, or a URI (``s3://…``)
point_format     string  optional; bin4, bin5, bin6, npy, pcd or parquet (``point_files.py``); else from the extension
labels           string  optional; path or URI of one raw id per point in file order, or ``#NAME``: that column of the
                         point file (pcd, parquet, structured npy)
label_format     string  optional; uint8, uint16, uint32 or npy; else from the extension
cameras          mapping optional; image name → camera
================ ======= ===============================================================================================

Label files are ``.npy`` (integers [P]), or plain little-endian unsigned integers: of four bytes a point in ``.label``
(SemanticKITTI), of one in ``.bin`` (nuScenes-lidarseg), of what ``label_format`` says in any other. The width is never
guessed from the number of points. Of ids of 32 bits and more, in any container and signed or not, the low 16 bits are
the class (SemanticKITTI keeps the instance in the others); -1 of a signed type is a point without label. A null of an
optional column means that it is absent.

A camera is a mapping:

================ ======= ===============================================================================================
image            string  JPEG or PNG: path or URI as for ``points``
intrinsics       9 float pin-hole matrix of the undistorted image, row by row, pixels
width, height    int     pixels
timestamp_us     int     exposure, microseconds
cam_SE3_lidar    16      LiDAR to camera (x right, y down, z forward), row by row; ego-motion between sweep and exposure
                         already compensated
================ ======= ===============================================================================================

Instead of ``cam_SE3_lidar`` a camera may give the chain it is made of, 16 numbers each: ``ego_SE3_lidar``,
``global_SE3_lidar_ego`` (vehicle at ``timestamp_us`` of the sweep), ``global_SE3_camera_ego`` (vehicle at the exposure)
and ``ego_SE3_cam``. ``dst_SE3_src`` takes points of ``src`` to ``dst``. Nested lists are fine, too.

``cam_SE3_lidar`` refers to the axes of the point file; scans and matrices are turned to x forward, y left, z up
together when they are read (``ontology.py``).
"""

from dataclasses import replace

import numpy as np

from ray_lidarseg import storage
from ray_lidarseg.datasets.file_formats import split_format
from ray_lidarseg.datasets.float_rows import refuse_foreign, refuse_other_columns
from ray_lidarseg.datasets.manifest_records import FrameRecord, frame_of, records
from ray_lidarseg.datasets.ontology_taxonomy import (
    GROUND_WORDS,
    PLACE_WORDS,
    STANDING_WORDS,
    VEHICLE_WORDS,
    named,
    sensor,
    taxonomy,
)
from ray_lidarseg.datasets.point_files import (
    FORMATS,
    Columns,
    column,
    format_of,
    read_columns,
)
from ray_lidarseg.datasets.spec import DatasetSpec, IndexOptions, OpenDataset
from ray_lidarseg.datasets.stored_labels import UNLABELLED, classes_of, label_format_of, stored_ids
from ray_lidarseg.errors import DataError, StorageError
from ray_lidarseg.recipe.bad_input import shown
from ray_lidarseg.recipe.ontology import Ontology
from ray_lidarseg.sample import CameraImage, Keyframe
from ray_lidarseg.types import IGNORE

NAME = "manifest"
_SHOWN_PROBLEMS = 5


def index(content: bytes, uri: str, ontology: Ontology) -> list[Keyframe]:
    """Lists the key-frames of a manifest, by URI; no scan is opened.

    Args:
        content: The manifest's bytes.
        uri: Where it lies: says JSONL or Parquet, and what relative paths refer to.
        ontology: Says what the axes of scans and calibrations are.

    Raises:
        DataError: A missing or unknown column (the nearest is named), a wrong type, a null, an unknown split, a
            repeated frame id, or a calibration that is not rigid; the first few records are named.
    """
    frames: list[Keyframe] = []
    problems: list[str] = []
    places: dict[str, str] = {}
    for place, record in records(content, uri):
        try:
            frame = _keyframe(frame_of(record), uri, ontology)
        except DataError as error:
            problems.append(f"  {place}: {error}")
            continue
        if frame.frame_id in places:
            problems.append(f"  {place}: frame_id {frame.frame_id!r} is already used by {places[frame.frame_id]}")
        places[frame.frame_id] = place
        frames.append(frame)
    if problems:
        raise DataError("\n".join([f"{uri}: {len(problems)} records do not fit:", *problems[:_SHOWN_PROBLEMS]]))
    return frames


def decode(frame: Keyframe, ontology: Ontology) -> Keyframe:
    """Reads a key-frame's scan and labels: x forward, y left, z up in metres, intensity (0 without one) scaled.

    Intensities beyond the ontology's range stay beyond 0 … 1, so that checks can tell; ``datasets.decode`` clips them.

    Raises:
        DataError: A file is empty, truncated or corrupt, has no intensity although the ontology gives its range, its
            labels do not fit its points, or an id is not in the ontology. The message names the file.
        StorageError: A file is missing or cannot be read.
    """
    uri, columns = _read_columns(frame)
    points = np.empty((len(columns["x"]), 4), np.float32)
    with np.errstate(over="ignore", invalid="ignore"):  # of garbage, which has an error of its own
        for row, (axis, sign) in enumerate(_turned_axes(ontology)):
            points[:, row] = columns["xyz"[axis]] * np.float32(sign)
    points[:, 3] = _intensity(columns, ontology, uri)
    labels = _labels(frame, columns, ontology) if frame.labels_uri else frame.labels
    return replace(frame, points=points, labels=labels, ring=_ring(columns, uri))


def raw_labels(frame: Keyframe) -> np.ndarray:
    """Semantic ids [P] of a frame's labels, whether the ontology knows them or not; -1 where a point has none.

    Raises:
        DataError: A file is empty, truncated or corrupt, or its labels do not fit its points.
        StorageError: A file is missing or cannot be read.
    """
    _, raw, is_unlabelled = stored_ids(frame, _read_columns(frame)[1])
    return np.where(is_unlabelled, UNLABELLED, classes_of(raw).astype(np.int64))


def _read_columns(frame: Keyframe) -> tuple[str, Columns]:
    uri, stated = split_format(frame.points_uri, FORMATS)
    content, point_format = storage.read_bytes(uri), stated or format_of(uri)
    if content and point_format.startswith("bin"):
        refuse_foreign(content, int(point_format[3:]), uri)
        if not stated:
            refuse_other_columns(content, int(point_format[3:]), uri)
    return uri, read_columns(content, point_format, uri)


def _keyframe(frame: FrameRecord, manifest_uri: str, ontology: Ontology) -> Keyframe:
    points_uri = _resolve(frame.points, manifest_uri)
    if frame.point_format is None:
        format_of(points_uri)
    return Keyframe(
        frame_id=frame.frame_id,
        dataset=NAME,
        scene=frame.scene,
        split=frame.split,
        timestamp_us=frame.timestamp_us,
        points_uri=f"{points_uri}#{frame.point_format}" if frame.point_format else points_uri,
        labels_uri=_labels_uri(frame, manifest_uri),
        cameras=tuple(_camera(name, frame, manifest_uri, ontology) for name in sorted(frame.cameras)),
    )


def _labels_uri(frame: FrameRecord, manifest_uri: str) -> str:
    if not frame.labels or frame.labels.startswith("#"):
        if frame.label_format:
            raise DataError(f"frame {shown(frame.frame_id)}: label_format is for label files: leave it out")
        return frame.labels
    uri = _resolve(frame.labels, manifest_uri)
    if frame.label_format:
        return f"{uri}#{frame.label_format}"
    label_format_of(uri)
    return uri


def _camera(name: str, frame: FrameRecord, manifest_uri: str, ontology: Ontology) -> CameraImage:
    camera = frame.cameras[name]
    file_SE3_inside = np.eye(4)
    file_SE3_inside[:3, :3] = np.array(ontology.sensor.rotation).T
    try:
        cam_SE3_lidar = camera.to_camera_pose() @ file_SE3_inside
    except DataError as error:
        raise DataError(f"frame {frame.frame_id!r}, camera {name!r}: {error}") from error
    return CameraImage(
        name=name,
        uri=_resolve(camera.image, manifest_uri),
        intrinsics=np.array(camera.intrinsics, np.float64).reshape(3, 3),
        cam_SE3_lidar=cam_SE3_lidar,
        timestamp_us=camera.timestamp_us,
        width_px=camera.width,
        height_px=camera.height,
    )


def _resolve(path: str, manifest_uri: str) -> str:
    try:
        return storage.beside(manifest_uri, path) if path else ""
    except StorageError as error:
        raise DataError(str(error)) from error


def _turned_axes(ontology: Ontology) -> list[tuple[int, float]]:
    """Which column of the file, with which sign, is x, y and z inside: exact, and a NaN stays in its own coordinate."""
    return [next((axis, sign) for axis, sign in enumerate(row) if sign) for row in ontology.sensor.rotation]


def _intensity(columns: Columns, ontology: Ontology, uri: str) -> np.ndarray | float:
    if ontology.sensor.intensity == "none":
        return 0.0
    values = column(columns, "intensity")
    if values is None:
        raise DataError(
            f"{uri} has no intensity column, it has {', '.join(columns)}: set sensor.intensity to none in the ontology"
        )
    low, high = ontology.sensor.intensity
    with np.errstate(over="ignore", invalid="ignore"):  # of garbage, which has an error of its own
        return (values.astype(np.float32) - np.float32(low)) / np.float32(high - low)


def _ring(columns: Columns, uri: str) -> np.ndarray:
    values = column(columns, "ring")
    if values is None:
        return np.zeros(0, np.uint8)
    ring = np.nan_to_num(values.astype(np.float64), nan=0.0, posinf=-1.0, neginf=-1.0)
    is_channel = (ring >= 0) & (ring <= np.iinfo(np.uint8).max) & (ring == np.floor(ring))
    if not is_channel.all():
        raise DataError(
            f"{uri}: ring holds {ring[~is_channel][0]:g}, expected whole numbers 0 … 255; use another point_format "
            "or rename the column"
        )
    return ring.astype(np.uint8)


def _labels(frame: Keyframe, columns: Columns, ontology: Ontology) -> np.ndarray:
    place, raw, is_unlabelled = stored_ids(frame, columns)
    train = np.full(raw.shape, IGNORE, np.uint8)
    try:
        train[~is_unlabelled] = taxonomy(ontology).to_train(classes_of(raw[~is_unlabelled]))
    except DataError as error:
        raise DataError(f"{place}: {error}, or add them to a class or to ignore_raw_ids of the ontology") from error
    return train


def of_ontology(ontology: Ontology) -> DatasetSpec:
    """The data set that an ontology describes; its index takes the manifest's path or URI."""

    def listed(root: str, _: IndexOptions) -> list[Keyframe]:
        uri = storage.absolute(root)
        return index(storage.read_bytes(uri), uri, ontology)

    return DatasetSpec(
        name=NAME,
        taxonomy=taxonomy(ontology),
        sensor=sensor(ontology),
        index=listed,
        decode=lambda frame: decode(frame, ontology),
        raw_labels=raw_labels,
        words={entry.name: (entry.name, *entry.synonyms) for entry in ontology.classes},
        absent=ontology.absent_class,
        ground=named(ontology, GROUND_WORDS, STANDING_WORDS),
        vehicles=named(ontology, VEHICLE_WORDS, PLACE_WORDS),
    )


SPEC = OpenDataset(name=NAME, with_ontology=of_ontology)
