"""The LiDAR: casts a sweep and writes what a nuScenes file holds, no-returns and hits on the own roof included."""

from dataclasses import dataclass

import numpy as np

from ray_lidarseg.synthetic import mounting
from ray_lidarseg.synthetic.presets import Preset
from ray_lidarseg.synthetic.raycast import cast
from ray_lidarseg.synthetic.road import ground_distance
from ray_lidarseg.synthetic.scene import Scene
from ray_lidarseg.synthetic.seeds import generator
from ray_lidarseg.synthetic.shading import Surfels, surfels
from ray_lidarseg.synthetic.solids import Kind, Shape, Solids
from ray_lidarseg.synthetic.views import SpinningView

NOISE, EGO = 0, 31
"""Fine nuScenes category indices."""

POSITION_M = (0.944, 0.0, 1.840)
"""LiDAR in the ego frame; its x axis points to the right (nuScenes)."""

_FIRST_AZIMUTH_RAD = float(np.radians(202.0))  # the sweep ends where CAM_BACK_LEFT looks: its offset is -0.5 ms
_MAX_RANGE_M = 105.0
_RETURN_POWER = 0.008  # return probability 1 - exp(-P / this), data.md §4.3
_INTENSITY_SCALE = 200.0  # calibrated on the medians by class of data.md §2.1
_NOISE_RATIO = 0.002  # nuScenes: 0.17 % of all points are noise
_SENSOR = 0


@dataclass(frozen=True)
class Scan:
    """One sweep in file order: column by column, from the lowest ring up.

    Attributes:
        points: float32 [P, 5]: x, y, z in the sensor frame, intensity 0-255, ring.
        labels: uint8 [P] fine category index.
    """

    points: np.ndarray
    labels: np.ndarray


def ego_SE3_lidar(scene: Scene) -> np.ndarray:  # noqa: N802
    """float64 [4, 4] mounting of the LiDAR: yaw -90 degrees, the scene's tilt and the preset's mounting."""
    return mounting.ego_SE3_lidar(scene, POSITION_M, yaw_rad=-np.pi / 2)


def scan(scene: Scene, frame: int) -> Scan:
    """Casts the sweep of a key-frame."""
    preset = scene.preset
    time_s = frame * preset.frame_interval_s
    rng = generator(scene.seed, scene.index, frame, _SENSOR)
    world_SE3_ego = scene.ego_pose(time_s)
    view = sweep_view(preset, world_SE3_ego @ ego_SE3_lidar(scene))
    solids = Solids.concatenate([scene.solids(time_s), _own_vehicle(world_SE3_ego)])
    hits = cast(view, solids, ground_distance(scene.road, view.origin, view.direction))
    seen = surfels(scene.road, solids, view.origin, view.direction, hits, pixel_rad=0.003)
    reach, power = _received(seen, view, hits.distance, scene.nuisance.gain)
    return _to_file(view, seen, reach, power, rng)


def sweep_view(preset: Preset, world_SE3_lidar: np.ndarray) -> SpinningView:
    """The preset's rays from a pose."""
    elevation = np.radians(np.linspace(preset.fov_down_deg, preset.fov_up_deg, preset.num_beams))
    return SpinningView(world_SE3_lidar, elevation, preset.num_firings, _FIRST_AZIMUTH_RAD)


def _own_vehicle(world_SE3_ego: np.ndarray) -> Solids:
    """The roof below the sensor: without them the near rings would all see the road."""
    shape = Shape(EGO)
    shape.add(Kind.BOX, (0.75, 0, 1.2), (1.9, 1.15, 0.7), (0.8, 0.8, 0.8), 0.3)
    own = shape.solids()
    turn, move = world_SE3_ego[:3, :3].astype(np.float32), world_SE3_ego[:3, 3].astype(np.float32)
    columns = {**own.__dict__, "centre": own.centre @ turn.T + move, "axes": turn @ own.axes}
    return Solids(**columns)


def _received(seen: Surfels, view: SpinningView, distance: np.ndarray, gain: float) -> tuple[np.ndarray, np.ndarray]:
    """Range and received power of each hit: gain albedo (.25 + .75 cos) exp(-r / 80), data.md §4.3."""
    reach = distance[seen.ray]
    facing = np.abs((seen.normal * view.direction[seen.ray]).sum(axis=1))
    return reach, gain * seen.albedo * (0.25 + 0.75 * facing) * np.exp(-reach / 80)


def _to_file(view: SpinningView, seen: Surfels, reach: np.ndarray, power: np.ndarray, rng: np.random.Generator) -> Scan:
    rings, columns = view.shape
    num_rays = rings * columns
    is_back = (rng.random(len(reach)) < 1 - np.exp(-power / _RETURN_POWER)) & (reach < _MAX_RANGE_M)
    ray = seen.ray[is_back]
    distance = rng.uniform(0.05, 0.9, num_rays).astype(np.float32)  # no return: a near point on the own vehicle
    labels = np.full(num_rays, EGO, np.uint8)
    intensity = np.zeros(num_rays, np.float32)
    noise = rng.normal(0, 0.008, num_rays).astype(np.float32)
    distance[ray] = reach[is_back] + noise[ray]
    labels[ray] = seen.label[is_back]
    strength = _INTENSITY_SCALE * power[is_back] * rng.lognormal(0, 0.25, len(ray))
    intensity[ray] = np.clip(np.round(strength), 0, 255)
    stray = np.flatnonzero(rng.random(num_rays) < _NOISE_RATIO)
    distance[stray] = rng.uniform(1.5, 40, len(stray)) * np.minimum(1, distance[stray] / 10 + 0.3)
    labels[stray] = NOISE
    ring = np.repeat(np.arange(rings, dtype=np.float32), columns)
    points = np.column_stack([view.in_sensor * distance[:, None], intensity, ring]).astype(np.float32)
    order = np.arange(num_rays).reshape(rings, columns).T.ravel()
    return Scan(points[order], labels[order])
