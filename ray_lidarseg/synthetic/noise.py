"""Repeatable noise: integer hashing of lattice cells and a tileable fractal texture."""

from functools import lru_cache

import cv2
import numpy as np

TILE_CELLS = 1024
"""Side of the tileable noise texture, in cells."""


def hash01(x: np.ndarray, y: np.ndarray, z: np.ndarray | float, salt: np.ndarray | float = 0.0) -> np.ndarray:
    """Uniform [0, 1) noise that is constant inside each unit cell.

    Args:
        x: First coordinate, in cells; broadcasts with the others.
        y: Second coordinate, in cells.
        z: Third coordinate, in cells.
        salt: Makes independent fields, for example one value per object.

    Returns:
        float32 of the broadcast shape.
    """
    code = _cell(x) * np.uint32(73856093) ^ _cell(y) * np.uint32(19349663)
    code = code ^ _cell(z) * np.uint32(83492791) ^ _cell(np.asarray(salt) * 65536) * np.uint32(2654435761)
    code ^= code >> np.uint32(15)
    code *= np.uint32(0x2C1B3C6D)
    code ^= code >> np.uint32(12)
    code *= np.uint32(0x297A2D39)
    code ^= code >> np.uint32(15)
    return (code >> np.uint32(8)).astype(np.float32) * np.float32(2.0**-24)


def _cell(value: np.ndarray | float) -> np.ndarray:
    return np.asarray(np.floor(value), np.float32).astype(np.int32).view(np.uint32)


@lru_cache(maxsize=1)
def fractal() -> np.ndarray:
    """The tileable texture: float32 [TILE_CELLS, TILE_CELLS], mean 0, standard deviation 1, four octaves."""
    rng = np.random.default_rng(20240)
    total = np.zeros((TILE_CELLS, TILE_CELLS), np.float32)
    for cell in (4, 16, 64, 256):
        coarse = rng.standard_normal((TILE_CELLS // cell,) * 2).astype(np.float32)
        wrapped = np.pad(coarse, 2, mode="wrap")
        fine = cv2.resize(wrapped, None, fx=cell, fy=cell, interpolation=cv2.INTER_CUBIC)
        total += fine[2 * cell : -2 * cell, 2 * cell : -2 * cell] * np.float32(cell**0.35)
    return (total - total.mean()) / total.std()


def texture(x: np.ndarray, y: np.ndarray, cell_m: float) -> np.ndarray:
    """The fractal texture at positions in metres, ``cell_m`` metres a cell, repeated for ever."""
    row = np.floor(x * (1 / cell_m)).astype(np.int32) & (TILE_CELLS - 1)
    column = np.floor(y * (1 / cell_m)).astype(np.int32) & (TILE_CELLS - 1)
    return fractal().ravel()[row * TILE_CELLS + column]
