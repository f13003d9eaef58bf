"""From hits to surfaces: label, colour, reflectivity and normal of every ray, and the light that falls on them."""

from dataclasses import dataclass
from functools import cached_property

import cv2
import numpy as np

from ray_lidarseg.world.ground_paint import GroundPoints, paint_ground
from ray_lidarseg.world.materials import FINISH, Material, Paint, Surface
from ray_lidarseg.world.noise import texture
from ray_lidarseg.world.raycast import GROUND, Hits, cast
from ray_lidarseg.world.road import Road
from ray_lidarseg.world.scene import Nuisance, Scene
from ray_lidarseg.world.solids import Kind, Solids
from ray_lidarseg.world.views import ParallelView

_SHADOW_CELL_M, _SHADOW_TOP_M, _SHADOW_BIAS_M = 0.2, 60.0, 0.22
_SHADOW_BEHIND_M, _SHADOW_AHEAD_M, _SHADOW_SIDE_M = 55.0, 75.0, 60.0


@dataclass(frozen=True)
class Surfels:
    """What rays see; rays that meet nothing are left out.

    Attributes:
        ray: int64 [n] index of the ray.
        position: float32 [n, 3] in the world.
        normal: float32 [n, 3], unit length.
        colour: float32 [n, 3] in full light.
        albedo: float32 [n] for the LiDAR.
        label: uint8 [n] fine category index.
    """

    ray: np.ndarray
    position: np.ndarray
    normal: np.ndarray
    colour: np.ndarray
    albedo: np.ndarray
    label: np.ndarray


def surfels(
    road: Road, solids: Solids, origin: np.ndarray, direction: np.ndarray, hits: Hits, pixel_rad: float
) -> Surfels:
    """Gathers the surface of every hit.

    Args:
        road: The ground.
        solids: The primitives the hits index.
        origin: float32 [3].
        direction: float32 [R, 3].
        hits: Result of ``cast`` for these rays.
        pixel_rad: Angle between neighbouring rays: texture finer than that fades.
    """
    ray = np.flatnonzero(hits.solid >= GROUND)
    position = origin + hits.distance[ray, None] * direction[ray]
    reach = np.linalg.norm(position - origin, axis=1)
    on_ground = hits.solid[ray] == GROUND
    label, albedo = np.zeros(len(ray), np.uint8), np.zeros(len(ray), np.float32)
    colour, normal = np.zeros((len(ray), 3), np.float32), np.zeros((len(ray), 3), np.float32)
    ground, above = np.flatnonzero(on_ground), np.flatnonzero(~on_ground)
    x, y, _ = position[ground].T
    place = road.place(x, y)
    label[ground] = road.kind(place)
    flatness = np.abs(direction[ray[ground], 2]) / np.linalg.norm(direction[ray[ground]], axis=1)
    blur = reach[ground] * pixel_rad / np.sqrt(np.maximum(flatness, 0.02))
    colour[ground], albedo[ground] = paint_ground(road, GroundPoints(x, y, place, blur), label[ground])
    normal[ground] = (0, 0, 1)
    which = hits.solid[ray[above]]
    label[above] = solids.label[which]
    colour[above], albedo[above], normal[above] = _paint_solids(
        solids, which, position[above], reach[above] * pixel_rad
    )
    return Surfels(ray, position, normal, colour, albedo, label)


def _paint_solids(
    solids: Solids, which: np.ndarray, position: np.ndarray, blur: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    axes, half, taper = solids.axes[which], solids.half[which], solids.taper[which]
    local = np.einsum("nji,nj->ni", axes, position - solids.centre[which])
    unit = local / half
    face, unit_normal = _faces(solids.kind[which], unit, taper)
    normal = np.einsum("nij,nj->ni", axes, unit_normal / half)
    normal /= np.maximum(np.linalg.norm(normal, axis=1, keepdims=True), 1e-9)
    colour, albedo = solids.colour[which], solids.albedo[which]
    material = solids.material[which]
    for kind in np.unique(material):
        chosen = np.flatnonzero(material == kind)
        columns = (local, half, taper, face, colour, albedo, solids.salt[which], blur)
        paint_of = Surface(*(column[chosen] for column in columns))
        paint = Paint(paint_of)
        FINISH[Material(kind)](paint_of, paint)
        colour[chosen], albedo[chosen] = paint.colour, paint.albedo
    return np.clip(colour, 0, 1), albedo, normal


def _faces(kind: np.ndarray, unit: np.ndarray, taper: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Face index int8 [n] and normal float32 [n, 3] in the unit frame."""
    x, y, z = unit.T
    face, normal = np.zeros(len(unit), np.int8), unit.astype(np.float32).copy()
    flat = np.flatnonzero((kind == Kind.BOX) | (kind == Kind.WEDGE))
    front, rear, side = taper[flat].T
    height = (z[flat] + 1) / 2
    faces = (
        x[flat] + front * height, -x[flat] + rear * height, y[flat] + side * height, -y[flat] + side * height,
        z[flat], -z[flat],
    )  # fmt: skip
    face[flat] = np.argmax(np.stack(faces), axis=0)
    normal[flat] = _FACE_NORMALS[face[flat]]
    lean = np.stack([front, rear, side, side, 0 * side, 0 * side])[face[flat], np.arange(len(flat))]
    normal[flat, 2] += np.where(face[flat] < 4, lean / 2, 0)
    round_ = np.flatnonzero((kind == Kind.CYLINDER) | (kind == Kind.RING))
    is_end = np.abs(z[round_]) > 0.999
    face[round_] = np.where(is_end, np.where(z[round_] > 0, 4, 5), 0)
    normal[round_, 2] = np.where(is_end, z[round_], taper[round_, 0] / 2)
    normal[round_[is_end], :2] = 0
    return face, normal


_FACE_NORMALS = np.array([[1, 0, 0], [-1, 0, 0], [0, 1, 0], [0, -1, 0], [0, 0, 1], [0, 0, -1]], np.float32)


class Light:
    """Sun, sky and shadows of one scene; the shadows of what stands still are cast once."""

    def __init__(self, scene: Scene) -> None:
        self.scene, self.nuisance = scene, scene.nuisance

    @cached_property
    def _sun(self) -> ParallelView:
        length = self.scene.speed * self.scene.duration
        size = (length + _SHADOW_BEHIND_M + _SHADOW_AHEAD_M, 2 * _SHADOW_SIDE_M)
        shape = (int(size[1] / _SHADOW_CELL_M), int(size[0] / _SHADOW_CELL_M))
        low = np.array([-_SHADOW_BEHIND_M, -_SHADOW_SIDE_M])
        return ParallelView(self.nuisance.sun, low, _SHADOW_CELL_M, shape, _SHADOW_TOP_M)

    @cached_property
    def _fixed_shadows(self) -> np.ndarray:
        return cast(self._sun, self.scene.fixed).distance

    def shadow_map(self, time_s: float) -> np.ndarray:
        """float32 [rows, columns]: how far the sunlight of each cell gets, at a time."""
        moving = Solids.concatenate(mover.at(self.scene.road, time_s) for mover in self.scene.movers)
        return cast(self._sun, moving, self._fixed_shadows).distance.reshape(self._sun.shape)

    def lit_ratio(self, position: np.ndarray, shadow_map: np.ndarray) -> np.ndarray:
        """Share of sunlight that reaches each point, [0, 1]: the four nearest cells, weighted."""
        cell = self._sun.to_raster(position) - 0.5
        depth = self._sun.start + position[:, 2] / self._sun.direction[0, 2] - _SHADOW_BIAS_M
        base = np.floor(cell)
        weight = cell - base
        lit = np.zeros(len(position), np.float32)
        for right in (0, 1):
            for down in (0, 1):
                blocked = depth > _nearest(shadow_map, base[:, 0] + right, base[:, 1] + down)
                share_x = weight[:, 0] if right else 1 - weight[:, 0]
                lit += np.where(blocked, 0, share_x * (weight[:, 1] if down else 1 - weight[:, 1]))
        return lit

    def shade(self, seen: Surfels, origin: np.ndarray, shadow_map: np.ndarray) -> np.ndarray:
        """float32 [n, 3] colours as a camera at ``origin`` sees them, haze included."""
        toward = -(seen.normal @ self.nuisance.sun)
        lit = self.lit_ratio(seen.position, shadow_map) * np.clip(toward, 0, 1) * (seen.normal[:, 2] > -0.9)
        sky = 0.5 + 0.5 * seen.normal[:, 2]
        cool, warm = np.array([0.90, 0.98, 1.10], np.float32), np.array([1.06, 1.0, 0.92], np.float32)
        ambient = (0.30 + 0.34 * sky)[:, None] * cool * np.float32(1.25 - 0.35 * self.nuisance.sun_ratio)
        light = ambient + (0.95 * self.nuisance.sun_ratio * lit)[:, None] * warm
        colour = seen.colour * light.astype(np.float32)
        haze = 1 - np.exp(-np.linalg.norm(seen.position - origin, axis=1) / self.nuisance.haze_m)
        return colour + haze[:, None] * (_horizon(self.nuisance) - colour)

    def sky(self, direction: np.ndarray) -> np.ndarray:
        """float32 [n, 3] colour of the sky along rays: gradient, clouds, glow around the sun."""
        unit = direction / np.linalg.norm(direction, axis=1, keepdims=True)
        up = np.clip(unit[:, 2], 0, 1)
        zenith = np.array([0.30, 0.50, 0.82], np.float32) * (0.6 + 0.4 * self.nuisance.sun_ratio)
        grey = np.float32(1 - self.nuisance.sun_ratio) * np.array([0.25, 0.12, -0.04], np.float32)
        blend = np.clip(up * 1.7, 0, 1)[:, None] ** 0.6
        colour = _horizon(self.nuisance) * (1 - blend) + (zenith + grey) * blend
        flat = unit[:, :2] / (up[:, None] + 0.12)
        cloud = np.clip(
            0.45 * texture(flat[:, 0] * 9, flat[:, 1] * 9, 0.09) + 0.25 * (1 - self.nuisance.sun_ratio), 0, 0.8
        )
        colour = colour + (cloud * np.clip(up * 6, 0, 1))[:, None] * (np.float32(0.96) - colour)
        glow = np.clip(-(unit @ self.nuisance.sun), 0, 1) ** 40 * self.nuisance.sun_ratio
        return colour + 0.35 * glow[:, None]


def _horizon(nuisance: Nuisance) -> np.ndarray:
    clear, grey = np.array([0.80, 0.87, 0.94], np.float32), np.array([0.80, 0.82, 0.84], np.float32)
    return clear * np.float32(nuisance.sun_ratio) + grey * np.float32(1 - nuisance.sun_ratio)


def _nearest(raster: np.ndarray, column: np.ndarray, row: np.ndarray) -> np.ndarray:
    """Raster values at whole cells, inf outside."""
    count, width = len(column), 1024
    rows = max(1, -(-count // width))
    maps = np.full((2, rows * width), -10, np.float32)
    maps[0, :count], maps[1, :count] = column, row
    columns, lines = maps.reshape(2, rows, width)
    outside = (float("inf"),)
    found = cv2.remap(raster, columns, lines, cv2.INTER_NEAREST, borderMode=cv2.BORDER_CONSTANT, borderValue=outside)
    return found.ravel()[:count]
