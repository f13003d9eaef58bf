"""Solids: the primitives a scene is made of, as arrays; each is an affine image of a unit shape."""

from collections.abc import Iterable
from dataclasses import dataclass, fields, replace
from enum import IntEnum

import numpy as np

from ray_lidarseg.synthetic.kitti_classes import KITTI_OF_FINE


class Kind(IntEnum):
    """Unit shapes inside [-1, 1]^3; tapers shrink the upper end."""

    BOX = 0
    WEDGE = 1  # box whose front, rear and side faces lean inwards by taper = (front, rear, side)
    CYLINDER = 2  # along z; the radius shrinks to 1 - taper[0] at the top, so 1 is a cone
    ELLIPSOID = 3
    LEAVES = 4  # ellipsoid with holes
    RING = 5  # cylinder whose ends are open inside 0.8 of the radius: a spoked wheel


@dataclass(frozen=True)
class Solids:
    """N primitives.

    Attributes:
        kind: int8 [N], a ``Kind``.
        centre: float32 [N, 3], metres.
        axes: float32 [N, 3, 3], columns are the primitive's axes.
        half: float32 [N, 3], half extents along the axes, metres.
        taper: float32 [N, 3], see ``Kind``.
        material: int16 [N], a ``materials.Material``.
        colour: float32 [N, 3], RGB in [0, 1].
        albedo: float32 [N], reflectivity for the LiDAR in [0, 1].
        label: uint8 [N], fine nuScenes category index.
        kitti: uint16 [N], SemanticKITTI raw id while it stands still.
        salt: float32 [N], a number in [0, 1) that tells equal things apart.
    """

    kind: np.ndarray
    centre: np.ndarray
    axes: np.ndarray
    half: np.ndarray
    taper: np.ndarray
    material: np.ndarray
    colour: np.ndarray
    albedo: np.ndarray
    label: np.ndarray
    kitti: np.ndarray
    salt: np.ndarray

    def __len__(self) -> int:
        """Number of primitives N."""
        return len(self.kind)

    def placed(self, position: Iterable[float], yaw_rad: float, salt: float | None = None) -> "Solids":
        """The same solids in another frame: turned about z, then moved."""
        turn = yaw_matrix(yaw_rad)
        moved = self.centre @ turn.T + np.asarray(tuple(position), np.float32)
        salts = self.salt if salt is None else np.full_like(self.salt, salt)
        return replace(self, centre=moved.astype(np.float32), axes=turn @ self.axes, salt=salts)

    def labelled(self, label: int, kitti: int | None = None) -> "Solids":
        """The same solids with one label: a rider is part of the bicycle."""
        raw = int(KITTI_OF_FINE[label]) if kitti is None else kitti
        return replace(self, label=np.full_like(self.label, label), kitti=np.full_like(self.kitti, raw))

    def corners(self) -> np.ndarray:
        """float32 [N, 8, 3] corners of the bounding boxes."""
        reach = (self.axes * self.half[:, None, :]) @ _UNIT_CORNERS.T
        return self.centre[:, None, :] + reach.transpose(0, 2, 1)

    @staticmethod
    def concatenate(groups: Iterable["Solids"]) -> "Solids":
        """All groups one after the other."""
        listed = list(groups) or [Shape().solids()]
        return Solids(*(np.concatenate([getattr(group, f.name) for group in listed]) for f in fields(Solids)))


_UNIT_CORNERS = np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)], np.float32)


def yaw_matrix(yaw_rad: float) -> np.ndarray:
    """float32 [3, 3] rotation about z."""
    c, s = np.cos(yaw_rad), np.sin(yaw_rad)
    return np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]], np.float32)


def tilt_matrix(yaw_rad: float = 0.0, pitch_rad: float = 0.0, roll_rad: float = 0.0) -> np.ndarray:
    """float32 [3, 3]: roll about x, then pitch about y (positive lowers +x), then yaw about z."""
    cp, sp, cr, sr = np.cos(pitch_rad), np.sin(pitch_rad), np.cos(roll_rad), np.sin(roll_rad)
    pitch = np.array([[cp, 0, sp], [0, 1, 0], [-sp, 0, cp]], np.float32)
    roll = np.array([[1, 0, 0], [0, cr, -sr], [0, sr, cr]], np.float32)
    return yaw_matrix(yaw_rad) @ pitch @ roll


Vector = tuple[float, float, float]


class Shape:
    """Collects primitives of one object in its own frame: x forward, y left, z up, origin on the ground.

    Args:
        label: Fine nuScenes category of what is added.
        salt: Tells equal objects apart.
        kitti: SemanticKITTI raw id of what is added; None: what the fine category usually is.
    """

    def __init__(self, label: int = 28, salt: float = 0.0, kitti: int | None = None) -> None:
        self.label = label
        self.kitti = kitti
        self.salt = salt
        self._rows: list[tuple] = []

    def add(
        self,
        kind: Kind,
        centre: Vector,
        size: Vector,
        colour: Vector,
        albedo: float,
        material: int = 0,
        taper: Vector = (0.0, 0.0, 0.0),
        axes: np.ndarray | None = None,
        label: int | None = None,
        kitti: int | None = None,
    ) -> None:
        """Adds one primitive of the given full ``size``; ``axes`` turns it about its centre."""
        turn = np.eye(3, dtype=np.float32) if axes is None else axes
        row_label = self.label if label is None else label
        raw = next((raw for raw in (kitti, self.kitti) if raw is not None), int(KITTI_OF_FINE[row_label]))
        row = (int(kind), centre, turn, size, taper, int(material), colour, albedo, row_label, raw, self.salt)
        self._rows.append(row)

    def rod(
        self,
        start: Vector,
        end: Vector,
        diameter_m: float,
        colour: Vector,
        albedo: float,
        taper: float = 0.0,
        kitti: int | None = None,
    ) -> None:
        """A round bar from start to end."""
        first, last = np.asarray(start, np.float32), np.asarray(end, np.float32)
        along = last - first
        length = float(np.linalg.norm(along))
        centre = (first + last) / 2
        size = (diameter_m, diameter_m, length)
        axes = frame_along(along / max(length, 1e-6))
        self.add(Kind.CYLINDER, tuple(centre), size, colour, albedo, taper=(taper, 0.0, 0.0), axes=axes, kitti=kitti)

    def solids(self) -> Solids:
        """Everything added so far, as arrays."""
        columns = list(zip(*self._rows, strict=True)) or [()] * 11
        kind, centre, axes, size, taper, material, colour, albedo, label, kitti, salt = columns
        vectors = lambda values: np.array(values, np.float32).reshape(-1, 3)  # noqa: E731
        return Solids(
            kind=np.array(kind, np.int8),
            centre=vectors(centre),
            axes=np.array(axes, np.float32).reshape(-1, 3, 3),
            half=np.maximum(vectors(size) / 2, np.float32(1e-3)),
            taper=vectors(taper),
            material=np.array(material, np.int16),
            colour=vectors(colour),
            albedo=np.array(albedo, np.float32),
            label=np.array(label, np.uint8),
            kitti=np.array(kitti, np.uint16),
            salt=np.array(salt, np.float32),
        )


def frame_along(direction: np.ndarray) -> np.ndarray:
    """float32 [3, 3] axes whose z is the unit ``direction``."""
    helper = np.array([1, 0, 0], np.float32) if abs(direction[0]) < 0.9 else np.array([0, 1, 0], np.float32)
    x = np.cross(helper, direction)
    x /= np.linalg.norm(x)
    return np.stack([x, np.cross(direction, x), direction], axis=1).astype(np.float32)


AXLE = frame_along(np.array([0, 1, 0], np.float32))
"""Axes of a cylinder lying along y: a wheel."""
