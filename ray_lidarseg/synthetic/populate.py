"""Fills a street: traffic, people, houses, plants and furniture, without letting things stand in each other."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np

from ray_lidarseg.synthetic import structures
from ray_lidarseg.synthetic.people import ADULT, CHILD, CONSTRUCTION_WORKER, pedestrian
from ray_lidarseg.synthetic.road import Road
from ray_lidarseg.synthetic.seeds import stratified
from ray_lidarseg.synthetic.solids import Solids
from ray_lidarseg.synthetic.vehicles import TYPES

_BEHIND_M, _AHEAD_M = 75.0, 85.0
_CLOSE_M = 28.0
_MIX = {"car": 0.892, "truck": 0.07, "trailer": 0.006, "bus": 0.006, "ridden_motorcycle": 0.006, "ridden_bicycle": 0.02}


@dataclass(frozen=True)
class Mover:
    """Something that goes along the street at constant speed; negative speed is against the street's direction."""

    solids: Solids
    along: float
    across: float
    speed: float

    def at(self, road: Road, time_s: float) -> Solids:
        """Its primitives in the world."""
        x, y, yaw = road.at(self.along + self.speed * time_s, self.across)
        z = float(road.height(np.array([x]), np.array([y]))[0])
        return self.solids.placed((x, y, z), yaw if self.speed >= 0 else yaw + np.pi)


class Populator:
    """Places everything of one scene; rare things are spread evenly over scenes, see ``seeds.stratified``."""

    def __init__(
        self,
        rng: np.random.Generator,
        road: Road,
        length: float,
        ego_speed: float,
        seed: int,
        index: int,
        is_suburb: bool = False,
    ) -> None:
        self.rng, self.road, self.plan = rng, road, road.plan
        self.length, self.ego_speed, self.key = length, ego_speed, (seed, index)
        self.is_suburb = is_suburb
        self.movers: list[Mover] = []
        self._groups: list[Solids] = []
        self._taken: list[tuple[float, float, float]] = []
        self._kerb = self.plan.half_width
        self._outer = self.plan.half_width + self.plan.verge + self.plan.pavement

    def fixed(self) -> Solids:
        """Draws everything; what does not move is returned, the rest is in ``movers``."""
        self._features()
        self._houses()
        self._traffic()
        self._parked()
        self._car_park()
        self._arms()
        self._furniture()
        self._people()
        self._plants()
        self._skyline()
        return Solids.concatenate(self._groups)

    @property
    def num_parts(self) -> list[int]:
        """Number of primitives of each fixed thing, in the order of ``fixed``."""
        return [len(group) for group in self._groups]

    def _stratum(self, feature: int) -> float:
        return stratified(*self.key, feature)

    def _is_free(self, x: float, y: float, radius: float) -> bool:
        return all((x - px) ** 2 + (y - py) ** 2 > (radius + reach) ** 2 for px, py, reach in self._taken)

    def _put(self, solids: Solids, x: float, y: float, yaw: float, radius: float) -> None:
        z = float(self.road.height(np.array([x]), np.array([y]))[0])
        self._groups.append(solids.placed((x, y, z), yaw))
        self._taken.append((x, y, radius))

    def _try(
        self, build: Callable[[], Solids], along: float, across: float, turn: float = 0.0, radius: float = 0.5
    ) -> bool:
        """Places it beside the street if there is room and, off the carriageway, no crossing street."""
        x, y, yaw = self.road.at(along, across)
        kerb = float(self.road.place(np.array([x]), np.array([y])).kerb[0])
        if (abs(across) > self._kerb and kerb < 0.2) or not self._is_free(x, y, radius):
            return False
        self._put(build(), x, y, yaw + turn, radius)
        return True

    def _vehicle(self, name: str, along: float, across: float, turn: float = 0.0) -> bool:
        """A parked vehicle, taking its length as discs in a row."""
        kind = TYPES[name]
        x, y, yaw = self.road.at(along, across)
        reach = kind.width_m / 2 + 0.15
        span = np.arange(-kind.length_m / 2 + reach, kind.length_m / 2 - reach + 0.01, 2 * reach)
        heading = yaw + turn
        discs = [(x + s * np.cos(heading), y + s * np.sin(heading), reach) for s in (span if len(span) else [0.0])]
        if not all(self._is_free(*disc) for disc in discs):
            return False
        self._put(kind.build(self.rng), x, y, heading, 0.1)
        self._taken.extend(discs)
        return True

    def _near_crossing(self, along: float, margin: float) -> bool:
        return abs(along - self.plan.crossing_at) < self.plan.crossing_half_width + margin

    def _sides(self) -> tuple[int, int]:
        return (-1, 1)

    # Rare classes first: they get the places near the ego vehicle's path.

    def _features(self) -> None:
        for start in np.arange(0, self.length + 1, 55.0):
            self._roadside_vehicles(float(start))
            if self._stratum(2) < 0.6:
                self._building_site(float(start + self.rng.uniform(8, 22)))
            if self._stratum(3) < 0.5:
                self._barriers(float(start + self.rng.uniform(2, 14)))
            if self._stratum(4) < 0.65:
                self._cones(float(start + self.rng.uniform(4, 24)))
            for name, feature in (("bicycle", 8), ("motorcycle", 9)):
                if self._stratum(feature) < 0.9:
                    self._two_wheelers(name, float(start))

    def _roadside_vehicles(self, start: float) -> None:
        for name, feature, share in (("bus", 5, 0.58), ("trailer", 6, 0.62), ("truck", 7, 0.5)):
            if self._stratum(feature) > share or (name != "truck" and start % 110 > 1):
                continue
            side = int(self.rng.choice(self._sides(), p=(0.2, 0.8)))  # rarely beside the ego lane: it would hide half
            across = side * (self._kerb - TYPES[name].width_m / 2 - 0.2)
            if name != "truck" or not self.plan.parking:
                # buses and trailers in yards behind the pavement: at the kerb they had three times their real share
                yard = 0.0 if name == "truck" else float(self.rng.uniform(2, 14))
                across = side * (self._outer + TYPES[name].width_m / 2 + 1 + yard)
            for _ in range(20):
                along = start + float(self.rng.uniform(10, 44))
                turn = 0.0 if side < 0 else np.pi
                if not self._near_crossing(along, 9) and self._vehicle(name, along, across, turn):
                    break

    def _building_site(self, start: float) -> None:
        side = int(self.rng.choice(self._sides()))
        middle = side * (self._outer + 5.5)
        for _ in range(int(self.rng.integers(1, 3))):
            turn = float(self.rng.uniform(0, 2 * np.pi))
            self._vehicle("construction", start + float(self.rng.uniform(-5, 5)), middle, turn)
        for offset in np.arange(-6, 6.1, 2.1):
            self._try(partial(structures.barrier, self.rng), start + offset, side * (self._kerb - 0.4), radius=0.9)
        for _ in range(3):
            along, across = start + self.rng.uniform(-7, 7), middle + self.rng.uniform(-3, 3)
            self._try(partial(structures.earth_heap, self.rng), along, across, radius=1.5)
        for _ in range(3):
            along, across = start + self.rng.uniform(-8, 8), side * (self._outer + self.rng.uniform(0, 3))
            self._try(partial(pedestrian, self.rng, CONSTRUCTION_WORKER), along, across, self.rng.uniform(0, 6), 0.4)

    def _barriers(self, start: float) -> None:
        side = int(self.rng.choice(self._sides()))
        across = side * (self._kerb + float(self.rng.choice([-0.5, 0.5, -1.9])))
        for offset in np.arange(0, self.rng.uniform(6, 14), 2.1):
            if not self._near_crossing(start + offset, 5):
                self._try(partial(structures.barrier, self.rng), start + offset, across, radius=0.9)

    def _cones(self, start: float) -> None:
        side = int(self.rng.choice(self._sides()))
        base = self.plan.half_width - max(self.plan.parking, 0.8)
        for offset in np.arange(0, self.rng.uniform(9, 24), 2.8):
            across = side * (base + 0.04 * offset)
            self._try(partial(structures.cone, self.rng), start + offset, across, radius=0.25)

    def _two_wheelers(self, name: str, start: float) -> None:
        side = int(self.rng.choice(self._sides()))
        along = start + float(self.rng.uniform(3, 20))
        least, most = (2, 6) if name == "bicycle" else (0, 2)
        for offset in np.arange(0, self.rng.integers(least, most, endpoint=True) * 0.8, 0.8):
            turn = np.pi / 2 + float(self.rng.normal(0, 0.12))
            self._vehicle(name, along + float(offset), side * (self._kerb + self.plan.verge + 1.1), turn)
        if self.rng.random() < (0.7 if name == "bicycle" else 0.2):
            across = side * (self.plan.half_width - self.plan.parking - 0.45)
            speed = -side * float(self.rng.uniform(3, 6))
            rider = TYPES[f"ridden_{name}"].build(self.rng)
            self.movers.append(Mover(rider, start + float(self.rng.uniform(4, 18)) * -side, across, speed))

    def _traffic(self) -> None:
        """Every lane has one speed, so that nothing drives into the one ahead."""
        for side in self._sides():
            for lane in range(self.plan.num_lanes):
                is_ego = side < 0 and lane == 0
                speed = self.ego_speed if is_ego else float(self.rng.uniform(3, 11))
                self._lane(side, lane, -side * speed, is_ego)

    def _lane(self, side: int, lane: int, speed: float, is_ego: bool) -> None:
        travel = abs(speed) * self.length / max(self.ego_speed, 1)
        along = -_BEHIND_M - (travel if speed > 0 else 0) + float(self.rng.uniform(0, 20))
        last = self.length + _AHEAD_M + (travel if speed < 0 else 0)
        while along < last:
            name = str(self.rng.choice(list(_MIX), p=list(_MIX.values())))
            if speed > 0 and abs(along) < _CLOSE_M:
                name = "car"  # something big that keeps beside the ego vehicle would hide half of every frame
            length = TYPES[name].length_m
            along += length / 2
            if not (is_ego and abs(along) < 9 + length / 2):
                across = side * self.plan.lane(lane) + float(self.rng.normal(0, 0.15))
                self.movers.append(Mover(TYPES[name].build(self.rng), along, across, speed))
            along += length / 2 + float(self.rng.choice([12, 25, 45, 80])) * float(self.rng.uniform(0.7, 1.4))

    def _parked(self) -> None:
        if not self.plan.parking:
            return
        for side in self._sides():
            density = float(self.rng.choice([0.06, 0.2, 0.35]))
            for along in np.arange(-_BEHIND_M, self.length + _AHEAD_M, 6.1):
                if self._near_crossing(float(along), 10) or self.rng.random() > density:
                    continue
                name = str(self.rng.choice(["car", "truck", "motorcycle"], p=[0.94, 0.05, 0.01]))
                turn = (0.0 if side < 0 else np.pi) + float(self.rng.normal(0, 0.02))
                across = side * (self._kerb - TYPES[name].width_m / 2 - 0.25)
                self._vehicle(name, float(along + self.rng.uniform(-0.4, 0.4)), across, turn)

    def _car_park(self) -> None:
        first, last, right, left = self.plan.car_park
        for along in np.arange(first + 2, last - 1, 2.8):
            for across in (right + 4, left - 4):
                if first < last and self.rng.random() < 0.4:
                    turn = float(self.rng.choice([np.pi / 2, -np.pi / 2])) + float(self.rng.normal(0, 0.03))
                    self._vehicle("car", float(along), across, turn)

    def _arms(self) -> None:
        """The crossing street: houses, waiting and parked vehicles."""
        for side, has_arm in ((1, self.plan.has_left_arm), (-1, self.plan.has_right_arm)):
            if not has_arm:
                continue
            for bank in (-1, 1):
                self._arm_houses(side, bank)
                for beside in np.arange(self._kerb + 12, 75, 6.4):
                    if self.rng.random() < 0.2:
                        self._in_arm("car", side, bank * (self.plan.crossing_half_width - 1.2), float(beside))
            waiting = str(self.rng.choice(["car", "truck", "car"]))
            self._in_arm(waiting, side, side * self.plan.crossing_half_width / 2, self._kerb + 9.5, turn=np.pi)

    def _in_arm(self, name: str, side: int, off_axis: float, beside: float, turn: float = 0.0) -> None:
        x, y, yaw = self.road.in_arm(off_axis, side * beside)
        radius = TYPES[name].length_m / 2 - 0.2
        if self._is_free(x, y, radius):
            self._put(TYPES[name].build(self.rng), x, y, yaw + turn, radius)

    def _arm_houses(self, side: int, bank: int) -> None:
        beside = self._outer + 24.0
        while beside < 95:
            length, height = float(self.rng.uniform(10, 20)), float(self.rng.uniform(5, 16))
            off = bank * (self.plan.crossing_half_width + self.plan.pavement + 3)
            x, y, yaw = self.road.in_arm(off, side * (beside + length / 2))
            turn = 0.0 if (bank > 0) == (side > 0) else np.pi
            depth = float(self.rng.uniform(7, 12))
            reach = max(length, depth) / 2
            if self._is_free(x, y, reach * 0.7):
                self._put(structures.house(self.rng, length, depth, height), x, y, yaw + turn, reach)
            beside += length + float(self.rng.uniform(1, 8))

    def _houses(self) -> None:
        for side in self._sides():
            setback = float(self.rng.uniform(1, 5) if self.is_suburb else self.rng.uniform(3, 14))
            base = float(self.rng.uniform(4, 15))
            along = -_BEHIND_M - 10
            while along < self.length + _AHEAD_M + 10:
                length = float(self.rng.uniform(8, 22))
                if self.rng.random() < 0.82:
                    self._house(side, along + length / 2, length, setback, base)
                along += length + float(self.rng.choice([0.5, 2.0, 6.0]))

    def _house(self, side: int, along: float, length: float, setback: float, base: float) -> None:
        depth, height = float(self.rng.uniform(7, 14)), float(np.clip(base * self.rng.uniform(0.6, 1.6), 4, 24))
        across = side * (self._outer + setback + float(self.rng.uniform(0, 1.5)))
        first, last, right, left = self.plan.car_park
        in_car_park = (
            first - length / 2 - 2 < along < last + length / 2 + 2 and right - 20 < across < left + 20 and last > 0
        )
        has_arm = self.plan.has_left_arm if side > 0 else self.plan.has_right_arm
        if in_car_park and (right + left) * side > 0:
            across = side * (self._outer + 22)
        if has_arm and self._near_crossing(along, self.plan.pavement + length / 2 + 1.5):
            return
        spots = [
            self.road.at(along + o, across + side * 2.2)[:2] for o in np.arange(-length / 2, length / 2 + 0.1, 3.0)
        ]
        if not all(self._is_free(*spot, 2.4) for spot in spots):
            return
        x, y, yaw = self.road.at(along, across)
        self._put(structures.house(self.rng, length, depth, height), x, y, yaw + (0 if side < 0 else np.pi), 0.1)
        self._taken.extend((*spot, 2.4) for spot in spots)

    def _furniture(self) -> None:
        edge = self._kerb + min(self.plan.verge, 0.6) + 0.5
        spacing = float(self.rng.uniform(22, 34))
        for side in self._sides():
            turn = 0.0 if side < 0 else np.pi
            for along in np.arange(-_BEHIND_M, self.length + _AHEAD_M, spacing):
                self._try(partial(structures.street_lamp, self.rng), float(along + 7 * side), side * edge, turn, 0.3)
            for build, count, radius in (
                (structures.traffic_sign, 5, 0.3),
                (structures.planter, 3, 0.9),
                (structures.clutter, 3, 0.7),
                (structures.bus_shelter, 1, 2.0),
            ):
                for _ in range(max(1, round(count * (self.length + 100) / 160))):
                    along = float(self.rng.uniform(-40, self.length + 60))
                    back = self._outer - radius - 0.2 if radius > 0.5 else edge
                    self._try(partial(build, self.rng), along, side * back, turn, radius)
            if self.rng.random() < 0.5:
                start = float(self.rng.uniform(-10, self.length + 20))
                for offset in np.arange(0, 12, 1.6):
                    self._try(
                        partial(structures.bollard, self.rng), start + offset, side * (self._kerb + 0.4), 0.0, 0.15
                    )
        self._signals()

    def _signals(self) -> None:
        if self.rng.random() < 0.3:
            return
        gap = self.plan.crossing_half_width + 6.0
        for side in self._sides():
            turn = 0.0 if side < 0 else np.pi
            along = self.plan.crossing_at + side * gap
            self._try(partial(structures.traffic_light, self.rng), along, side * (self._kerb + 0.5), turn, 0.3)

    def _people(self) -> None:
        count = int(self.rng.integers(5, 16) * (self.length + 60) / 80)
        for _ in range(count):
            side = int(self.rng.choice(self._sides()))
            label = CHILD if self.rng.random() < 0.12 else ADULT
            along = float(self.rng.uniform(-25, self.length + 45))
            across = side * float(self.rng.uniform(self._kerb + self.plan.verge + 0.4, self._outer - 0.3))
            if self.rng.random() < 0.4:
                speed = float(self.rng.choice([-1, 1])) * float(self.rng.uniform(0.8, 1.6))
                self.movers.append(Mover(pedestrian(self.rng, label), along, across, speed))
            else:
                turn = float(self.rng.uniform(0, 2 * np.pi))
                self._try(partial(pedestrian, self.rng, label), along, across, turn, 0.3)

    def _plants(self) -> None:
        row = self.plan.verge / 2 if self.plan.verge else 0.9
        spacing = float(self.rng.choice([7.0, 10.0, 15.0]))
        for side in self._sides():
            for along in np.arange(-_BEHIND_M, self.length + _AHEAD_M, spacing):
                if self.rng.random() < 0.85:
                    self._try(partial(structures.tree, self.rng), float(along), side * (self._kerb + row), 0.0, 0.35)
            self._gardens(side)
            if self.is_suburb:
                self._thickets(side)
            for _ in range(int((self.length + 170) / 3.5)):
                along = float(self.rng.uniform(-_BEHIND_M, self.length + _AHEAD_M))
                across = side * float(self._outer + 1.5 + 24 * self.rng.random() ** 1.6)
                is_tree = self.rng.random() < 0.5
                build = structures.tree if is_tree else structures.bush
                self._try(partial(build, self.rng), along, across, self.rng.uniform(0, 6), 1.4)

    def _thickets(self, side: int) -> None:
        for _ in range(int((self.length + 170) / 1.2)):
            along = float(self.rng.uniform(-_BEHIND_M, self.length + _AHEAD_M))
            across = side * float(self._outer + 2.2 + 24 * self.rng.random() ** 1.6)
            self._try(partial(structures.thicket, self.rng), along, across, self.rng.uniform(0, 6), 1.2)

    def _gardens(self, side: int) -> None:
        """Hedges, fences or nothing along the back of the pavement."""
        along = -_BEHIND_M
        while along < self.length + _AHEAD_M:
            length = float(self.rng.uniform(5, 12))
            style = self.rng.choice(
                ["hedge", "fence", "open"], p=[0.5, 0.35, 0.15] if self.is_suburb else [0.4, 0.15, 0.45]
            )
            middle = along + length / 2
            if style != "open" and not self._near_crossing(middle, length / 2 + 6):
                build = structures.hedge if style == "hedge" else structures.fence
                self._try(partial(build, self.rng, length), middle, side * (self._outer + 0.7), 0.0, 0.8)
            along += length + float(self.rng.uniform(0, 3))

    def _skyline(self) -> None:
        """High houses and tree rows behind everything, so that streets do not end in nothing."""
        for _ in range(18):
            along = float(self.rng.uniform(-100, self.length + 100))
            side = int(self.rng.choice(self._sides()))
            across = side * float(self.rng.uniform(self._outer + 34, 95))
            x, y, yaw = self.road.at(along, across)
            turn = 0.0 if side < 0 else np.pi
            height = float(self.rng.uniform(8, 32))
            if self._is_free(x, y, 12.0) and float(self.road.place(np.array([x]), np.array([y])).kerb[0]) > 9:
                length = float(self.rng.uniform(12, 24))
                self._put(structures.house(self.rng, length, 12.0, height), x, y, yaw + turn, 12.0)
