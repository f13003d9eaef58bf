"""What stands still: houses, trees, hedges, lamps, signs, barriers, cones and other street furniture."""

import numpy as np

from ray_lidarseg.synthetic.kitti_classes import (
    FENCE,
    OTHER_OBJECT,
    OTHER_STRUCTURE,
    POLE,
    TRAFFIC_SIGN,
    TRUNK,
)
from ray_lidarseg.synthetic.materials import Material
from ray_lidarseg.synthetic.solids import Kind, Shape, Solids, tilt_matrix

BARRIER, DEBRIS, PUSHABLE, CONE, BICYCLE_RACK, MANMADE, STATIC_OTHER, VEGETATION = 9, 10, 11, 12, 13, 28, 29, 30
"""Fine nuScenes category indices."""

_WALLS = (
    (0.74, 0.66, 0.56),
    (0.66, 0.48, 0.40),
    (0.82, 0.79, 0.72),
    (0.60, 0.62, 0.64),
    (0.78, 0.70, 0.52),
    (0.56, 0.38, 0.32),
    (0.70, 0.74, 0.74),
    (0.86, 0.82, 0.80),
)
_ROOFS = ((0.46, 0.24, 0.18), (0.30, 0.29, 0.30), (0.38, 0.31, 0.26))
_STEEL = (0.42, 0.44, 0.46)


def _wall_colour(rng: np.random.Generator) -> tuple[float, float, float]:
    red, green, blue = np.clip(np.array(_WALLS[int(rng.integers(len(_WALLS)))]) + rng.normal(0, 0.03, 3), 0.1, 0.95)
    return float(red), float(green), float(blue)


def house(rng: np.random.Generator, length: float, depth: float, height: float) -> Solids:
    """A building, front towards +y at y = 0, its middle at x = 0; low ones get a gable, high ones a flat roof."""
    shape = Shape(MANMADE, float(rng.random()))
    colour, albedo = _wall_colour(rng), float(rng.uniform(0.3, 0.62))
    material = Material.TOWER if height > 14 and rng.random() < 0.5 else Material.FACADE
    shape.add(Kind.BOX, (0, -depth / 2, height / 2), (length, depth, height), colour, albedo, material)
    shape.add(Kind.BOX, (0, -depth / 2, -1.5), (length, depth, 3.0), (0.4, 0.39, 0.38), 0.3, Material.CONCRETE)
    if height < 9 and rng.random() < 0.7:
        _gable(shape, rng, length, depth, height)
    else:
        _flat_roof(shape, rng, length, depth, height, colour)
    if rng.random() < 0.4 and height > 6:
        _balconies(shape, rng, length, height)
    return shape.solids()


def _gable(shape: Shape, rng: np.random.Generator, length: float, depth: float, height: float) -> None:
    rise = float(rng.uniform(1.8, 3.4))
    tone = _ROOFS[int(rng.integers(len(_ROOFS)))]
    centre, size = (0, -depth / 2, height + rise / 2), (length + 0.6, depth + 0.8, rise)
    shape.add(Kind.WEDGE, centre, size, tone, 0.25, Material.ROOF, (0.0, 0.0, 0.96))
    x = float(rng.uniform(-0.3, 0.3)) * length
    shape.add(Kind.BOX, (x, -depth / 2 - 1, height + rise), (0.7, 0.7, 1.6), (0.5, 0.3, 0.25), 0.3, Material.BRICK)


def _flat_roof(
    shape: Shape, rng: np.random.Generator, length: float, depth: float, height: float, colour: tuple
) -> None:
    darker = tuple(0.8 * channel for channel in colour)
    top = (length + 0.3, depth + 0.3, 0.5)
    shape.add(Kind.BOX, (0, -depth / 2, height + 0.2), top, darker, 0.3, Material.CONCRETE)
    x, y = float(rng.uniform(-0.3, 0.3)) * length, -depth * float(rng.uniform(0.3, 0.7))
    shape.add(Kind.BOX, (x, y, height + 1.2), (3.0, 2.4, 1.8), (0.55, 0.56, 0.57), 0.3, Material.CONCRETE)


def _balconies(shape: Shape, rng: np.random.Generator, length: float, height: float) -> None:
    x = float(rng.uniform(-0.3, 0.3)) * length
    for level in range(1, int(height // 3.1)):
        shape.add(Kind.BOX, (x, 0.55, level * 3.1 + 0.5), (2.6, 1.1, 1.0), (0.5, 0.52, 0.54), 0.25, Material.CONCRETE)


def tree(rng: np.random.Generator) -> Solids:
    """Broad-leaved tree, or a slim cypress in every sixth case."""
    shape = Shape(VEGETATION, float(rng.random()))
    height = float(rng.uniform(4.5, 9.5))
    green = _green(rng)
    trunk = float(rng.uniform(0.18, 0.42))
    bare = float(rng.uniform(1.7, 2.6))
    axes = tilt_matrix(pitch_rad=float(rng.normal(0, 0.04)), roll_rad=float(rng.normal(0, 0.04)))
    size = (trunk, trunk, height * 0.7 + 0.5)
    centre = (0, 0, height * 0.35 - 0.25)
    shape.add(Kind.CYLINDER, centre, size, (0.33, 0.26, 0.20), 0.25, Material.BARK, (0.5, 0, 0), axes, kitti=TRUNK)
    if rng.random() < 0.17:
        crown = (1.6, 1.6, height - 0.8)
        shape.add(Kind.LEAVES, (0, 0, height / 2 + 0.5), crown, (0.16, 0.30, 0.14), 0.25, Material.LEAF)
        return shape.solids()
    spread = float(rng.uniform(0.55, 0.8)) * (height - bare)
    for branch in range(3):
        turn = 2.1 * branch + shape.salt * 6
        end = (0.35 * spread * np.cos(turn), 0.35 * spread * np.sin(turn), bare + 0.45 * (height - bare))
        shape.rod((0, 0, bare * 0.8), end, 0.12, (0.33, 0.26, 0.20), 0.25, kitti=TRUNK)
    for _ in range(int(rng.integers(5, 9))):
        turn, out = rng.uniform(0, 2 * np.pi), spread * np.sqrt(rng.random()) * 0.5
        width = float(rng.uniform(0.5, 0.8)) * spread
        z = float(rng.uniform(bare + 0.3 * width, height - 0.35 * width))
        lump = (float(out * np.cos(turn)), float(out * np.sin(turn)), z)
        tone = tuple(np.clip(np.array(green) * rng.uniform(0.85, 1.15), 0, 1))
        size = (width, width * float(rng.uniform(0.8, 1.2)), width * float(rng.uniform(0.6, 0.85)))
        shape.add(Kind.LEAVES, lump, size, tone, 0.27, Material.LEAF)
    return shape.solids()


def _green(rng: np.random.Generator) -> tuple[float, float, float]:
    return float(rng.uniform(0.20, 0.42)), float(rng.uniform(0.36, 0.52)), float(rng.uniform(0.12, 0.22))


def bush(rng: np.random.Generator) -> Solids:
    """A round bush of one to three leafy lumps."""
    shape = Shape(VEGETATION, float(rng.random()))
    green = _green(rng)
    for _ in range(int(rng.integers(1, 4))):
        width, height = float(rng.uniform(0.9, 2.2)), float(rng.uniform(0.7, 1.5))
        x, y = rng.uniform(-0.6, 0.6, 2)
        centre = (float(x), float(y), height * 0.42)
        shape.add(Kind.LEAVES, centre, (width, width, height), green, 0.27, Material.LEAF)
    return shape.solids()


def thicket(rng: np.random.Generator) -> Solids:
    """Shrubs as high as a garage, leafy down to the ground."""
    shape = Shape(VEGETATION, float(rng.random()))
    green = _green(rng)
    for _ in range(int(rng.integers(3, 6))):
        width, height = float(rng.uniform(1.8, 3.2)), float(rng.uniform(2.0, 4.0))
        x, y = rng.uniform(-1.2, 1.2, 2)
        centre = (float(x), float(y), height * 0.42)
        shape.add(Kind.LEAVES, centre, (width, width, height), green, 0.27, Material.LEAF)
    return shape.solids()


def hedge(rng: np.random.Generator, length: float) -> Solids:
    """A cut hedge along x: overlapping lumps in front of a dense core."""
    shape = Shape(VEGETATION, float(rng.random()))
    green = _green(rng)
    height, depth = float(rng.uniform(0.9, 1.7)), float(rng.uniform(0.8, 1.1))
    core = tuple(0.62 * channel for channel in green)
    shape.add(Kind.BOX, (0, 0, height * 0.45), (length, depth * 0.62, height * 0.9), core, 0.25, Material.LEAF)  # type: ignore[arg-type]
    for x in np.arange(-length / 2, length / 2, 0.8):
        size = (1.5, depth * float(rng.uniform(0.9, 1.2)), height * float(rng.uniform(0.95, 1.15)))
        shape.add(Kind.LEAVES, (float(x) + 0.4, 0, height * 0.5), size, green, 0.27, Material.LEAF)
    return shape.solids()


def street_lamp(rng: np.random.Generator) -> Solids:
    """Lamp post whose arm reaches towards +y."""
    shape = Shape(MANMADE, float(rng.random()), POLE)
    height = float(rng.uniform(5.5, 8.0))
    shape.add(Kind.CYLINDER, (0, 0, height / 2), (0.18, 0.18, height), _STEEL, 0.3, 0, (0.4, 0, 0))
    shape.add(Kind.CYLINDER, (0, 0, 0.5), (0.3, 0.3, 1.0), _STEEL, 0.3)
    shape.rod((0, 0, height - 0.05), (0, 1.8, height + 0.25), 0.09, _STEEL, 0.3)
    shape.add(Kind.WEDGE, (0, 1.9, height + 0.22), (0.28, 0.75, 0.14), (0.7, 0.7, 0.68), 0.4, 0, (0.3, 0.3, 0.2))
    return shape.solids()


def traffic_sign(rng: np.random.Generator) -> Solids:
    """A sign facing -x and +x."""
    shape = Shape(MANMADE, float(rng.random()), POLE)
    colours = ((0.75, 0.1, 0.1), (0.1, 0.25, 0.62), (0.85, 0.65, 0.1), (0.1, 0.42, 0.22))
    colour = colours[int(rng.integers(len(colours)))]
    height = float(rng.uniform(2.2, 2.8))
    shape.rod((0, 0, 0), (0, 0, height + 0.3), 0.08, _STEEL, 0.4)
    shape.add(Kind.BOX, (-0.06, 0, height), (0.04, 0.7, 0.7), colour, 0.9, Material.SIGN, kitti=TRAFFIC_SIGN)
    return shape.solids()


def traffic_light(rng: np.random.Generator) -> Solids:
    """A signal for traffic that comes along +x, with a second head on an arm towards +y."""
    shape = Shape(MANMADE, float(rng.random()), POLE)
    shape.rod((0, 0, 0), (0, 0, 5.4), 0.2, (0.2, 0.21, 0.22), 0.2)
    shape.rod((0, 0, 5.2), (0, 3.6, 5.5), 0.13, (0.2, 0.21, 0.22), 0.2)
    for y, z in ((0.0, 3.0), (3.4, 5.1)):
        shape.add(
            Kind.BOX, (-0.2, y, z), (0.22, 0.36, 1.0), (0.07, 0.08, 0.07), 0.08, Material.SIGNAL, kitti=OTHER_OBJECT
        )
    return shape.solids()


def barrier(rng: np.random.Generator, length: float = 2.0) -> Solids:
    """A red and white road barrier along x."""
    shape = Shape(BARRIER, float(rng.random()))
    shape.add(Kind.WEDGE, (0, 0, 0.25), (length, 0.55, 0.5), (0.86, 0.85, 0.82), 0.2, Material.CONCRETE, (0, 0, 0.55))
    shape.add(Kind.BOX, (0, 0, 0.72), (length * 0.97, 0.16, 0.62), (0.9, 0.88, 0.86), 0.2, Material.BARRIER)
    return shape.solids()


def cone(rng: np.random.Generator) -> Solids:
    """A traffic cone."""
    shape = Shape(CONE, float(rng.random()))
    shape.add(Kind.BOX, (0, 0, 0.03), (0.44, 0.44, 0.06), (0.12, 0.11, 0.1), 0.1)
    shape.add(Kind.CYLINDER, (0, 0, 0.42), (0.36, 0.36, 0.75), (0.95, 0.36, 0.08), 0.45, Material.CONE, (0.82, 0, 0))
    return shape.solids()


def fence(rng: np.random.Generator, length: float) -> Solids:
    """Garden wall or wooden fence along x."""
    shape = Shape(MANMADE, float(rng.random()), FENCE)
    height = float(rng.uniform(1.0, 2.0))
    if rng.random() < 0.5:
        colour, material = (0.50, 0.38, 0.27), Material.PLANKS
    else:
        colour, material = (0.62, 0.42, 0.34), Material.BRICK
    shape.add(Kind.BOX, (0, 0, height / 2 - 0.3), (length, 0.16, height + 0.6), colour, 0.35, material)
    for x in np.arange(-length / 2, length / 2 + 0.1, 3.0):
        shape.add(Kind.BOX, (float(x), 0, height / 2), (0.24, 0.26, height + 0.12), (0.5, 0.45, 0.4), 0.35)
    return shape.solids()


def planter(rng: np.random.Generator) -> Solids:
    """Concrete tub with a plant: looks like a barrier to a LiDAR."""
    shape = Shape(MANMADE, float(rng.random()))
    shape.add(Kind.BOX, (0, 0, 0.35), (1.7, 0.6, 0.7), (0.58, 0.57, 0.55), 0.22, Material.CONCRETE, kitti=OTHER_OBJECT)
    for x in (-0.4, 0.4):
        shape.add(Kind.LEAVES, (x, 0, 0.85), (0.9, 0.6, 0.6), _green(rng), 0.27, Material.LEAF, label=VEGETATION)
    return shape.solids()


def bollard(rng: np.random.Generator) -> Solids:
    """Low post: looks like a cone to a LiDAR."""
    shape = Shape(MANMADE, float(rng.random()), POLE)
    shape.add(Kind.CYLINDER, (0, 0, 0.45), (0.2, 0.2, 0.9), (0.25, 0.26, 0.28), 0.4, 0, (0.2, 0, 0))
    shape.add(Kind.CYLINDER, (0, 0, 0.78), (0.19, 0.19, 0.1), (0.9, 0.9, 0.88), 0.6)
    return shape.solids()


def bus_shelter(rng: np.random.Generator) -> Solids:
    """Shelter open towards +y."""
    shape = Shape(MANMADE, float(rng.random()), OTHER_STRUCTURE)
    shape.add(Kind.BOX, (0, 0, 2.4), (3.6, 1.5, 0.12), (0.3, 0.32, 0.34), 0.3)
    shape.add(Kind.BOX, (0, -0.65, 1.25), (3.4, 0.05, 2.0), (0.42, 0.55, 0.60), 0.08)
    shape.add(Kind.BOX, (-1.7, 0, 1.25), (0.06, 1.2, 2.0), (0.75, 0.6, 0.3), 0.3)
    for x in (-1.7, 1.7):
        shape.rod((x, 0.6, 0), (x, 0.6, 2.4), 0.09, _STEEL, 0.3)
    shape.add(Kind.BOX, (0, -0.35, 0.45), (2.4, 0.4, 0.08), (0.45, 0.32, 0.2), 0.3)
    return shape.solids()


def clutter(rng: np.random.Generator) -> Solids:
    """Something that is no class: bin, rack, rubble or cabinet."""
    style = rng.choice(["bin", "rack", "rubble", "cabinet"])
    label = {"bin": PUSHABLE, "rack": BICYCLE_RACK, "rubble": DEBRIS, "cabinet": STATIC_OTHER}[str(style)]
    shape = Shape(label, float(rng.random()))
    if style == "bin":
        shape.add(Kind.BOX, (0, 0, 0.55), (0.6, 0.7, 1.1), (0.14, 0.28, 0.18), 0.2)
    elif style == "rack":
        for x in (-0.6, 0.0, 0.6):
            shape.add(Kind.RING, (x, 0, 0.4), (0.9, 0.8, 0.06), _STEEL, 0.3, axes=tilt_matrix(roll_rad=np.pi / 2))
    elif style == "rubble":
        shape.add(Kind.ELLIPSOID, (0, 0, 0.05), (1.3, 1.0, 0.7), (0.45, 0.42, 0.38), 0.3)
    else:
        shape.add(Kind.BOX, (0, 0, 0.65), (0.9, 0.4, 1.3), (0.55, 0.58, 0.55), 0.3)
    return shape.solids()


def earth_heap(rng: np.random.Generator) -> Solids:
    """A heap of soil on a building site."""
    shape = Shape(27, float(rng.random()))
    width = float(rng.uniform(2.5, 4.5))
    shape.add(Kind.ELLIPSOID, (0, 0, 0.1), (width, width * 0.8, 2.2), (0.42, 0.33, 0.24), 0.25, Material.BARK)
    return shape.solids()
