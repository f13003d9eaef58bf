"""ScribbleKITTI's weak labels: strokes drawn on the accumulated map, one class at a time.

Source: Unal et al., "Scribble-Supervised LiDAR Semantic Segmentation", CVPR 2022: lines on the map of a sequence label
8.06 % of its points. How a person draws is not written down: random walks along a class's surface are ours.
"""

from dataclasses import dataclass

import numpy as np
from scipy.spatial import cKDTree

TARGET_RATIO = 0.08
"""Share of the points that strokes label, as in ScribbleKITTI."""

_CELL_M = 0.1
_WIDTH_M = (0.2, 0.4)
_STEP_M = (1.0, 4.0)
_STEPS = (3, 9)
_PEN_STEP_M = 0.08
_MAX_STROKES = 400
_MAX_TURN_COS = 0.3


@dataclass(frozen=True)
class _Surface:
    """Occupied cells of one class: centres float32 [N, 3], points in each int64 [N]."""

    centre: np.ndarray
    weight: np.ndarray


def scribble(positions: np.ndarray, labels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Draws strokes on a map until each class has its share.

    Args:
        positions: float32 [P, 3] points of several scans in one frame, metres.
        labels: uint16 [P] raw ids; 0 and 1 are never drawn.
        rng: Where and how the strokes go.

    Returns:
        bool [P], which points carry their label.
    """
    marked = np.zeros(len(labels), bool)
    for raw in np.unique(labels[labels > 1]):
        chosen = np.flatnonzero(labels == raw)
        surface, cell_of_point = _cells(positions[chosen])
        marked[chosen] = _draw(surface, rng)[cell_of_point]
    return marked


def _cells(positions: np.ndarray) -> tuple[_Surface, np.ndarray]:
    """Cells of the points, and the cell of each."""
    index = np.floor(positions / _CELL_M).astype(np.int64)
    index -= index.min(axis=0)
    size = index.max(axis=0) + 1
    keys = (index[:, 0] * size[1] + index[:, 1]) * size[2] + index[:, 2]
    _, first, inverse, count = np.unique(keys, return_index=True, return_inverse=True, return_counts=True)
    return _Surface(positions[first], count), inverse.reshape(-1)


def _draw(surface: _Surface, rng: np.random.Generator) -> np.ndarray:
    """Cells under strokes, bool [N]; the last stroke ends where the share is reached."""
    tree = cKDTree(surface.centre)
    is_drawn = np.zeros(len(surface.weight), bool)
    wanted = TARGET_RATIO * surface.weight.sum()
    for _ in range(_MAX_STROKES):
        missing = wanted - surface.weight[is_drawn].sum()
        if missing <= 0:
            break
        line = _walk(surface, tree, int(rng.integers(len(surface.centre))), rng)
        _stroke(surface, tree, line, is_drawn, missing, float(rng.uniform(*_WIDTH_M)) / 2)
    return is_drawn


def _walk(surface: _Surface, tree: cKDTree, start: int, rng: np.random.Generator) -> np.ndarray:
    """float32 [n, 3] poly-line whose corners lie on the surface and which never turns sharply."""
    line, heading = [surface.centre[start]], np.zeros(3)
    for _ in range(int(rng.integers(*_STEPS))):
        target = rng.uniform(*_STEP_M)
        near = np.array(tree.query_ball_point(line[-1], target), np.int64)
        offset = surface.centre[near] - line[-1]
        length = np.linalg.norm(offset, axis=1)
        is_ahead = (length > target / 2) & (offset @ heading >= _MAX_TURN_COS * length * bool(heading.any()))
        if not is_ahead.any():
            break
        chosen = int(rng.choice(np.flatnonzero(is_ahead)))
        heading = offset[chosen] / length[chosen]
        line.append(surface.centre[near[chosen]])
    return np.array(line)


def _stroke(
    surface: _Surface, tree: cKDTree, line: np.ndarray, is_drawn: np.ndarray, missing: float, radius: float
) -> None:
    """Moves the pen along the line until it ends or enough is drawn."""
    for first, last in zip(line, [*line[1:], line[-1]], strict=True):
        length = float(np.linalg.norm(last - first))
        pen = first + np.linspace(0, 1, 1 + int(length / _PEN_STEP_M))[:, None] * (last - first)
        for cells in tree.query_ball_point(pen, radius):
            fresh = [cell for cell in cells if not is_drawn[cell]]
            is_drawn[fresh] = True
            missing -= float(surface.weight[fresh].sum())
            if missing <= 0:
                return
