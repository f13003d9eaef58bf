"""What surfaces look like: colour for the cameras and reflectivity for the LiDAR at every hit point."""

from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum

import numpy as np

from ray_lidarseg.synthetic.noise import hash01, texture

Vector = tuple[float, float, float]


class Material(IntEnum):
    """How a primitive's own colour is modulated over its surface."""

    PLAIN = 0
    CAR_BODY = 1
    CAR_CABIN = 2
    BUS = 3
    CARGO = 4
    WHEEL = 5
    FACADE = 6
    TOWER = 7
    ROOF = 8
    LEAF = 9
    BARK = 10
    BARRIER = 11
    CONE = 12
    SIGN = 13
    PLANKS = 14
    BRICK = 15
    CLOTH = 16
    CONCRETE = 17
    SIGNAL = 18
    MACHINE = 19


@dataclass(frozen=True)
class Surface:
    """Hit points on primitives of one material.

    Attributes:
        local: float32 [n, 3] position in the primitive's frame, metres.
        half: float32 [n, 3] half extents.
        taper: float32 [n, 3].
        face: int8 [n]: 0 front +x, 1 rear -x, 2 left +y, 3 right -y, 4 top +z, 5 bottom -z; round mantles are 0.
        colour: float32 [n, 3] the primitive's own colour.
        albedo: float32 [n] its own reflectivity.
        salt: float32 [n].
        blur_m: float32 [n] size of a pixel on the surface; finer detail must fade.
    """

    local: np.ndarray
    half: np.ndarray
    taper: np.ndarray
    face: np.ndarray
    colour: np.ndarray
    albedo: np.ndarray
    salt: np.ndarray
    blur_m: np.ndarray

    @property
    def unit(self) -> np.ndarray:
        """float32 [n, 3] position in units of the half extents."""
        return self.local / self.half

    @property
    def is_side(self) -> np.ndarray:
        """Left and right faces."""
        return (self.face == 2) | (self.face == 3)


class Paint:
    """Colour and reflectivity under construction; later coats cover earlier ones."""

    def __init__(self, surface: Surface) -> None:
        self.colour = surface.colour.copy()
        self.albedo = surface.albedo.copy()

    def coat(self, where: np.ndarray, colour: Vector | np.ndarray, albedo: float | None = None) -> None:
        """Covers the chosen points."""
        self.colour[where] = colour[where] if isinstance(colour, np.ndarray) else colour
        if albedo is not None:
            self.albedo[where] = albedo

    def shade(self, factor: np.ndarray) -> None:
        """Multiplies the colour."""
        self.colour *= factor[:, None]


def fade(period_m: float, blur_m: np.ndarray) -> np.ndarray:
    """How much of a pattern of that period is left at that pixel size, [0, 1]."""
    return np.clip(1.4 - 2 * blur_m / period_m, 0, 1)


def _glass(salt: np.ndarray, up: np.ndarray) -> np.ndarray:
    """Dark glass that mirrors the sky towards its upper edge."""
    tone = 0.10 + 0.22 * np.clip(up, 0, 1) + 0.08 * salt
    return (tone[:, None] * np.array([0.82, 0.97, 1.12], np.float32)).astype(np.float32)


def _plain(s: Surface, paint: Paint) -> None:
    del s, paint


def _car_body(s: Surface, paint: Paint) -> None:
    x, y, z = s.unit.T
    side = s.is_side
    paint.shade(np.where(side & (z > 0.1) & (z < 0.2), 0.8, 1.0))  # crease
    paint.coat((z < -0.72) & (s.face < 4), (0.07, 0.07, 0.08), 0.06)  # sill
    wheel_x = np.abs(np.abs(x) - 0.61) * s.half[:, 0]
    arch = side & (np.hypot(wheel_x, s.local[:, 2] + s.half[:, 2] - 0.05) < 0.42)
    paint.coat(arch, (0.03, 0.03, 0.03), 0.04)
    door = side & ((np.abs(x - 0.28) < 0.012) | (np.abs(x + 0.12) < 0.012) | (np.abs(x + 0.42) < 0.012))
    paint.coat(door & (z > -0.6) & (s.blur_m < 0.05), (0.08, 0.08, 0.08))
    ends = (s.face == 0) | (s.face == 1)
    plate = ends & (np.abs(s.local[:, 1]) < 0.27) & (np.abs(z + 0.25) < 0.2)
    paint.coat((s.face == 0) & (np.abs(y) < 0.5) & (z > -0.55) & (z < 0.15), (0.05, 0.05, 0.06), 0.06)
    paint.coat(plate, (0.9, 0.9, 0.86), 0.9)
    lamp = ends & (np.abs(y) > 0.6) & (np.abs(y) < 0.95) & (z > 0.0) & (z < 0.55)
    paint.coat(lamp & (s.face == 0), (0.96, 0.96, 0.9), 0.5)
    paint.coat(lamp & (s.face == 1), (0.72, 0.05, 0.05), 0.6)


def _car_cabin(s: Surface, paint: Paint) -> None:
    height = (s.unit[:, 2] + 1) / 2
    side = s.is_side
    x = s.unit[:, 0] / np.where(s.unit[:, 0] > 0, 1 - s.taper[:, 0] * height, 1 - s.taper[:, 1] * height)
    y = s.unit[:, 1] / (1 - s.taper[:, 2] * height)
    pillar = side & ((np.abs(x) > 0.93) | (np.abs(x - 0.02) < 0.03) | (np.abs(x + 0.5) < 0.03))
    pillar |= ~side & (np.abs(y) > 0.92)
    glass = (s.face < 4) & ~pillar & (height < 0.9) & (height > 0.06)
    paint.coat(glass, _glass(s.salt, height), 0.03)


def _bus(s: Surface, paint: Paint) -> None:
    x, y, z = s.unit.T
    side = s.is_side
    stripe = (s.face < 4) & (z > -0.42) & (z < -0.28)
    paint.coat(stripe, (0.92, 0.92, 0.9), 0.5)
    paint.coat((s.face < 4) & (z < -0.86), (0.08, 0.08, 0.09), 0.06)
    cell = np.abs((s.local[:, 0] / 1.5) % 1 - 0.5)
    windows = side & (z > -0.05) & (z < 0.62) & (cell < 0.45) & (np.abs(x) < 0.97)
    door = (s.face == 3) & (z > -0.8) & (z < 0.62) & ((np.abs(x - 0.8) < 0.09) | (np.abs(x - 0.05) < 0.09))
    front = (s.face == 0) & (z > -0.3) & (z < 0.6) & (np.abs(y) < 0.92)
    rear = (s.face == 1) & (z > 0.1) & (z < 0.6) & (np.abs(y) < 0.8)
    paint.coat(windows | door | front | rear, _glass(s.salt, (z + 1) / 2), 0.03)
    paint.coat((s.face == 0) & (z > 0.68) & (z < 0.9) & (np.abs(y) < 0.6), (0.95, 0.62, 0.1), 0.3)
    lamp = (np.abs(y) > 0.68) & (z > -0.75) & (z < -0.55)
    paint.coat(lamp & (s.face == 0), (0.96, 0.96, 0.9), 0.5)
    paint.coat(lamp & (s.face == 1), (0.72, 0.05, 0.05), 0.6)
    for wheel in (0.62, -0.55):
        arch = side & (np.hypot((x - wheel) * s.half[:, 0], s.local[:, 2] + s.half[:, 2]) < 0.62)
        paint.coat(arch, (0.03, 0.03, 0.03), 0.04)


def _cargo(s: Surface, paint: Paint) -> None:
    rib = 0.5 + 0.5 * np.cos(2 * np.pi * s.local[:, 0] / 0.6)
    paint.shade(1 - 0.14 * rib**4 * fade(0.6, s.blur_m) * s.is_side)
    x, y, z = s.unit.T
    logo = s.is_side & (np.abs(x) < 0.55) & (np.abs(z - 0.15) < 0.32) & (s.salt > 0.4)
    tone = np.stack([s.salt, (s.salt * 7.3) % 1, (s.salt * 3.7) % 1], axis=1).astype(np.float32)
    paint.coat(logo, 0.25 + 0.6 * tone, 0.3)
    paint.coat((s.face < 2) & (np.abs(y) < 0.012), (0.15, 0.15, 0.15))
    marker = (s.face < 4) & (z < -0.9) & (((s.local[:, 0] + s.local[:, 1]) / 0.4) % 2 < 1)
    paint.coat(marker, (0.8, 0.12, 0.1), 0.9)


def _wheel(s: Surface, paint: Paint) -> None:
    radius = np.hypot(s.unit[:, 0], s.unit[:, 1])
    rim = (s.face >= 4) & (radius < 0.62)
    spoke = np.cos(5 * np.arctan2(s.unit[:, 1], s.unit[:, 0])) > -0.3
    paint.coat(rim & spoke, (0.55, 0.56, 0.58), 0.3)
    paint.coat(rim & (radius < 0.16), (0.25, 0.25, 0.26), 0.2)


def _wall_position(s: Surface) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Along the wall and above the ground in metres, and which wall."""
    along = np.where(s.is_side, s.local[:, 0] + s.half[:, 0], s.local[:, 1] + s.half[:, 1])
    return along, s.local[:, 2] + s.half[:, 2], s.face.astype(np.float32)


def _facade(s: Surface, paint: Paint) -> None:
    along, up, wall = _wall_position(s)
    style = (s.salt * 5.7) % 1
    period, storey = 2.4 + 1.6 * style, 3.1
    width = np.where(s.is_side, s.half[:, 0], s.half[:, 1]) * 2
    bays = np.maximum(np.round(width / period), 1)
    across, above = along * bays / width, up / storey
    cell_x, cell_y = across % 1, above % 1
    grain = texture(along * 1.3 + wall * 17, up, 0.11)
    paint.shade(1 + 0.045 * grain)
    ledge = (cell_y < 0.07) & (above > 1)
    paint.shade(np.where(ledge, 1.12, 1.0))
    is_wall = s.face < 4
    window = is_wall & (np.abs(cell_x - 0.5) < 0.20 + 0.10 * style) & (cell_y > 0.26) & (cell_y < 0.80)
    frame = is_wall & (np.abs(cell_x - 0.5) < 0.24 + 0.10 * style) & (cell_y > 0.22) & (cell_y < 0.85)
    paint.coat(frame, np.clip(paint.colour * 1.25 + 0.06, 0, 1), 0.45)
    which = hash01(np.floor(across), np.floor(above), wall, s.salt)
    paint.coat(window, _glass(which, cell_y) * (0.7 + 0.6 * which[:, None]), 0.04)
    curtain = window & (which > 0.72) & (np.abs(cell_x - 0.5) > 0.1)
    paint.coat(curtain, (0.72, 0.69, 0.62), 0.12)
    mullion = window & (np.abs(cell_x - 0.5) < 0.018) & (s.blur_m < 0.12)
    paint.coat(mullion, (0.8, 0.8, 0.78))
    _shop(s, paint, along, up)


def _shop(s: Surface, paint: Paint, along: np.ndarray, up: np.ndarray) -> None:
    """Ground floor of some houses: glass front, awning, sign."""
    has_shop = (s.salt > 0.45) & (s.face < 4)
    bay = (along / 4.2) % 1
    which = hash01(np.floor(along / 4.2), s.face.astype(np.float32), 5.0, s.salt)
    tone = np.stack([which, (which * 5.1) % 1, (which * 9.7) % 1], axis=1).astype(np.float32) * 0.6 + 0.15
    front = has_shop & (up > 0.4) & (up < 2.5) & (np.abs(bay - 0.5) < 0.45)
    paint.coat(has_shop & (up < 3.1), np.float32(0.55) * paint.colour + 0.05, 0.3)
    paint.coat(front, _glass(which, up / 2.5) * 0.8, 0.04)
    paint.coat(has_shop & (up > 2.55) & (up < 3.05) & (np.abs(bay - 0.5) < 0.47), tone, 0.3)


def _tower(s: Surface, paint: Paint) -> None:
    along, up, wall = _wall_position(s)
    cell_x, cell_y = (along / 1.6) % 1, (up / 3.6) % 1
    glass = (s.face < 4) & (cell_x > 0.07) & (cell_y > 0.24)
    which = hash01(np.floor(along / 1.6), np.floor(up / 3.6), wall, s.salt)
    paint.coat(glass, _glass(which * 0.6, 0.3 + 0.5 * which) * (0.9 + 0.5 * (s.colour[:, 2:] - 0.4)), 0.05)


def _roof(s: Surface, paint: Paint) -> None:
    row = (s.local[:, 2] / 0.28) % 1
    paint.shade(1 - 0.2 * (row < 0.18) * fade(0.28, s.blur_m) + 0.05 * texture(s.local[:, 0], s.local[:, 2], 0.12))


def _leaf(s: Surface, paint: Paint) -> None:
    x, y, z = s.local.T
    fine = hash01(x / 0.16, y / 0.16, z / 0.16, s.salt)
    clump = hash01(x / 0.5, y / 0.5, z / 0.45, s.salt)
    up = (s.unit[:, 2] + 1) / 2
    paint.shade(0.50 + 0.32 * up + 0.34 * (fine - 0.5) + 0.30 * (clump - 0.5))
    paint.colour[:, 0] *= 0.9 + 0.35 * clump
    paint.albedo *= 0.8 + 0.4 * fine


def _bark(s: Surface, paint: Paint) -> None:
    groove = hash01(np.arctan2(s.local[:, 1], s.local[:, 0]) * 6, s.local[:, 2] / 0.5, 0.0, s.salt)
    paint.shade(0.75 + 0.4 * groove)


def _barrier(s: Surface, paint: Paint) -> None:
    stripe = ((s.local[:, 0] + 0.6 * s.local[:, 2]) / 0.35) % 2 < 1
    band = (s.unit[:, 2] > -0.35) & (s.unit[:, 2] < 0.75) & (s.face < 4)
    paint.coat(band & stripe, (0.82, 0.12, 0.09), 0.2)
    paint.coat(band & ~stripe, (0.93, 0.92, 0.9), 0.26)


def _cone(s: Surface, paint: Paint) -> None:
    height = (s.unit[:, 2] + 1) / 2
    paint.coat(((height > 0.38) & (height < 0.56)) | ((height > 0.7) & (height < 0.82)), (0.95, 0.95, 0.93), 0.9)


def _sign(s: Surface, paint: Paint) -> None:
    x, z = s.unit[:, 1], s.unit[:, 2]
    inner = (np.abs(x) < 0.82) & (np.abs(z) < 0.82)
    paint.coat(~inner & (s.face < 2), (0.94, 0.94, 0.94), 0.95)
    glyph = inner & (s.face < 2) & (np.abs(z) < 0.16) & (np.abs(x) < 0.6)
    paint.coat(glyph, (0.96, 0.96, 0.96), 0.95)


def _planks(s: Surface, paint: Paint) -> None:
    along, _, wall = _wall_position(s)
    plank = hash01(along / 0.18, wall, 0.0, s.salt)
    gap = ((along / 0.18) % 1 < 0.12) & (s.blur_m < 0.1)
    paint.shade((0.8 + 0.35 * plank) * np.where(gap, 0.45, 1.0))


def _brick(s: Surface, paint: Paint) -> None:
    along, up, _ = _wall_position(s)
    row = np.floor(up / 0.11)
    across = along / 0.27 + 0.5 * (row % 2)
    brick = hash01(across, row, 0.0, s.salt)
    mortar = ((up / 0.11) % 1 < 0.14) | (across % 1 < 0.07)
    strength = fade(0.2, s.blur_m)
    paint.shade(1 + strength * (0.3 * (brick - 0.5) + 0.35 * mortar))


def _cloth(s: Surface, paint: Paint) -> None:
    paint.shade(0.88 + 0.24 * hash01(s.local[:, 0] / 0.12, s.local[:, 1] / 0.12, s.local[:, 2] / 0.2, s.salt))


def _concrete(s: Surface, paint: Paint) -> None:
    along, up, _ = _wall_position(s)
    paint.shade(1 + 0.06 * texture(along, up, 0.09) - 0.10 * ((along / 2.0) % 1 < 0.015))


def _signal(s: Surface, paint: Paint) -> None:
    z, y = s.unit[:, 2], s.unit[:, 1]
    lit = np.floor(s.salt * 2.99)
    for index, colour in enumerate(((0.95, 0.12, 0.1), (0.98, 0.75, 0.15), (0.15, 0.9, 0.45))):
        inside = (s.face < 2) & (np.hypot(y * 0.45, z - 0.64 + 0.64 * index) < 0.27)
        bright = np.where(lit == index, 1.0, 0.22)[:, None].astype(np.float32)
        paint.coat(inside, bright * np.array(colour, np.float32), 0.2)


def _machine(s: Surface, paint: Paint) -> None:
    grime = texture(s.local[:, 0] + s.local[:, 1], s.local[:, 2], 0.05)
    paint.shade(0.95 + 0.06 * grime)
    hazard = (s.face < 2) & (s.unit[:, 2] < -0.5) & (((s.local[:, 1] + s.local[:, 2]) / 0.3) % 1 < 0.5)
    paint.coat(hazard, (0.06, 0.06, 0.06), 0.1)


FINISH: dict[Material, Callable[[Surface, Paint], None]] = {
    Material.PLAIN: _plain,
    Material.CAR_BODY: _car_body,
    Material.CAR_CABIN: _car_cabin,
    Material.BUS: _bus,
    Material.CARGO: _cargo,
    Material.WHEEL: _wheel,
    Material.FACADE: _facade,
    Material.TOWER: _tower,
    Material.ROOF: _roof,
    Material.LEAF: _leaf,
    Material.BARK: _bark,
    Material.BARRIER: _barrier,
    Material.CONE: _cone,
    Material.SIGN: _sign,
    Material.PLANKS: _planks,
    Material.BRICK: _brick,
    Material.CLOTH: _cloth,
    Material.CONCRETE: _concrete,
    Material.SIGNAL: _signal,
    Material.MACHINE: _machine,
}
"""How each material paints its surface."""
