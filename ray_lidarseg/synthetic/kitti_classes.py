"""What things are called in SemanticKITTI: raw ids of standing and moving things (semantic-kitti.yaml)."""

import numpy as np

OUTLIER = 1
CAR, BICYCLE, BUS, MOTORCYCLE, TRUCK, OTHER_VEHICLE = 10, 11, 13, 15, 18, 20
PERSON, BICYCLIST, MOTORCYCLIST = 30, 31, 32
ROAD, PARKING, SIDEWALK, OTHER_GROUND = 40, 44, 48, 49
BUILDING, FENCE, OTHER_STRUCTURE = 50, 51, 52
VEGETATION, TRUNK, TERRAIN = 70, 71, 72
POLE, TRAFFIC_SIGN, OTHER_OBJECT = 80, 81, 99
"""Raw ids."""

MOVING = {CAR: 252, BICYCLIST: 253, PERSON: 254, MOTORCYCLIST: 255, BUS: 257, TRUCK: 258, OTHER_VEHICLE: 259}
"""Raw id of the same thing while it moves."""

_FINE = {
    0: OUTLIER, 2: PERSON, 3: PERSON, 4: PERSON, 5: PERSON, 6: PERSON, 9: FENCE, 14: BICYCLE, 15: BUS, 16: BUS, 17: CAR,
    18: OTHER_VEHICLE, 21: MOTORCYCLE, 22: OTHER_VEHICLE, 23: TRUCK, 24: ROAD, 25: OTHER_GROUND, 26: SIDEWALK,
    27: TERRAIN, 28: BUILDING, 30: VEGETATION, 31: OUTLIER,
}  # fmt: skip

KITTI_OF_FINE = np.array([_FINE.get(fine, OTHER_OBJECT) for fine in range(32)], np.uint16)
"""uint16 [32]: raw id that a fine nuScenes category has unless an object knows better."""


def is_thing(raw: np.ndarray) -> np.ndarray:
    """Whether raw ids are countable: vehicles, people and riders carry instance numbers, bool [n]."""
    return (raw >= CAR) & (raw <= MOTORCYCLIST)


def moving(raw: np.ndarray) -> np.ndarray:
    """Raw ids [n] of the same things on the move; what cannot move keeps its id."""
    table = np.arange(100, dtype=np.uint16)
    table[list(MOVING)] = list(MOVING.values())
    return table[raw]
