"""From hits to surfaces: label, colour, reflectivity and normal of every ray, and the light that falls on them."""

from dataclasses import dataclass
from functools import cached_property

import cv2
import numpy as np

from ray_lidarseg.synthetic.ground_paint import GroundPoints, paint_ground
from ray_lidarseg.synthetic.materials import FINISH, Material, Paint, Surface
from ray_lidarseg.synthetic.noise import texture
from ray_lidarseg.synthetic.raycast import GROUND, Hits, cast
from ray_lidarseg.synthetic.road import Road
from ray_lidarseg.synthetic.scene import Nuisance, Scene
from ray_lidarseg.synthetic.solids import Kind, Solids
from ray_lidarseg.synthetic.views import ParallelView

_SHADOW_CELL_M, _SHADOW_TOP_M, _SHADOW_BIAS_M = 0.2, 60.0, 0.15
_OCCLUSION, _OCCLUSION_NEAR_M, _OCCLUSION_FAR_M = 0.5, 0.3, 0.8
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


class Shadows:
    """What one direction of light reaches: a raster of parallel rays; what stands still is cast once."""

    def __init__(self, scene: Scene, direction: np.ndarray) -> None:
        length = scene.speed * scene.duration
        size = (length + _SHADOW_BEHIND_M + _SHADOW_AHEAD_M, 2 * _SHADOW_SIDE_M)
        shape = (int(size[1] / _SHADOW_CELL_M), int(size[0] / _SHADOW_CELL_M))
        low = np.array([-_SHADOW_BEHIND_M, -_SHADOW_SIDE_M])
        self.view = ParallelView(direction, low, _SHADOW_CELL_M, shape, _SHADOW_TOP_M)
        self._fixed = cast(self.view, scene.fixed).distance

    def depth(self, moving: Solids) -> np.ndarray:
        """float32 [rows, columns]: how far the light of each cell gets, with these moving things in its way."""
        return cast(self.view, moving, self._fixed).distance.reshape(self.view.shape)

    def lit_ratio(self, position: np.ndarray, depth: np.ndarray) -> np.ndarray:
        """Share of the light that reaches each point, [0, 1]: the four nearest cells, weighted."""
        cell = self.view.to_raster(position) - 0.5
        base = np.floor(cell)
        weight = cell - base
        reach = self._reach(position)
        lit = np.zeros(len(position), np.float32)
        for right in (0, 1):
            for down in (0, 1):
                blocked = reach > _nearest(depth, base[:, 0] + right, base[:, 1] + down)
                share_x = weight[:, 0] if right else 1 - weight[:, 0]
                lit += np.where(blocked, 0, share_x * (weight[:, 1] if down else 1 - weight[:, 1]))
        return lit

    def open_ratio(self, position: np.ndarray, depth: np.ndarray) -> np.ndarray:
        """Share of open sky above each point and its surroundings, [0, 1]: eight cells on two rings."""
        cell = self.view.to_raster(position)
        reach = self._reach(position)
        free = np.zeros(len(position), np.float32)
        for turn in range(8):
            radius = (_OCCLUSION_NEAR_M if turn % 2 else _OCCLUSION_FAR_M) / _SHADOW_CELL_M
            right, down = radius * np.cos(turn * np.pi / 4), radius * np.sin(turn * np.pi / 4)
            free += reach <= _nearest(depth, cell[:, 0] + right - 0.5, cell[:, 1] + down - 0.5)
        return free / 8

    def _reach(self, position: np.ndarray) -> np.ndarray:
        return self.view.start + position[:, 2] / self.view.direction[0, 2] - _SHADOW_BIAS_M


@dataclass(frozen=True)
class Lighting:
    """Shadow rasters of one moment: of the sun, and of the sky straight above."""

    sun: np.ndarray
    sky: np.ndarray


class Light:
    """Sun, sky and shadows of one scene."""

    def __init__(self, scene: Scene) -> None:
        self.scene, self.nuisance = scene, scene.nuisance

    @cached_property
    def _sun(self) -> Shadows:
        return Shadows(self.scene, self.nuisance.sun)

    @cached_property
    def _sky(self) -> Shadows:
        return Shadows(self.scene, np.array([0.0, 0.0, -1.0]))

    def at(self, time_s: float) -> Lighting:
        """The shadows at a time."""
        moving = Solids.concatenate(mover.at(self.scene.road, time_s) for mover in self.scene.movers)
        return Lighting(self._sun.depth(moving), self._sky.depth(moving))

    def shade(self, seen: Surfels, origin: np.ndarray, lighting: Lighting) -> np.ndarray:
        """float32 [n, 3] colours as a camera at ``origin`` sees them, haze included."""
        toward = -(seen.normal @ self.nuisance.sun)
        outside = seen.position + seen.normal * np.float32(_OCCLUSION_NEAR_M)  # the raster is coarser than the surface
        lit = self._sun.lit_ratio(outside, lighting.sun) * np.clip(toward, 0, 1) * (seen.normal[:, 2] > -0.9)
        sky = 0.5 + 0.5 * seen.normal[:, 2]
        cool, warm = np.array([0.90, 0.98, 1.10], np.float32), np.array([1.06, 1.0, 0.92], np.float32)
        closed = 1 - self._sky.open_ratio(outside, lighting.sky)
        ambient = (
            ((0.30 + 0.34 * sky) * (1 - _OCCLUSION * closed))[:, None]
            * cool
            * np.float32(1.25 - 0.35 * self.nuisance.sun_ratio)
        )
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
            0.45 * texture(flat[:, 0] * 9, flat[:, 1] * 9, 0.03) + 0.25 * (1 - self.nuisance.sun_ratio), 0, 0.8
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
