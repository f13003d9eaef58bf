"""One drive: everything that stands, moves and shines on a street, drawn from (seed, scene), placed at a time."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from ray_lidarseg.synthetic.populate import Populator
from ray_lidarseg.synthetic.presets import Preset
from ray_lidarseg.synthetic.road import Road, RoadPlan
from ray_lidarseg.synthetic.seeds import generator, stratified
from ray_lidarseg.synthetic.solids import Solids, tilt_matrix

_REACH_M = 110.0


@dataclass(frozen=True)
class Nuisance:
    """What differs between drives although the classes are the same (data.md §4.4 b).

    Attributes:
        gain: Reflectivity scale of the LiDAR.
        tint: Colour cast of the cameras, RGB.
        brightness: Exposure of the cameras.
        sun: float32 [3] unit vector the sunlight travels along.
        sun_ratio: Share of direct light: 0 overcast, 1 clear.
        haze_m: Distance at which 63 % of the colour is haze.
        lidar_tilt_rad: Mounting error of the LiDAR (roll, pitch).
    """

    gain: float
    tint: tuple[float, float, float]
    brightness: float
    sun: np.ndarray
    sun_ratio: float
    haze_m: float
    lidar_tilt_rad: tuple[float, float]


class Scene:
    """A drive of the world.

    Args:
        preset: Size of the world; its number of frames decides how long the street is.
        seed: Seed of the whole world.
        index: Number of the scene.
    """

    def __init__(self, preset: Preset, seed: int, index: int) -> None:
        self.preset, self.seed, self.index = preset, seed, index
        rng = generator(seed, index)
        self.speed = float(rng.uniform(5.0, 11.0))
        self.duration = (preset.num_frames - 1) * preset.frame_interval_s
        length = self.speed * self.duration
        self.road = Road(draw_plan(rng, length, seed, index, preset.is_suburb))
        self.nuisance = draw_nuisance(rng)
        self._sway = rng.uniform(0, 2 * np.pi, 4)
        people = Populator(rng, self.road, length, self.speed, seed, index, preset.is_suburb)
        self.fixed, self.movers = people.fixed(), people.movers
        self._num_parts = [*people.num_parts, *(len(mover.solids) for mover in self.movers)]

    @cached_property
    def lane(self) -> float:
        """Where the ego vehicle drives, metres to the left of the centre line."""
        return -self.road.plan.lane(0)

    @cached_property
    def instance(self) -> np.ndarray:
        """uint16 [N] number of the object, from 1, that each primitive of ``solids`` belongs to."""
        return np.repeat(np.arange(1, len(self._num_parts) + 1, dtype=np.uint16), self._num_parts)

    @cached_property
    def is_moving(self) -> np.ndarray:
        """Whether each primitive of ``solids`` drives or walks, bool [N]."""
        return np.arange(len(self.instance)) >= len(self.fixed)

    def ego_pose(self, time_s: float) -> np.ndarray:
        """float64 [4, 4] world_SE3_ego; the ego frame is x forward, y left, z up, on the ground under the rear axle."""
        along = self.speed * time_s
        across = self.lane + 0.15 * np.sin(0.5 * time_s + self._sway[0])
        x, y, yaw = self.road.at(along, across)
        ahead_x, ahead_y, _ = self.road.at(along + 2.0, across)
        heights = self.road.smooth_height(np.array([x, ahead_x]), np.array([y, ahead_y]))
        climb = np.arctan2(float(heights[1] - heights[0]), 2.0)
        wobble = np.radians(0.35) * np.sqrt(2) * np.sin(np.array([1.9, 2.7]) * time_s + self._sway[1:3])
        pose = np.eye(4)
        steer = 0.012 * np.cos(0.5 * time_s + self._sway[0])
        turned = tilt_matrix(yaw + steer, -climb + wobble[0], wobble[1]).astype(np.float64)
        left, _, right = np.linalg.svd(turned)  # orthonormal to double precision
        pose[:3, :3] = left @ right
        pose[:3, 3] = (x, y, float(heights[0]))
        return pose

    def solids(self, time_s: float) -> Solids:
        """Everything but the ground and the ego vehicle, at a time."""
        return Solids.concatenate([self.fixed, *(mover.at(self.road, time_s) for mover in self.movers)])


def draw_plan(rng: np.random.Generator, length: float, seed: int, index: int, is_suburb: bool = False) -> RoadPlan:
    """A street; ranges from data.md §4.3, bends, car parks and suburbs ours."""
    has_median = stratified(seed, index, 1) < (0.1 if is_suburb else 0.3)
    parking = 2.3 if rng.random() < (0.35 if is_suburb else 0.7) else 0.0
    num_lanes = 2 if rng.random() < (0.0 if is_suburb else 0.5) else 1
    median = float(rng.uniform(0.7, 1.2)) if has_median else 0.0
    half_width = (
        median + num_lanes * float(rng.uniform(2.6, 3.2) if is_suburb else rng.uniform(3.1, 3.7)) + parking + 0.4
    )
    verge = float(rng.uniform(1.4, 3.4)) if rng.random() < 0.6 else 0.0
    pavement = float(rng.uniform(2.4, 5.2))
    side = 1 if rng.random() < 0.5 else -1
    near = half_width + verge + pavement
    first = float(rng.uniform(0, max(length, 25)))
    edges = sorted((side * near, side * (near + 20)))
    has_car_park = rng.random() < 0.4
    arms = ((True, True), (True, False), (False, True))[int(rng.choice(3, p=(0.5, 0.25, 0.25)))]
    crossing = float(rng.uniform(18, 40)) if rng.random() < 0.75 else length + 75
    return RoadPlan(
        low=(-_REACH_M, -_REACH_M),
        high=(length + _REACH_M, _REACH_M),
        bend_m=float(rng.uniform(0, 11)),
        bend_period_m=float(rng.uniform(190, 330)),
        bend_phase_rad=float(rng.uniform(0, 2 * np.pi)),
        half_width=half_width,
        parking=parking,
        num_lanes=num_lanes,
        kerb=float(rng.uniform(0.08, 0.18)),
        verge=verge,
        pavement=pavement,
        median=median,
        crossing_at=crossing,
        crossing_half_width=float(rng.uniform(3.6, 6.5)),
        has_left_arm=arms[0],
        has_right_arm=arms[1],
        car_park=(first, first + 28, edges[0], edges[1]) if has_car_park else (0.0, 0.0, 0.0, 0.0),
        relief_m=float(rng.uniform(0.1, 0.9)),
        relief_phase_rad=float(rng.uniform(0, 2 * np.pi)),
        bank=float(rng.uniform(-0.02, 0.07)),
        dash_m=float(rng.uniform(5, 9)),
        salt=float(rng.random()),
    )


def draw_nuisance(rng: np.random.Generator) -> Nuisance:
    """Reflectivity gain .75-1.3, tint, brightness, mounting (data.md §4.4 b); the sun is ours."""
    azimuth, elevation = rng.uniform(0, 2 * np.pi), np.radians(rng.uniform(28, 62))
    sun = np.array([np.cos(elevation) * np.cos(azimuth), np.cos(elevation) * np.sin(azimuth), -np.sin(elevation)])
    roll, pitch = np.radians(rng.normal(0, 0.5, 2))
    red, green, blue = 1 + rng.normal(0, 0.035, 3)
    return Nuisance(
        gain=float(rng.uniform(0.75, 1.3)),
        tint=(float(red), float(green), float(blue)),
        brightness=float(rng.uniform(0.85, 1.1)),
        sun=sun.astype(np.float32),
        sun_ratio=float(rng.choice([0.25, 0.75, 1.0], p=[0.25, 0.3, 0.45])),
        haze_m=float(rng.uniform(220, 600)),
        lidar_tilt_rad=(float(roll), float(pitch)),
    )
