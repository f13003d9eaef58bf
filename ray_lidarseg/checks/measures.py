"""What one key-frame says about itself: small numbers that checks compare with the sensor and with other frames."""

from dataclasses import dataclass, field, replace

import numpy as np
from PIL import Image

from ray_lidarseg import storage
from ray_lidarseg.checks.camera_alignment import DepthEdges, depth_edges, rearranged_scores, scores
from ray_lidarseg.checks.class_heights import ClassHeights, class_heights
from ray_lidarseg.checks.label_edges import LabelEdges, label_edges
from ray_lidarseg.checks.sensor_origin import Origin, find_origin
from ray_lidarseg.checks.upright import Upright, upright
from ray_lidarseg.datasets.image_files import read_picture
from ray_lidarseg.datasets.points import num_nonfinite, usable
from ray_lidarseg.errors import DataError, LidarSegError
from ray_lidarseg.geometry.camera import project
from ray_lidarseg.geometry.pose import require_rigid
from ray_lidarseg.sample import CameraImage, Keyframe, SensorSpec
from ray_lidarseg.types import IGNORE

_TAIL_PERCENT = 0.5
_FOV_TOLERANCE_RAD = np.radians(1.0)  # ours; nuScenes' highest ring is 0.7 degrees above the published field of view
_MAX_STEP_RAD = 0.15  # ours: neighbours in file order; an OS1's lasers are up to 0.11 apart
_MIN_TURNS = 1.5
_MIN_COLUMNS, _FULL_PERCENT = 100, 95


@dataclass(frozen=True)
class CameraMeasures:
    """One camera of one frame.

    Attributes:
        name: Channel.
        offset_us: Camera minus LiDAR time.
        problem: Why the image cannot be read, or ``""``.
        calibration_problem: Why the calibration is none, or ``""``.
        intrinsics: [3, 3].
        cam_R_lidar: [3, 3] rotation.
        lever_arm_m: Distance of the camera from the LiDAR.
        stated_px: Width and height of the index.
        actual_px: Width and height of the file; 0, 0 where it cannot be read.
        inside_ratio: Share of the usable points in the picture.
        scores: See ``alignment.scores``; None where not computed.
        rearranged: See ``alignment.rearranged_scores``; None likewise.
    """

    name: str
    offset_us: int
    problem: str
    calibration_problem: str
    intrinsics: np.ndarray
    cam_R_lidar: np.ndarray
    lever_arm_m: float
    stated_px: tuple[int, int]
    actual_px: tuple[int, int]
    inside_ratio: float = 0.0
    scores: np.ndarray | None = None
    rearranged: np.ndarray | None = None


@dataclass(frozen=True)
class FrameMeasures:
    """One frame; where no point is usable, only the counts mean something.

    Attributes:
        frame_id: Which.
        num_points: Points of the file.
        num_usable: Of finite position, beyond the minimum range.
        nonfinite_ratio: Share of points with a NaN or an infinity.
        near_ratio: Share of the finite points nearer than the minimum range.
        range_p99_m: 99 % of the usable points are nearer.
        beyond_ratio: Share of the usable points beyond the maximum range.
        inclination_rad: Robust lowest and highest.
        outside_fov_ratio: Share of the usable points more than a degree outside the field of view.
        num_beams: Estimate, NaN where the file's order does not tell.
        origin: Where the sensor stood.
        upright: The vertical and the ground.
        intensity: 1st and 99th percentile and standard deviation.
        intensity_missing_ratio: Share of the usable points without a finite one.
        intensity_outside_ratio: Share of the usable points whose intensity, before any clipping, is outside [0, 1].
        intensity_end_ratio: Share at 0 … 1's upper end, where those beyond it lie once they are clipped.
        num_labels: Labels of the frame, 0 where it has none.
        label_counts: int64 [256] by class id.
        label_edges: Where the classes of neighbours change; no pairs where there are no labels, or not one a point.
        class_heights: Points of each class, and those near the ground.
        covered_ratio: Share of the usable points in any picture.
        cameras: Its cameras.
    """

    frame_id: str
    num_points: int
    num_usable: int
    nonfinite_ratio: float
    near_ratio: float
    range_p99_m: float = float("nan")
    beyond_ratio: float = 0.0
    inclination_rad: tuple[float, float] = (float("nan"), float("nan"))
    outside_fov_ratio: float = 0.0
    num_beams: float = float("nan")
    origin: Origin | None = None
    upright: Upright | None = None
    intensity: tuple[float, float, float] = (0.0, 0.0, 0.0)
    intensity_missing_ratio: float = 0.0
    intensity_outside_ratio: float = 0.0
    intensity_end_ratio: float = 0.0
    num_labels: int = 0
    label_counts: np.ndarray = field(default_factory=lambda: np.zeros(256, np.int64))
    label_edges: LabelEdges = field(default_factory=LabelEdges)
    class_heights: ClassHeights = field(default_factory=ClassHeights)
    covered_ratio: float = 0.0
    cameras: tuple[CameraMeasures, ...] = ()


def measure(frame: Keyframe, sensor: SensorSpec) -> FrameMeasures:
    """Measures a decoded key-frame.

    Args:
        frame: Points decoded; images by URI or as bytes. One that cannot be read becomes that camera's problem.
        sensor: What the LiDAR should be.
    """
    points = frame.points
    is_usable = usable(points, sensor, use_intensity=False)  # an intensity that is missing says nothing about the rest
    num_points, num_placed = len(points), int(np.isfinite(points[:, :3]).all(axis=1).sum())
    measured = FrameMeasures(
        frame_id=frame.frame_id,
        num_points=num_points,
        num_usable=int(is_usable.sum()),
        nonfinite_ratio=num_nonfinite(points) / max(num_points, 1),
        near_ratio=(num_placed - int(is_usable.sum())) / max(num_placed, 1),
        num_labels=len(frame.labels),
        label_counts=np.bincount(frame.labels, minlength=256),
    )
    if not is_usable.any():
        return measured
    seen = points[is_usable]
    ground = upright(seen)
    labels = frame.labels[is_usable] if len(frame.labels) == num_points else np.full(len(seen), IGNORE)
    cameras, covered_ratio = _cameras(frame, seen, sensor)
    return replace(
        _with_extent(measured, seen, sensor),
        num_beams=_num_beams(frame, seen),
        origin=find_origin(seen),
        upright=ground,
        intensity=_intensity(seen[:, 3]),
        intensity_missing_ratio=float((~np.isfinite(seen[:, 3])).mean()),
        intensity_outside_ratio=float(((seen[:, 3] < 0.0) | (seen[:, 3] > 1.0)).mean()),
        intensity_end_ratio=float((seen[:, 3] == 1.0).mean()),
        label_edges=label_edges(seen, labels),
        class_heights=class_heights(seen, labels, ground),
        covered_ratio=covered_ratio,
        cameras=cameras,
    )


def _intensity(intensity: np.ndarray) -> tuple[float, float, float]:
    known = intensity[np.isfinite(intensity)]
    if not len(known):
        return 0.0, 0.0, 0.0
    low, high = np.percentile(known, (1, 99))
    return float(low), float(high), float(known.std())


def _with_extent(measured: FrameMeasures, points: np.ndarray, sensor: SensorSpec) -> FrameMeasures:
    range_m = np.linalg.norm(points[:, :3].astype(np.float64), axis=1)
    inclination = np.arcsin(np.clip(points[:, 2] / range_m, -1.0, 1.0))
    low, high = np.percentile(inclination, (_TAIL_PERCENT, 100 - _TAIL_PERCENT))
    outside = (inclination < sensor.fov_down_rad - _FOV_TOLERANCE_RAD) | (
        inclination > sensor.fov_up_rad + _FOV_TOLERANCE_RAD
    )
    return replace(
        measured,
        range_p99_m=float(np.percentile(range_m, 99)),
        beyond_ratio=float((range_m > sensor.max_range_m).mean()),
        inclination_rad=(float(low), float(high)),
        outside_fov_ratio=float(outside.mean()),
    )


def _num_beams(frame: Keyframe, points: np.ndarray) -> float:
    """The ring column's channels; else the turns of a file that stores one ring after the other; else points a column.

    Measured: KITTI and SemanticKITTI files, 64 beams, turn 63.9 times in all; columns of an Ouster OS1-64 hold up to
    64 returns, whose azimuths differ by 6 degrees, so that counting jumps at the back would count too many turns.

    Args:
        frame: Gives the ring column.
        points: [P, 4] usable points in file order: what did not come back lies nowhere.
    """
    if len(frame.ring):
        return float(len(np.unique(frame.ring)))
    azimuth = np.arctan2(points[:, 1], points[:, 0]).astype(np.float64)
    step = (np.diff(azimuth) + np.pi) % (2 * np.pi) - np.pi
    if not len(step) or np.median(np.abs(step)) > _MAX_STEP_RAD:
        return float("nan")
    turns = abs(float(step.sum())) / (2 * np.pi)
    return round(turns) if turns >= _MIN_TURNS else _column_length(points)


def _column_length(points: np.ndarray) -> float:
    """Returns of the fullest columns, where each starts with a jump of the inclination; NaN where none do."""
    inclination = np.arctan2(points[:, 2], np.hypot(points[:, 0], points[:, 1]))
    half_span = float(np.ptp(np.percentile(inclination, (1, 99)))) / 2
    steps = np.diff(inclination)
    starts = max((np.flatnonzero(sign * steps > half_span) for sign in (1, -1)), key=len)
    return float(np.percentile(np.diff(starts), _FULL_PERCENT)) if len(starts) >= _MIN_COLUMNS else float("nan")


def _cameras(frame: Keyframe, points: np.ndarray, sensor: SensorSpec) -> tuple[tuple[CameraMeasures, ...], float]:
    if not frame.cameras:
        return (), 0.0
    edges = depth_edges(points, sensor)
    covered = np.zeros(len(points), bool)
    measured = tuple(_camera(frame, camera, points, edges, covered) for camera in frame.cameras)
    return measured, float(covered.mean())


def _camera(
    frame: Keyframe,
    camera: CameraImage,
    points: np.ndarray,
    edges: DepthEdges,
    covered: np.ndarray,
) -> CameraMeasures:
    image, problem = _image(camera)
    measured = CameraMeasures(
        name=camera.name,
        offset_us=camera.timestamp_us - frame.timestamp_us,
        problem=problem,
        calibration_problem=_calibration_problem(camera),
        intrinsics=camera.intrinsics,
        cam_R_lidar=camera.cam_SE3_lidar[:3, :3],
        lever_arm_m=float(np.linalg.norm(camera.cam_SE3_lidar[:3, 3])),
        stated_px=(camera.width_px, camera.height_px),
        actual_px=image.size if image else (0, 0),
    )
    if measured.calibration_problem:
        return measured
    inside = project(points, camera.cam_SE3_lidar, camera.intrinsics, camera.width_px, camera.height_px).is_inside
    covered |= inside
    measured = replace(measured, inside_ratio=float(inside.mean()))
    if image is None or measured.actual_px != measured.stated_px:
        return measured
    return replace(
        measured,
        scores=scores(points, edges, camera, image),
        rearranged=rearranged_scores(points, edges, camera, image),
    )


def _image(camera: CameraImage) -> tuple[Image.Image | None, str]:
    """The decoded image, or why there is none; truncated files only show when all of it is decoded."""
    try:
        content = camera.image or storage.read_bytes(camera.uri)
        return read_picture(content, camera.uri or camera.name).convert("L"), ""
    except LidarSegError as error:
        return None, str(error)


def _calibration_problem(camera: CameraImage) -> str:
    try:
        require_rigid(camera.cam_SE3_lidar, f"cam_SE3_lidar of {camera.name}")
    except DataError as error:
        return str(error)
    intrinsics = camera.intrinsics
    if not np.isfinite(intrinsics).all() or intrinsics[0, 0] <= 0 or intrinsics[1, 1] <= 0:
        return f"intrinsics of {camera.name}: expected positive focal lengths, got {intrinsics.tolist()}"
    if not np.allclose(intrinsics[2], [0.0, 0.0, 1.0]):
        return f"intrinsics of {camera.name}: expected a last row 0, 0, 1, got {intrinsics[2].tolist()}"
    return ""
