"""The ground of a scene: a curved street with a crossing, kerbs, pavements, terrain; where things are and how high.

Street coordinates: ``along`` is metres of arc length on the centre line, ``across`` is metres to its left. The distance
to the kerb (negative on the carriageway) decides what the ground is; corners at the crossing are rounded.
"""

from dataclasses import dataclass

import cv2
import numpy as np

from ray_lidarseg.synthetic.noise import hash01

DRIVEABLE, OTHER_FLAT, SIDEWALK, TERRAIN = 24, 25, 26, 27
"""Fine nuScenes category indices of the ground."""

_CELL_M = 0.4
_WIDTH = 1024
_CORNER_M = 5.0
_MAX_OFFSET_M = 45.0


@dataclass(frozen=True)
class RoadPlan:
    """What a street is like; lengths in metres, see ``scene.draw_plan`` for where they come from."""

    low: tuple[float, float]
    high: tuple[float, float]
    bend_m: float
    bend_period_m: float
    bend_phase_rad: float
    half_width: float
    parking: float  # width of the strip for parked vehicles on each side, 0: none
    num_lanes: int  # in each direction
    kerb: float
    verge: float  # grass between kerb and pavement, 0: none
    pavement: float
    median: float  # half width, 0: none
    crossing_at: float
    crossing_half_width: float
    has_left_arm: bool
    has_right_arm: bool
    car_park: tuple[float, float, float, float]  # along from-to, across from-to; empty: no car park
    relief_m: float
    relief_phase_rad: float
    bank: float  # slope of the terrain
    dash_m: float
    salt: float

    def lane(self, index: int) -> float:
        """Middle of a lane, metres from the centre line; lane 0 is next to it."""
        return self.median + (index + 0.5) * self.lane_width

    @property
    def lane_width(self) -> float:
        """Metres."""
        return (self.half_width - self.parking - self.median) / self.num_lanes


@dataclass(frozen=True)
class Place:
    """Street coordinates of points, each float32 [n]."""

    along: np.ndarray
    across: np.ndarray
    kerb: np.ndarray  # metres outside the nearest kerb of street or crossing, negative on the carriageway
    from_crossing: np.ndarray  # metres from the centre line of the crossing street, signed
    beside: np.ndarray  # metres from the street's own centre line in the crossing's frame, signed


class Road:
    """Ground of one scene: height, kind and street coordinates of any point."""

    def __init__(self, plan: RoadPlan) -> None:
        self.plan = plan
        self._x = np.arange(plan.low[0] - 60, plan.high[0] + 60, 0.5)
        self._y = plan.bend_m * np.sin(2 * np.pi * self._x / plan.bend_period_m + plan.bend_phase_rad)
        self._slope = np.gradient(self._y, self._x)
        length = np.cumsum(np.hypot(1, self._slope)) * 0.5
        self._length = length - np.interp(0, self._x, length)
        x, y, yaw = self.at(plan.crossing_at, 0.0)
        self._crossing = np.array([x, y, np.cos(yaw), np.sin(yaw)], np.float32)
        self._raster = self._rasterise()

    def at(self, along: float, across: float) -> tuple[float, float, float]:
        """World x, y and heading of a place given in street coordinates."""
        x = float(np.interp(along, self._length, self._x))
        yaw = float(np.arctan(np.interp(x, self._x, self._slope)))
        y = float(np.interp(x, self._x, self._y))
        return x - across * np.sin(yaw), y + across * np.cos(yaw), yaw

    def in_arm(self, along: float, beside: float) -> tuple[float, float, float]:
        """World x, y, heading in the crossing street: ``beside`` metres off the main one, ``along`` off its axis."""
        x, y, c, s = (float(value) for value in self._crossing)
        yaw = float(np.arctan2(s, c)) + (np.pi / 2 if beside > 0 else -np.pi / 2)
        return x + along * c - beside * s, y + along * s + beside * c, yaw

    def place(self, x: np.ndarray, y: np.ndarray) -> Place:
        """Street coordinates of world points."""
        smooth = self._sample(x, y)
        px, py, c, s = self._crossing
        from_crossing = (x - px) * c + (y - py) * s
        beside = (y - py) * c - (x - px) * s
        return Place(smooth[:, 1], smooth[:, 2], smooth[:, 3], from_crossing, beside)

    def height(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Ground height at world points, kerbs included."""
        smooth = self._sample(x, y)
        return smooth[:, 0] + self._step(smooth[:, 3], smooth[:, 2], x, y)

    def smooth_height(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Ground height without kerbs."""
        return self._sample(x, y)[:, 0]

    def kind(self, place: Place) -> np.ndarray:
        """Fine label of the ground, uint8 [n]."""
        plan = self.plan
        label = np.full(len(place.kerb), TERRAIN, np.uint8)
        beyond_verge = place.kerb - plan.verge
        is_walk = (beyond_verge >= 0) & (beyond_verge < plan.pavement)
        label[is_walk | self._is_plaza(place)] = SIDEWALK
        label[self.in_car_park(place) | (place.kerb < 0) | self._is_driveway(place)] = DRIVEABLE
        label[self._is_median(place) | self._is_island(place)] = OTHER_FLAT
        return label

    def in_car_park(self, place: Place) -> np.ndarray:
        """Whether points lie on the car park, bool [n]."""
        first, last, right, left = self.plan.car_park
        inside = (place.along > first) & (place.along < last) & (place.across > right) & (place.across < left)
        return inside & (place.kerb > 0)

    def _is_median(self, place: Place) -> np.ndarray:
        gap = self.plan.crossing_half_width + 6.0
        return (np.abs(place.across) < self.plan.median) & (np.abs(place.from_crossing) > gap)

    def _is_island(self, place: Place) -> np.ndarray:
        """Paved strips and refuges beside the pavement, every other stretch of 30 m."""
        stretch = np.floor(place.along / 30)
        chosen = hash01(stretch, np.sign(place.across), 3.0, self.plan.salt) < 0.08
        beyond = place.kerb - self.plan.verge - self.plan.pavement
        return chosen & (beyond > 0) & (beyond < 4.0) & (np.abs(place.from_crossing) > 20)

    def _is_plaza(self, place: Place) -> np.ndarray:
        chosen = hash01(np.floor(place.along / 26), np.sign(place.across), 1.0, self.plan.salt) < 0.2
        return chosen & (place.kerb > 0) & (place.kerb < self.plan.verge + self.plan.pavement + 6)

    def _is_driveway(self, place: Place) -> np.ndarray:
        stretch = np.floor(place.along / 22)
        chosen = hash01(stretch, np.sign(place.across), 2.0, self.plan.salt) < 0.22
        middle = np.abs(place.along / 22 - stretch - 0.5) * 22
        return chosen & (middle < 2.2) & (place.kerb >= 0) & (np.abs(place.across) < self.plan.half_width + 22)

    def _step(self, kerb: np.ndarray, across: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Height above the carriageway that kerb and median add."""
        step = np.clip(kerb * 25, 0, 1)
        if self.plan.median:
            px, py, c, s = self._crossing
            gap = self.plan.crossing_half_width + 6.0
            is_far = np.abs((x - px) * c + (y - py) * s) > gap
            step = np.maximum(step, np.clip((self.plan.median - np.abs(across)) * 25, 0, 1) * is_far)
        return np.float32(self.plan.kerb) * step

    def _sample(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """float32 [n, 4] height, along, across, kerb distance, interpolated."""
        count = len(x)
        rows = max(1, -(-count // _WIDTH))
        maps = np.zeros((2, rows * _WIDTH), np.float32)
        maps[0, :count] = (x - self.plan.low[0]) / _CELL_M - 0.5
        maps[1, :count] = (y - self.plan.low[1]) / _CELL_M - 0.5
        columns, lines = maps.reshape(2, rows, _WIDTH)
        found = cv2.remap(self._raster, columns, lines, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        return found.reshape(-1, 4)[:count]

    def _rasterise(self) -> np.ndarray:
        plan = self.plan
        size = np.ceil((np.array(plan.high) - np.array(plan.low)) / _CELL_M).astype(int)
        x = (plan.low[0] + (np.arange(size[0]) + 0.5) * _CELL_M)[None]
        y = (plan.low[1] + (np.arange(size[1]) + 0.5) * _CELL_M)[:, None]
        along, across = self._street(x, y)
        kerb = self._kerb_distance(x, y, across)
        bank = plan.bank * np.clip(np.abs(across) - plan.half_width - plan.verge - plan.pavement, 0, 25)
        relief = np.sin(x / 47 + plan.relief_phase_rad) + 0.6 * np.sin(x / 83 + 0.3) + 0.4 * np.sin(y / 39 + x / 120)
        return np.stack([bank + plan.relief_m * relief, along, across, kerb], axis=-1).astype(np.float32)

    def _street(self, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Arc length and lateral offset; one Newton step from the point straight above or below."""
        slope = np.interp(x, self._x, self._slope)
        offset = np.clip(y - np.interp(x, self._x, self._y), -_MAX_OFFSET_M, _MAX_OFFSET_M)
        foot = x + offset * slope / (1 + slope**2)
        tangent = np.hypot(1, np.interp(foot, self._x, self._slope))
        slope = np.interp(foot, self._x, self._slope)
        aside = y - np.interp(foot, self._x, self._y)
        along = np.interp(foot, self._x, self._length) + ((x - foot) + slope * aside) / tangent
        return along, (aside - slope * (x - foot)) / tangent

    def _kerb_distance(self, x: np.ndarray, y: np.ndarray, across: np.ndarray) -> np.ndarray:
        px, py, c, s = self._crossing
        from_crossing, beside = (x - px) * c + (y - py) * s, (y - py) * c - (x - px) * s
        has_arm = np.where(beside > 0, self.plan.has_left_arm, self.plan.has_right_arm)
        street = np.abs(across) - self.plan.half_width
        arm = np.where(has_arm, np.abs(from_crossing) - self.plan.crossing_half_width, np.inf)
        at_corner = (street > 0) & (arm > 0) & (street < _CORNER_M) & (arm < _CORNER_M)
        rounded = _CORNER_M - np.hypot(_CORNER_M - street, _CORNER_M - np.where(at_corner, arm, 0))
        return np.where(at_corner, rounded, np.minimum(street, arm))


def ground_distance(road: Road, origin: np.ndarray, direction: np.ndarray, limit_m: float = 170.0) -> np.ndarray:
    """Ray parameter at which rays from one origin meet the ground, inf where they do not: fixed-point steps.

    Args:
        road: The ground.
        origin: float32 [3].
        direction: float32 [R, 3].
        limit_m: Horizontal distance beyond which there is no ground.
    """
    found = np.full(len(direction), np.inf, np.float32)
    down = np.flatnonzero(direction[:, 2] < -0.002)
    dx, dy, dz = direction[down].T
    parameter = -origin[2] / dz
    farthest = limit_m / np.maximum(np.hypot(dx, dy), 1e-3)
    for heights in (road.smooth_height, road.smooth_height, road.height, road.height):
        parameter = np.clip(parameter, 0, farthest)
        parameter = (heights(origin[0] + parameter * dx, origin[1] + parameter * dy) - origin[2]) / dz
    found[down] = np.where((parameter > 0) & (parameter < farthest), parameter, np.inf)
    return found
