"""What travels: one key-frame (a row everywhere) and one batch of packed scans (what every method sees).

A ``Keyframe`` is one row of the index, of a prepared shard and of a Ray Data block: flat Arrow columns, never Python
objects, empty bytes instead of null (a null can turn a whole Ray block into pickles). A ``PointBatch`` is what
training, evaluation and prediction step on: B scans packed one after the other, not padded. A ``RayBatch`` travels with
it where a method asks for rays. The two batches lie in ``batches`` and come from here when they are asked for, as
who works with key-frames alone should not wait for torch.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from ray_lidarseg.batches import PointBatch, RayBatch, join  # noqa: F401

SCHEMA_VERSION = 1
"""Version of the Keyframe columns; every writer records it, every reader checks it."""

_CAMERA_FIELDS = ("uri", "image", "intrinsics", "cam_SE3_lidar", "timestamp_us", "width", "height")


@dataclass(frozen=True)
class SensorSpec:
    """A LiDAR's geometry in the sensor frame (x, y horizontal, z up).

    Attributes:
        num_beams: Number of laser channels.
        fov_up_rad: Highest inclination, radians above the horizon.
        fov_down_rad: Lowest inclination, radians above the horizon (negative: below).
        min_range_m: Nearer returns hit the ego vehicle or are no returns at all; they are not trained on.
        max_range_m: Farthest range the representation covers.
        intensity_scale: Raw intensity times this is in [0, 1].
        height_m: Stated height above the ground; None: not stated.
    """

    num_beams: int
    fov_up_rad: float
    fov_down_rad: float
    min_range_m: float
    max_range_m: float
    intensity_scale: float
    height_m: float | None = None


@dataclass(frozen=True)
class ImageSensor(SensorSpec):
    """The pseudo camera of images, whose pixels are points (``datasets.image_scans``): a row is a beam.

    Attributes:
        width_px: Columns of the image.
    """

    width_px: int = field(kw_only=True)

    @property
    def height_px(self) -> int:
        """Rows of the image."""
        return self.num_beams


@dataclass(frozen=True)
class CameraImage:
    """One camera image of a key-frame, by URI or as the encoded bytes it came in.

    Attributes:
        name: Channel, for example ``CAM_FRONT`` or ``image_2``.
        uri: Where the JPEG or PNG lies.
        image: The encoded file, or ``b""`` where only the URI travels.
        intrinsics: float64 [3, 3], pixels.
        cam_SE3_lidar: float64 [4, 4], LiDAR to camera, ego-motion compensated through both ego poses.
        timestamp_us: Exposure time, microseconds.
        width_px: Image width.
        height_px: Image height.
    """

    name: str
    uri: str
    intrinsics: np.ndarray
    cam_SE3_lidar: np.ndarray
    timestamp_us: int
    width_px: int
    height_px: int
    image: bytes = b""


def _no_points() -> np.ndarray:
    return np.zeros((0, 4), np.float32)


def _no_bytes() -> np.ndarray:
    return np.zeros(0, np.uint8)


@dataclass(frozen=True)
class Keyframe:
    """One LiDAR key-frame with its cameras; in the index by URI, in a prepared shard with its points decoded.

    Attributes:
        frame_id: Unique within the data set: nuScenes sample-data token, or ``08/000123``.
        dataset: Name of the taxonomy and file format: ``nuscenes`` or ``semantickitti``.
        scene: Drive the frame belongs to.
        split: ``train``, ``val`` or ``test``.
        timestamp_us: LiDAR time, microseconds.
        points_uri: Where the scan lies.
        labels_uri: Where its labels lie, ``""`` where there are none.
        points: float32 [P, 4]: x, y, z in metres in the sensor frame, intensity in [0, 1]. All points of the file, in
            file order; [0, 4] before decoding.
        labels: uint8 [P] class ids, IGNORE where unknown; [0] where the frame has no labels or is not decoded.
        ring: uint8 [P] laser channel where the format stores one, else [0].
        cameras: Images with calibration.
        alias: What public lists call the frame where that is not its id: nuScenes sample token; else ``""``.
    """

    frame_id: str
    dataset: str
    scene: str
    split: str
    timestamp_us: int
    points_uri: str
    labels_uri: str = ""
    points: np.ndarray = field(default_factory=_no_points)
    labels: np.ndarray = field(default_factory=_no_bytes)
    ring: np.ndarray = field(default_factory=_no_bytes)
    cameras: tuple[CameraImage, ...] = ()
    alias: str = ""

    def to_row(self) -> dict[str, Any]:
        """Flat Arrow columns: scalars, bytes, and fixed-length float lists; a camera's columns are ``NAME.field``."""
        row: dict[str, Any] = {
            "frame_id": self.frame_id,
            "dataset": self.dataset,
            "scene": self.scene,
            "split": self.split,
            "timestamp_us": self.timestamp_us,
            "points_uri": self.points_uri,
            "labels_uri": self.labels_uri,
            "points": np.ascontiguousarray(self.points, np.float32).tobytes(),
            "num_points": len(self.points),
            "num_columns": self.points.shape[1],
            "labels": np.ascontiguousarray(self.labels, np.uint8).tobytes(),
            "ring": np.ascontiguousarray(self.ring, np.uint8).tobytes(),
            "alias": self.alias,
        }
        for camera in self.cameras:
            values = (
                camera.uri,
                camera.image,
                np.asarray(camera.intrinsics, np.float64).reshape(9).tolist(),
                np.asarray(camera.cam_SE3_lidar, np.float64).reshape(16).tolist(),
                camera.timestamp_us,
                camera.width_px,
                camera.height_px,
            )
            row.update({f"{camera.name}.{name}": value for name, value in zip(_CAMERA_FIELDS, values, strict=True)})
        return row

    @staticmethod
    def from_row(row: Mapping[str, Any]) -> "Keyframe":
        """The inverse of ``to_row``; a camera whose uri and image are both empty is absent from this frame."""
        names = sorted(key.removesuffix(".cam_SE3_lidar") for key in row if key.endswith(".cam_SE3_lidar"))
        cameras = tuple(
            CameraImage(
                name=name,
                uri=row[f"{name}.uri"],
                image=bytes(row[f"{name}.image"]),
                intrinsics=np.asarray(row[f"{name}.intrinsics"], np.float64).reshape(3, 3),
                cam_SE3_lidar=np.asarray(row[f"{name}.cam_SE3_lidar"], np.float64).reshape(4, 4),
                timestamp_us=int(row[f"{name}.timestamp_us"]),
                width_px=int(row[f"{name}.width"]),
                height_px=int(row[f"{name}.height"]),
            )
            for name in names
            if row[f"{name}.uri"] or row[f"{name}.image"]
        )
        return Keyframe(
            frame_id=row["frame_id"],
            dataset=row["dataset"],
            scene=row["scene"],
            split=row["split"],
            timestamp_us=int(row["timestamp_us"]),
            points_uri=row["points_uri"],
            labels_uri=row["labels_uri"],
            points=np.frombuffer(row["points"], np.float32).reshape(-1, int(row["num_columns"])),
            labels=np.frombuffer(row["labels"], np.uint8),
            ring=np.frombuffer(row["ring"], np.uint8),
            cameras=cameras,
            alias=row.get("alias", ""),  # a column that folders of earlier releases lack
        )


def __getattr__(name: str) -> Any:
    """The batches, and torch with them."""
    if name not in ("PointBatch", "RayBatch", "join"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from ray_lidarseg import batches

    return getattr(batches, name)
