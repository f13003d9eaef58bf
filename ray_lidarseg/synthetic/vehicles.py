"""Vehicles of every nuScenes type, each a few dozen primitives at most; sizes are common ones of the type (ours)."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ray_lidarseg.synthetic.kitti_classes import BICYCLIST, MOTORCYCLIST
from ray_lidarseg.synthetic.materials import Material
from ray_lidarseg.synthetic.people import rider
from ray_lidarseg.synthetic.solids import AXLE, Kind, Shape, Solids, tilt_matrix

BICYCLE, BUS, CAR, CONSTRUCTION, MOTORCYCLE, TRAILER, TRUCK = 14, 16, 17, 18, 21, 22, 23
"""Fine nuScenes category indices."""

_PAINTS = (
    ((0.86, 0.87, 0.88), 0.30),
    ((0.62, 0.64, 0.66), 0.12),
    ((0.30, 0.32, 0.34), 0.05),
    ((0.10, 0.10, 0.12), 0.025),
    ((0.55, 0.08, 0.08), 0.15),
    ((0.10, 0.20, 0.42), 0.05),
    ((0.16, 0.33, 0.24), 0.06),
    ((0.70, 0.62, 0.45), 0.18),
    ((0.80, 0.55, 0.10), 0.22),
)
_TYRE = (0.05, 0.05, 0.055)
_STEEL = (0.22, 0.23, 0.25)


@dataclass(frozen=True)
class VehicleType:
    """How to build one, and how much street it takes."""

    build: Callable[[np.random.Generator], Solids]
    length_m: float
    width_m: float


def _paint(rng: np.random.Generator) -> tuple[tuple[float, float, float], float]:
    return _PAINTS[int(rng.choice(len(_PAINTS), p=(0.24, 0.2, 0.14, 0.14, 0.08, 0.08, 0.04, 0.04, 0.04)))]


def _wheel(shape: Shape, x: float, y: float, radius: float, width: float) -> None:
    size = (2 * radius, 2 * radius, width)
    shape.add(Kind.CYLINDER, (x, y, radius), size, _TYRE, 0.05, Material.WHEEL, axes=AXLE)


def _wheels(shape: Shape, positions: tuple[float, ...], track: float, radius: float, width: float = 0.24) -> None:
    for x in positions:
        for side in (-1, 1):
            _wheel(shape, x, side * track / 2, radius, width)


def car(rng: np.random.Generator) -> Solids:
    """Saloon, estate, hatchback, off-roader or van."""
    style = rng.choice(["saloon", "hatch", "suv", "van"], p=[0.38, 0.24, 0.26, 0.12])
    length, width, belt, roof = {
        "saloon": (4.7, 1.82, 0.92, 1.45),
        "hatch": (4.1, 1.76, 0.94, 1.50),
        "suv": (4.7, 1.92, 1.08, 1.74),
        "van": (4.9, 1.95, 1.10, 1.95),
    }[str(style)]
    front, rear = {"saloon": (1.12, -1.78), "hatch": (0.95, -1.93), "suv": (1.05, -2.12), "van": (1.80, -2.36)}[
        str(style)
    ]
    scale = float(rng.uniform(0.95, 1.06))
    colour, albedo = _paint(rng)
    shape = Shape(CAR, float(rng.random()))
    lower = 0.20
    shoulder = lower + 0.68 * (belt - lower)
    body = (length * scale, width, shoulder - lower)
    shape.add(Kind.WEDGE, (0, 0, (shoulder + lower) / 2), body, colour, albedo, Material.CAR_BODY, (0.03, 0.02, 0.03))
    bonnet = (length * scale * 0.985, width * 0.985, belt - shoulder)
    slope = (0.24, 0.12, 0.09) if style != "van" else (0.14, 0.02, 0.05)
    shape.add(Kind.WEDGE, (0, 0, (belt + shoulder) / 2), bonnet, colour, albedo, taper=slope)
    cabin = (front - rear, width * 0.92, roof - belt)
    taper = {
        "saloon": (0.62, 0.50, 0.17),
        "hatch": (0.55, 0.26, 0.16),
        "suv": (0.45, 0.2, 0.13),
        "van": (0.48, 0.08, 0.1),
    }
    centre = ((front + rear) / 2, 0, (roof + belt) / 2)
    shape.add(Kind.WEDGE, centre, cabin, colour, albedo, Material.CAR_CABIN, taper[str(style)])
    _wheels(shape, (0.305 * length, -0.305 * length), width - 0.2, 0.33)
    for side in (-1, 1):
        shape.add(Kind.BOX, (front - 0.35, side * (width / 2 + 0.06), belt + 0.08), (0.1, 0.16, 0.13), colour, albedo)
    if style == "suv" and rng.random() < 0.5:
        shape.add(Kind.BOX, (-0.6, 0, roof + 0.05), (1.6, 1.2, 0.07), _STEEL, 0.2)
    return shape.solids()


def _cab(shape: Shape, x: float, height: float, colour: tuple[float, float, float], albedo: float) -> None:
    """A lorry's cab with its front at x."""
    shape.add(Kind.BOX, (x - 1.0, 0, 0.95), (2.0, 2.3, 0.9), colour, albedo, Material.CAR_BODY)
    upper = (1.9, 2.25, height - 1.4)
    shape.add(
        Kind.WEDGE, (x - 1.02, 0, (height + 1.4) / 2), upper, colour, albedo, Material.CAR_CABIN, (0.22, 0.0, 0.06)
    )
    for side in (-1, 1):
        shape.add(Kind.BOX, (x - 0.25, side * 1.28, 2.0), (0.12, 0.22, 0.42), (0.08, 0.08, 0.09), 0.06)


def truck(rng: np.random.Generator) -> Solids:
    """Box lorry, tipper or pick-up."""
    colour, albedo = _paint(rng)
    style = rng.choice(["box", "tipper", "pickup"], p=[0.55, 0.2, 0.25])
    shape = Shape(TRUCK, float(rng.random()))
    if style == "pickup":
        shape.add(Kind.WEDGE, (0, 0, 0.72), (5.5, 1.95, 0.72), colour, albedo, Material.CAR_BODY, (0.04, 0.0, 0.04))
        shape.add(Kind.WEDGE, (0.35, 0, 1.42), (2.3, 1.8, 0.7), colour, albedo, Material.CAR_CABIN, (0.5, 0.15, 0.13))
        for side in (-1, 1):
            shape.add(Kind.BOX, (-1.75, side * 0.93, 1.15), (1.95, 0.08, 0.24), colour, albedo)
        shape.add(Kind.BOX, (-2.7, 0, 1.15), (0.08, 1.9, 0.24), colour, albedo)
        _wheels(shape, (1.75, -1.65), 1.75, 0.40, 0.28)
        return shape.solids()
    _cab(shape, 3.9, 2.75, colour, albedo)
    shape.add(Kind.BOX, (0, 0, 0.72), (7.4, 0.95, 0.26), _STEEL, 0.15)
    if style == "box":
        tone, reflect = ((0.86, 0.86, 0.84), 0.42) if rng.random() < 0.6 else _paint(rng)
        shape.add(Kind.BOX, (-1.05, 0, 2.15), (5.4, 2.45, 2.4), tone, reflect, Material.CARGO)
    else:
        shape.add(
            Kind.WEDGE, (-1.05, 0, 1.5), (5.2, 2.4, 1.3), (0.45, 0.30, 0.12), 0.2, Material.MACHINE, (0.0, 0.15, 0.0)
        )
        shape.add(Kind.ELLIPSOID, (-1.0, 0, 2.0), (4.2, 2.0, 0.8), (0.34, 0.27, 0.20), 0.2)
    _wheels(shape, (2.7, -1.6, -2.7), 2.1, 0.48, 0.34)
    return shape.solids()


def trailer(rng: np.random.Generator) -> Solids:
    """A semi-trailer, coupled to a tractor (a truck) in every other case."""
    tone, reflect = ((0.80, 0.80, 0.79), 0.40) if rng.random() < 0.5 else _paint(rng)
    shape = Shape(TRAILER, float(rng.random()))
    shape.add(Kind.BOX, (-1.6, 0, 2.45), (9.6, 2.5, 2.75), tone, reflect, Material.CARGO)
    shape.add(Kind.BOX, (-1.6, 0, 0.98), (9.4, 1.0, 0.22), _STEEL, 0.15)
    for side in (-1, 1):
        shape.add(Kind.BOX, (-1.2, side * 1.18, 0.72), (3.2, 0.06, 0.36), _STEEL, 0.2)
        shape.add(Kind.BOX, (1.7, side * 0.8, 0.5), (0.16, 0.16, 0.9), _STEEL, 0.2)
    _wheels(shape, (-3.3, -4.4, -5.5), 2.1, 0.48, 0.34)
    if rng.random() < 0.5:
        return shape.solids()
    tractor = Shape(TRUCK, float(rng.random()))
    colour, albedo = _paint(rng)
    _cab(tractor, 6.0, 3.1, colour, albedo)
    tractor.add(Kind.BOX, (3.6, 0, 0.72), (4.6, 0.95, 0.26), _STEEL, 0.15)
    _wheels(tractor, (4.9, 2.4), 2.1, 0.5, 0.34)
    return Solids.concatenate([shape.solids(), tractor.solids()])


def bus(rng: np.random.Generator) -> Solids:
    """A city bus."""
    colours = (
        ((0.75, 0.12, 0.12), 0.25),
        ((0.15, 0.35, 0.62), 0.2),
        ((0.90, 0.72, 0.12), 0.4),
        ((0.2, 0.5, 0.33), 0.2),
    )
    colour, albedo = colours[int(rng.integers(len(colours)))]
    shape = Shape(BUS, float(rng.random()))
    shape.add(Kind.WEDGE, (0, 0, 1.67), (11.2, 2.5, 2.7), colour, albedo, Material.BUS, (0.015, 0.01, 0.03))
    shape.add(Kind.BOX, (-1.5, 0, 3.12), (4.5, 1.7, 0.22), (0.82, 0.82, 0.8), 0.4)
    for x in (3.47, -3.08):
        for side in (-1, 1):
            _wheel(shape, x, side * 1.14, 0.5, 0.26)
    for side in (-1, 1):
        shape.add(Kind.BOX, (5.65, side * 1.32, 2.35), (0.14, 0.24, 0.4), (0.07, 0.07, 0.08), 0.06)
    return shape.solids()


def construction_vehicle(rng: np.random.Generator) -> Solids:
    """Excavator or wheel loader."""
    colour = (0.90, 0.63, 0.08) if rng.random() < 0.7 else (0.85, 0.40, 0.08)
    shape = Shape(CONSTRUCTION, float(rng.random()))
    if rng.random() < 0.6:
        _excavator(shape, colour, float(rng.uniform(-0.3, 0.3)))
    else:
        _loader(shape, colour)
    return shape.solids()


def _excavator(shape: Shape, colour: tuple[float, float, float], lift_rad: float) -> None:
    for side in (-1, 1):
        shape.add(Kind.WEDGE, (0, side * 0.95, 0.42), (3.7, 0.55, 0.82), (0.13, 0.12, 0.11), 0.1, 17, (0.16, 0.16, 0.0))
    shape.add(Kind.CYLINDER, (0, 0, 0.95), (1.5, 1.5, 0.4), _STEEL, 0.15)
    shape.add(Kind.WEDGE, (-0.9, 0, 1.65), (2.3, 2.4, 1.1), colour, 0.32, Material.MACHINE, (0.0, 0.12, 0.06))
    shape.add(Kind.WEDGE, (0.75, 0.7, 1.95), (1.35, 1.0, 1.75), colour, 0.32, Material.CAR_CABIN, (0.22, 0.05, 0.08))
    boom = tilt_matrix(pitch_rad=-0.75 + lift_rad)
    shape.add(Kind.BOX, (1.9, -0.35, 3.0), (3.6, 0.42, 0.55), colour, 0.32, Material.MACHINE, axes=boom)
    stick = tilt_matrix(pitch_rad=1.0 + lift_rad)
    shape.add(Kind.BOX, (4.0, -0.35, 2.9), (3.0, 0.34, 0.42), colour, 0.32, Material.MACHINE, axes=stick)
    shape.add(Kind.WEDGE, (4.7, -0.35, 1.2), (0.9, 1.0, 0.9), _STEEL, 0.18, 0, (0.4, 0.1, 0.0))
    shape.rod((1.2, -0.35, 1.9), (2.4, -0.35, 3.1), 0.16, (0.6, 0.6, 0.6), 0.4)


def _loader(shape: Shape, colour: tuple[float, float, float]) -> None:
    shape.add(Kind.WEDGE, (-1.3, 0, 1.5), (2.6, 1.7, 1.2), colour, 0.32, Material.MACHINE, (0.0, 0.2, 0.08))
    shape.add(Kind.WEDGE, (0.1, 0, 2.5), (1.5, 1.5, 1.6), colour, 0.32, Material.CAR_CABIN, (0.15, 0.1, 0.1))
    shape.add(Kind.BOX, (1.0, 0, 1.1), (2.4, 1.1, 0.7), colour, 0.32, Material.MACHINE)
    for side in (-1, 1):
        arm = tilt_matrix(pitch_rad=0.35)
        shape.add(Kind.BOX, (2.0, side * 0.55, 1.2), (2.6, 0.2, 0.35), colour, 0.32, axes=arm)
    shape.add(Kind.WEDGE, (3.4, 0, 0.6), (1.1, 2.7, 1.0), _STEEL, 0.18, 0, (0.1, 0.55, 0.0))
    _wheels(shape, (1.5, -1.6), 2.0, 0.75, 0.55)


def motorcycle(rng: np.random.Generator) -> Solids:
    """Motorcycle or scooter without a rider."""
    colour, albedo = _paint(rng)
    shape = Shape(MOTORCYCLE, float(rng.random()))
    for x in (0.70, -0.68):
        shape.add(Kind.CYLINDER, (x, 0, 0.31), (0.62, 0.62, 0.14), _TYRE, 0.05, Material.WHEEL, axes=AXLE)
    shape.add(Kind.ELLIPSOID, (0.18, 0, 0.80), (0.75, 0.34, 0.36), colour, albedo)
    shape.add(Kind.BOX, (-0.42, 0, 0.82), (0.75, 0.28, 0.12), (0.07, 0.07, 0.07), 0.06)
    shape.add(Kind.BOX, (0.02, 0, 0.48), (0.6, 0.3, 0.42), _STEEL, 0.2, Material.MACHINE)
    shape.rod((0.72, 0, 0.32), (0.45, 0, 1.05), 0.09, (0.5, 0.5, 0.5), 0.3)
    shape.rod((0.42, -0.36, 1.06), (0.42, 0.36, 1.06), 0.05, _STEEL, 0.2)
    shape.add(Kind.ELLIPSOID, (0.58, 0, 0.95), (0.18, 0.2, 0.2), (0.9, 0.9, 0.85), 0.5)
    return shape.solids()


def bicycle(rng: np.random.Generator) -> Solids:
    """Bicycle without a rider."""
    colour, albedo = _paint(rng)
    shape = Shape(BICYCLE, float(rng.random()))
    for x in (0.53, -0.53):
        shape.add(Kind.RING, (x, 0, 0.34), (0.68, 0.68, 0.05), _TYRE, 0.06, axes=AXLE)
    bars = (
        ((-0.53, 0, 0.34), (-0.18, 0, 0.86)),
        ((-0.15, 0, 0.80), (0.40, 0, 0.84)),
        ((-0.08, 0, 0.32), (0.42, 0, 0.80)),
        ((-0.08, 0, 0.32), (-0.22, 0, 0.92)),
        ((-0.53, 0, 0.34), (-0.08, 0, 0.32)),
        ((0.53, 0, 0.34), (0.38, 0, 1.00)),
    )
    for start, end in bars:
        shape.rod(start, end, 0.05, colour, albedo)
    shape.rod((0.36, -0.28, 1.02), (0.36, 0.28, 1.02), 0.04, _STEEL, 0.2)
    shape.add(Kind.ELLIPSOID, (-0.23, 0, 0.96), (0.28, 0.17, 0.09), (0.07, 0.07, 0.07), 0.06)
    return shape.solids()


def ridden_bicycle(rng: np.random.Generator) -> Solids:
    """Bicycle with its rider, who counts as part of it."""
    return Solids.concatenate([bicycle(rng), rider(rng, 0.95)]).labelled(BICYCLE, BICYCLIST)


def ridden_motorcycle(rng: np.random.Generator) -> Solids:
    """Motorcycle with its rider, who counts as part of it."""
    return Solids.concatenate([motorcycle(rng), rider(rng, 0.86, helmet=True)]).labelled(MOTORCYCLE, MOTORCYCLIST)


TYPES: dict[str, VehicleType] = {
    "car": VehicleType(car, 4.8, 1.9),
    "truck": VehicleType(truck, 7.8, 2.5),
    "trailer": VehicleType(trailer, 12.6, 2.6),
    "bus": VehicleType(bus, 11.3, 2.6),
    "construction": VehicleType(construction_vehicle, 8.0, 2.8),
    "motorcycle": VehicleType(motorcycle, 2.1, 0.9),
    "bicycle": VehicleType(bicycle, 1.8, 0.7),
    "ridden_motorcycle": VehicleType(ridden_motorcycle, 2.1, 0.9),
    "ridden_bicycle": VehicleType(ridden_bicycle, 1.8, 0.7),
}
"""Everything on wheels."""
