"""Colour and reflectivity of the ground: asphalt and its markings, kerb stones, slabs, grass and soil."""

from dataclasses import dataclass

import numpy as np

from ray_lidarseg.synthetic.materials import fade
from ray_lidarseg.synthetic.noise import hash01, texture
from ray_lidarseg.synthetic.road import DRIVEABLE, OTHER_FLAT, SIDEWALK, TERRAIN, Place, Road

_WHITE, _YELLOW = np.array([0.88, 0.88, 0.86], np.float32), np.array([0.86, 0.68, 0.18], np.float32)
_MARKING_ALBEDO = 0.8


@dataclass(frozen=True)
class GroundPoints:
    """Where rays meet the ground: world x, y, street coordinates, and the size of a pixel there, each [n]."""

    x: np.ndarray
    y: np.ndarray
    place: Place
    blur_m: np.ndarray


def paint_ground(road: Road, points: GroundPoints, label: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Colour float32 [n, 3] and reflectivity float32 [n] of ground points with their fine labels."""
    colour, albedo = np.zeros((len(label), 3), np.float32), np.zeros(len(label), np.float32)
    for kind, paint in ((DRIVEABLE, _asphalt), (SIDEWALK, _slabs), (TERRAIN, _grass), (OTHER_FLAT, _cobbles)):
        chosen = np.flatnonzero(label == kind)
        if len(chosen):
            colour[chosen], albedo[chosen] = paint(road, _select(points, chosen))
    is_kerb = (points.place.kerb > 0) & (points.place.kerb < 0.16) & (label != DRIVEABLE)
    colour[is_kerb], albedo[is_kerb] = (0.62, 0.61, 0.59), 0.45
    return colour, albedo


def _select(points: GroundPoints, chosen: np.ndarray) -> GroundPoints:
    place = points.place
    columns = (place.along, place.across, place.kerb, place.from_crossing, place.beside)
    return GroundPoints(
        points.x[chosen], points.y[chosen], Place(*(column[chosen] for column in columns)), points.blur_m[chosen]
    )


def _asphalt(road: Road, at: GroundPoints) -> tuple[np.ndarray, np.ndarray]:
    plan, place = road.plan, at.place
    grain = texture(at.x, at.y, 0.04) * fade(0.15, at.blur_m) * 0.035
    stain = texture(at.x + 31, at.y + 7, 0.1) * 0.035
    lane = (np.abs(place.across) - plan.median) / plan.lane_width
    track = 0.035 * np.cos(4 * np.pi * lane) * (lane < plan.num_lanes) * (place.kerb < 0)
    patch = hash01(np.floor(place.along / 7.3), np.floor(place.across / 2.9), 4.0, plan.salt) < 0.04
    tone = 0.36 + 0.1 * (plan.salt - 0.5) + grain + stain + track - 0.06 * patch
    crack = np.abs(texture(at.x, at.y, 0.055)) < 0.03
    tone = tone - 0.10 * crack * fade(0.12, at.blur_m)
    gutter = np.clip(1 + place.kerb / 0.5, 0, 1) * (place.kerb < 0)
    tone = tone - 0.06 * gutter
    colour = (tone[:, None] * np.array([1.0, 0.99, 0.98], np.float32)).astype(np.float32)
    white, yellow = _markings(road, at)
    wear = np.clip(0.92 + 0.35 * texture(at.x, at.y, 0.07), 0.3, 1)
    colour += (white * wear)[:, None] * (_WHITE - colour)
    colour += (yellow * wear)[:, None] * (_YELLOW - colour)
    marked = np.maximum(white, yellow)
    return colour, (0.17 + 0.6 * (tone - 0.36)) * (1 - marked) + _MARKING_ALBEDO * marked


def _line(offset: np.ndarray, width_m: float, blur_m: np.ndarray) -> np.ndarray:
    """Coverage of a line by a pixel, [0, 1], given the distance from its middle."""
    soft = np.maximum(blur_m, 0.02)
    return np.clip((width_m / 2 - np.abs(offset)) / soft + 0.5, 0, 1) * np.minimum(1, width_m / soft)


def _markings(road: Road, at: GroundPoints) -> tuple[np.ndarray, np.ndarray]:
    """Coverage with white and with yellow paint."""
    plan, place, blur = road.plan, at.place, at.blur_m
    off, beside = np.abs(place.from_crossing), np.abs(place.across)
    on_street = (off > plan.crossing_half_width + 6.0) & (place.kerb < 0)
    dashed = np.clip(((place.along / plan.dash_m) % 1 < 0.45) + (blur > 1.5) * 0.4, 0, 1)
    white, yellow = np.zeros(len(blur), np.float32), np.zeros(len(blur), np.float32)
    for lane in range(1, plan.num_lanes):
        white = np.maximum(white, _line(beside - plan.median - lane * plan.lane_width, 0.13, blur) * dashed)
    white = np.maximum(white, _line(beside - plan.half_width + plan.parking + 0.2, 0.12, blur))
    if plan.parking:
        bay = ((place.along / 6.1 + 0.5) % 1 - 0.5) * 6.1
        in_bay = (beside > plan.half_width - plan.parking - 0.2) & (beside < plan.half_width)
        white = np.maximum(white, _line(bay, 0.1, blur) * in_bay)
    if plan.median:
        yellow = _line(beside - plan.median - 0.2, 0.12, blur)
    elif plan.num_lanes > 1 or plan.salt > 0.6:
        yellow = np.maximum(_line(beside - 0.13, 0.11, blur), yellow)
    else:
        white = np.maximum(white, _line(beside, 0.12, blur) * dashed)
    white, yellow = white * on_street, yellow * on_street
    white = np.maximum(white, _crossing_markings(road, at))
    return np.maximum(white, _car_park_markings(road, at)), yellow


def _crossing_markings(road: Road, at: GroundPoints) -> np.ndarray:
    """Zebra crossings, stop lines, turn arrows and the middle line of the crossing street."""
    plan, place, blur = road.plan, at.place, at.blur_m
    off = np.abs(place.from_crossing) - plan.crossing_half_width
    on_road = place.kerb < -0.25
    in_band = (off > 1.6) & (off < 4.6) & (np.abs(place.across) < plan.half_width)
    zebra = _line((place.across % 1.1) - 0.55, 0.55, blur) * in_band
    toward = np.where(place.across < 0, place.from_crossing < 0, place.from_crossing > 0)
    stop = _line(off - 5.4, 0.35, blur) * toward * (np.abs(place.across) > plan.median)
    beyond = np.abs(place.across) - plan.half_width
    arm_zebra = _line((place.from_crossing % 1.1) - 0.55, 0.55, blur) * ((beyond > 1.6) & (beyond < 4.4))
    arm_line = _line(place.from_crossing, 0.12, blur) * (beyond > 6) * ((place.beside / 6) % 1 < 0.5)
    return np.maximum(np.maximum(zebra, stop), np.maximum(arm_zebra, arm_line) * (off < 0)) * on_road


def _car_park_markings(road: Road, at: GroundPoints) -> np.ndarray:
    first, _, right, left = road.plan.car_park
    if right == left:
        return np.zeros(len(at.x), np.float32)
    bay = ((at.place.along - first - 0.6) / 2.8 % 1 - 0.5) * 2.8
    in_row = (at.place.across < right + 6.5) | (at.place.across > left - 6.5)
    return _line(bay, 0.1, at.blur_m) * in_row * road.in_car_park(at.place)


def _slabs(road: Road, at: GroundPoints) -> tuple[np.ndarray, np.ndarray]:
    size = 0.6 + 0.9 * road.plan.salt
    row, column = at.place.along / size, at.place.across / size
    joint = ((row % 1) < 0.04) | ((column % 1) < 0.04)
    slab = hash01(row, column, 0.0, road.plan.salt)
    strength = fade(size * 0.6, at.blur_m)
    tone = 0.56 + strength * (0.07 * (slab - 0.5) - 0.14 * joint) + 0.025 * texture(at.x, at.y, 0.1)
    warm = np.array([1.0, 0.97, 0.92], np.float32) if road.plan.salt < 0.5 else np.array([0.98, 0.98, 1.0], np.float32)
    return (tone[:, None] * warm).astype(np.float32), (0.56 + 0.4 * (tone - 0.56)).astype(np.float32)


def _grass(road: Road, at: GroundPoints) -> tuple[np.ndarray, np.ndarray]:
    broad = texture(at.x, at.y, 0.13)
    blade = hash01(at.x / 0.07, at.y / 0.07, 0.0) - 0.5
    tuft = texture(at.x, at.y, 0.05)
    tone = 0.42 + 0.05 * broad + fade(0.12, at.blur_m) * 0.16 * blade + 0.03 * tuft * fade(0.4, at.blur_m)
    soil = np.clip(0.8 * broad - 0.6 + 0.5 * (road.plan.salt - 0.5), 0, 1)[:, None]
    green = tone[:, None] * np.array([0.80, 0.96, 0.50], np.float32) * np.float32(0.9)
    brown = tone[:, None] * np.array([1.15, 0.92, 0.66], np.float32)
    return (green * (1 - soil) + brown * soil).astype(np.float32), (0.50 + 0.4 * (tone - 0.42)).astype(np.float32)


def _cobbles(road: Road, at: GroundPoints) -> tuple[np.ndarray, np.ndarray]:
    row = np.floor(at.place.along / 0.22)
    stone = hash01(row, at.place.across / 0.16 + 0.5 * (row % 2), 9.0, road.plan.salt)
    tone = 0.45 + 0.16 * (stone - 0.5) * fade(0.3, at.blur_m) + 0.02 * texture(at.x, at.y, 0.2)
    return (tone[:, None] * np.array([1.04, 0.97, 0.93], np.float32)).astype(np.float32), 0.42 + 0.3 * (tone - 0.45)
