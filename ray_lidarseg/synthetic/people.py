"""Pedestrians and riders: limbs of rods, torso and head of ellipsoids."""

import numpy as np

from ray_lidarseg.synthetic.materials import Material
from ray_lidarseg.synthetic.solids import Kind, Shape, Solids

ADULT, CHILD, CONSTRUCTION_WORKER = 2, 3, 4
"""Fine nuScenes category indices."""

_SKIN = ((0.87, 0.68, 0.56), (0.74, 0.53, 0.40), (0.48, 0.33, 0.24), (0.95, 0.77, 0.66))
_HAIR = ((0.10, 0.08, 0.07), (0.28, 0.18, 0.10), (0.62, 0.50, 0.30), (0.5, 0.5, 0.5))
_CLOTH_ALBEDO = 0.27


def _clothes(rng: np.random.Generator) -> tuple[float, float, float]:
    base = rng.uniform(0.08, 0.75)
    tint = rng.uniform(-0.22, 0.22, 3)
    red, green, blue = np.clip(base + tint, 0.04, 0.92)
    return float(red), float(green), float(blue)


def pedestrian(rng: np.random.Generator, label: int = ADULT) -> Solids:
    """A walking or standing person of about 1.7 m, a child of about 1.2 m, or a worker in a vest and helmet."""
    scale = float(rng.uniform(0.62, 0.78) if label == CHILD else rng.uniform(0.94, 1.08))
    stride = float(rng.uniform(-0.30, 0.30))
    is_worker = label == CONSTRUCTION_WORKER
    top = (0.96, 0.52, 0.08) if is_worker else _clothes(rng)
    trousers = _clothes(rng)
    skin = _SKIN[int(rng.integers(len(_SKIN)))]
    shape = Shape(label, float(rng.random()))
    at = lambda x, y, z: (x * scale, y * scale, z * scale)  # noqa: E731
    for side in (-1, 1):
        foot, knee = stride * side, stride * side * 0.45 + 0.06
        shape.rod(at(foot, side * 0.10, 0.05), at(knee, side * 0.10, 0.48), 0.13 * scale, trousers, _CLOTH_ALBEDO)
        shape.rod(at(knee, side * 0.10, 0.46), at(0, side * 0.09, 0.90), 0.17 * scale, trousers, _CLOTH_ALBEDO)
        shape.add(Kind.BOX, at(foot + 0.06, side * 0.1, 0.05), at(0.27, 0.1, 0.1), (0.1, 0.09, 0.08), 0.1)
        hand = at(-stride * side + 0.05, side * 0.29, 0.82)
        shape.rod(at(0, side * 0.22, 1.38), hand, 0.10 * scale, top, _CLOTH_ALBEDO)
    _torso(shape, scale, top, is_worker)
    _head(shape, scale, 0.0, 1.60, skin, rng, is_worker)
    if not is_worker and rng.random() < 0.25:
        shape.add(Kind.BOX, at(-0.2, 0, 1.18), at(0.18, 0.3, 0.42), _clothes(rng), _CLOTH_ALBEDO)
    return shape.solids()


def _torso(shape: Shape, scale: float, colour: tuple[float, float, float], is_worker: bool) -> None:
    size = (0.27 * scale, 0.44 * scale, 0.62 * scale)
    albedo = 0.75 if is_worker else _CLOTH_ALBEDO
    shape.add(Kind.ELLIPSOID, (0, 0, 1.20 * scale), size, colour, albedo, Material.CLOTH)
    shape.add(
        Kind.CYLINDER, (0, 0, 1.12 * scale), (0.25 * scale, 0.37 * scale, 0.5 * scale), colour, albedo, Material.CLOTH
    )


def _head(
    shape: Shape,
    scale: float,
    x: float,
    z: float,
    skin: tuple[float, float, float],
    rng: np.random.Generator,
    helmet: bool,
) -> None:
    shape.add(Kind.ELLIPSOID, (x * scale, 0, z * scale), (0.20 * scale, 0.17 * scale, 0.25 * scale), skin, 0.4)
    cap = (0.95, 0.8, 0.1) if helmet else _HAIR[int(rng.integers(len(_HAIR)))]
    size = (0.25 * scale, 0.23 * scale, 0.2 * scale) if helmet else (0.22 * scale, 0.2 * scale, 0.19 * scale)
    shape.add(Kind.ELLIPSOID, ((x - 0.025) * scale, 0, (z + 0.07) * scale), size, cap, 0.35 if helmet else 0.12)


def rider(rng: np.random.Generator, seat_m: float, helmet: bool = False) -> Solids:
    """A person sitting on a two-wheeler whose saddle is ``seat_m`` high at x = -0.2."""
    top, trousers = _clothes(rng), _clothes(rng)
    skin = _SKIN[int(rng.integers(len(_SKIN)))]
    shape = Shape(ADULT, float(rng.random()))
    for side in (-1, 1):
        knee = (0.22, side * 0.14, seat_m - 0.12)
        shape.rod((-0.2, side * 0.1, seat_m + 0.04), knee, 0.17, trousers, _CLOTH_ALBEDO)
        shape.rod(knee, (0.02, side * 0.14, seat_m - 0.58), 0.12, trousers, _CLOTH_ALBEDO)
        shape.rod((-0.02, side * 0.2, seat_m + 0.5), (0.38, side * 0.27, seat_m + 0.12), 0.1, top, _CLOTH_ALBEDO)
    shape.rod((-0.22, 0, seat_m), (0.0, 0, seat_m + 0.58), 0.36, top, _CLOTH_ALBEDO, taper=-0.1)
    _head(shape, 1.0, 0.07, seat_m + 0.78, skin, rng, helmet)
    return shape.solids()
