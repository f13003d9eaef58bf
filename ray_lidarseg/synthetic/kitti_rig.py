"""The SemanticKITTI vehicle: one spinning LiDAR without a roof in its view, and the left colour camera."""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from ray_lidarseg.synthetic import mounting
from ray_lidarseg.synthetic.cameras import Picture, calibration_error, render
from ray_lidarseg.synthetic.kitti_classes import KITTI_OF_FINE, OUTLIER, PARKING, is_thing, moving
from ray_lidarseg.synthetic.presets import Preset
from ray_lidarseg.synthetic.raycast import GROUND, Hits, cast
from ray_lidarseg.synthetic.road import DRIVEABLE, Road, ground_distance
from ray_lidarseg.synthetic.scene import Scene
from ray_lidarseg.synthetic.seeds import generator
from ray_lidarseg.synthetic.shading import Light, Surfels, surfels
from ray_lidarseg.synthetic.views import SpinningView

POSITION_M = (0.95, 0.0, 1.73)
"""LiDAR in the ego frame; its axes are forward, left, up. Height as in KITTI, the place on the roof is ours."""

_LIDAR_T_CAM0_M = (0.27, 0.0, -0.08)  # KITTI's sensor setup
_FOCAL_PX, _CENTRE_PX, _FULL_SIZE = 718.856, (607.193, 185.216), (1242, 376)  # calibration of KITTI odometry 00
_BASELINE_M = {0: 0.0, 1: -0.537, 2: 0.063, 3: -0.469}  # t_x of P = K [I | t], the same calibration
_CAMERA = 2

_TURN_S = 0.1
_MAX_RANGE_M = 80.0
_RETURN_POWER = 0.008  # as on the nuScenes vehicle, data.md §4.3
_NOISE_RATIO = 0.0005  # ours; SemanticKITTI calls less than 0.1 % outliers
_REMISSION_SCALE = 0.9  # of the square root of the power: means by class as in data.md §2.1
_SENSOR, _IMAGE = 0, 1


@dataclass(frozen=True)
class KittiScan:
    """One turn in file order: ring by ring from the top, each counter-clockwise from straight ahead.

    Attributes:
        points: float32 [P, 4] x, y, z in the sensor frame, remission in [0, 1].
        labels: uint32 [P], raw id in the low, instance in the high 16 bits.
    """

    points: np.ndarray
    labels: np.ndarray


@dataclass(frozen=True)
class _Turn:
    """A raster of rings (from the lowest) and columns (counter-clockwise): [rings, columns, ...]."""

    direction: np.ndarray
    distance: np.ndarray
    power: np.ndarray
    labels: np.ndarray


def ego_SE3_lidar(scene: Scene) -> np.ndarray:  # noqa: N802
    """float64 [4, 4] mounting of the LiDAR with the scene's tilt and the preset's mounting."""
    return mounting.ego_SE3_lidar(scene, POSITION_M, yaw_rad=0.0)


def ego_SE3_cam0() -> np.ndarray:  # noqa: N802
    """float64 [4, 4] mounting of the rectified camera 0: x right, y down, z forward."""
    pose = np.eye(4)
    pose[:3, :3] = [[0, 0, 1], [-1, 0, 0], [0, -1, 0]]
    pose[:3, 3] = np.add(POSITION_M, _LIDAR_T_CAM0_M)
    return pose


def stated_cam0_SE3_lidar(scene: Scene) -> np.ndarray:  # noqa: N802
    """float64 [4, 4] ``Tr`` as the calibration file states it: off by the preset's calibration error."""
    stated = np.linalg.inv(ego_SE3_cam0()) @ ego_SE3_lidar(scene)
    if scene.preset.calibration_error_deg:
        stated[:3, :3] = calibration_error(scene, _IMAGE) @ stated[:3, :3]
    return stated


def projection(camera: int, image_size: tuple[int, int]) -> np.ndarray:
    """float64 [3, 4] ``P0`` … ``P3`` = K [I | t] for the image size; t_x of camera 2 is not zero."""
    x_ratio, y_ratio = image_size[0] / _FULL_SIZE[0], image_size[1] / _FULL_SIZE[1]
    matrix = np.array([
        [_FOCAL_PX * x_ratio, 0, _CENTRE_PX[0] * x_ratio], [0, _FOCAL_PX * y_ratio, _CENTRE_PX[1] * y_ratio], [0, 0, 1]
    ])  # fmt: skip
    return matrix @ np.column_stack([np.eye(3), (_BASELINE_M[camera], 0, 0)])


def picture(scene: Scene, light: Light, frame: int) -> Picture:
    """Renders the left colour camera at the moment the LiDAR looks ahead."""
    time_s = frame * scene.preset.frame_interval_s
    exposed_s = time_s + scene.preset.camera_time_error_ms / 1000
    cam2_SE3_cam0 = np.eye(4)
    cam2_SE3_cam0[0, 3] = _BASELINE_M[_CAMERA]
    pose = scene.ego_pose(exposed_s) @ ego_SE3_cam0() @ np.linalg.inv(cam2_SE3_cam0)
    matrix = projection(_CAMERA, scene.preset.image_size)[:, :3]
    rng = generator(scene.seed, scene.index, frame, _IMAGE)
    return render(scene, light, light.at(time_s), pose, matrix, exposed_s, rng)


def kitti_scan(scene: Scene, frame: int) -> KittiScan:
    """Casts the turn of a key-frame; each sector sees the world at its own moment and from its own pose.

    A turn looks ahead at the frame's time stamp and back half a turn before and after it; the sectors counter-clockwise
    from straight ahead come after the time stamp.
    """
    preset = scene.preset
    bounds = np.linspace(0, preset.num_firings, preset.num_sectors + 1).astype(int)
    parts = [_sector(scene, frame, int(first), int(last)) for first, last in pairwise(bounds)]
    columns = zip(*((part.direction, part.distance, part.power, part.labels) for part in parts), strict=True)
    turn = _Turn(*(np.concatenate(column, axis=1)[::-1] for column in columns))
    return _to_file(turn, generator(scene.seed, scene.index, frame, _SENSOR))


def elevations(preset: Preset) -> np.ndarray:
    """float64 [rings] ascending, radians: two blocks as in an HDL-64E, the upper 1.5 times as dense."""
    split = preset.fov_up_deg - 0.4 * (preset.fov_up_deg - preset.fov_down_deg)
    num_upper = preset.num_beams // 2
    lower = np.linspace(preset.fov_down_deg, split, preset.num_beams - num_upper, endpoint=False)
    return np.radians(np.concatenate([lower, np.linspace(split, preset.fov_up_deg, num_upper)]))


def sector_time_s(num_firings: int, first: int, last: int) -> float:
    """Middle of the columns [first, last), seconds after the turn looks ahead; a whole turn has no shutter: 0."""
    middle = (first + last) / 2 / num_firings
    if last - first == num_firings:
        return 0.0
    return _TURN_S * (middle if middle < 0.5 else middle - 1)


def _sector(scene: Scene, frame: int, first: int, last: int) -> _Turn:
    preset, count = scene.preset, last - first
    time_s = frame * preset.frame_interval_s + sector_time_s(preset.num_firings, first, last)
    step = 2 * np.pi / preset.num_firings
    world_SE3_lidar = scene.ego_pose(time_s) @ ego_SE3_lidar(scene)
    view = SpinningView(world_SE3_lidar, elevations(preset), count, (last - 0.5) * step, preset.num_firings)
    solids = scene.solids(time_s)
    hits = cast(view, solids, ground_distance(scene.road, view.origin, view.direction))
    seen = surfels(scene.road, solids, view.origin, view.direction, hits, pixel_rad=0.003)
    facing = np.abs((seen.normal * view.direction[seen.ray]).sum(axis=1))
    reach = hits.distance[seen.ray]
    power, labels = np.zeros(len(hits.distance), np.float32), np.zeros(len(hits.distance), np.uint32)
    power[seen.ray] = scene.nuisance.gain * seen.albedo * (0.25 + 0.75 * facing) * np.exp(-reach / 80)
    labels[seen.ray] = _labels(scene, solids.kitti, hits, seen)
    rasters = (view.in_sensor.reshape(*view.shape, 3), *(a.reshape(view.shape) for a in (hits.distance, power, labels)))
    return _Turn(*(raster[:, ::-1] for raster in rasters))


def _labels(scene: Scene, raw_of_solid: np.ndarray, hits: Hits, seen: Surfels) -> np.ndarray:
    """uint32 [n] raw ids and instances of what rays see."""
    which = hits.solid[seen.ray]
    raw, instance = KITTI_OF_FINE[seen.label], np.zeros(len(which), np.uint32)
    above, ground = np.flatnonzero(which != GROUND), np.flatnonzero(which == GROUND)
    raw[above] = raw_of_solid[which[above]]
    x, y, _ = seen.position[ground].T
    raw[ground[is_parking(scene.road, x, y, seen.label[ground])]] = PARKING
    things = above[is_thing(raw[above])]
    instance[things] = scene.instance[which[things]]
    raw[above] = np.where(scene.is_moving[which[above]], moving(raw[above]), raw[above])
    return raw.astype(np.uint32) | instance << 16


def is_parking(road: Road, x: np.ndarray, y: np.ndarray, label: np.ndarray) -> np.ndarray:
    """Whether ground points lie on the car park or on the strip for parked vehicles, bool [n]."""
    plan, place = road.plan, road.place(x, y)
    across = np.abs(place.across)
    beside_lane = (across > plan.half_width - plan.parking) & (across < plan.half_width)
    is_strip = beside_lane & (np.abs(place.from_crossing) > plan.crossing_half_width + 9)  # markings end there, too
    return (label == DRIVEABLE) & (is_strip | road.in_car_park(place))


def _to_file(turn: _Turn, rng: np.random.Generator) -> KittiScan:
    """Draws which rays come back, and their noise; drops the others."""
    shape = turn.distance.shape
    is_back = (rng.random(shape) < 1 - np.exp(-turn.power / _RETURN_POWER)) & (turn.distance < _MAX_RANGE_M)
    distance = np.where(is_back, turn.distance, 0) + rng.normal(0, 0.008, shape).astype(np.float32)
    remission = np.clip(_REMISSION_SCALE * np.sqrt(np.maximum(turn.power, 0)) * rng.lognormal(0, 0.2, shape), 0, 0.99)
    is_stray = is_back & (rng.random(shape) < _NOISE_RATIO)
    distance = np.where(is_stray, distance * rng.uniform(0.3, 0.9, shape), distance)
    labels = np.where(is_stray, np.uint32(OUTLIER), turn.labels)
    points = np.concatenate([turn.direction * distance[..., None], remission[..., None]], axis=-1)
    return KittiScan(points[is_back].astype(np.float32), labels[is_back].astype(np.uint32))
