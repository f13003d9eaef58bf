"""Which occlusion test pairs LiDAR points with pixels of the same thing: against the truth of the synthetic world.

`python -m tests.bench.pairing [--json FILE] [--quick]`

For every point that projects into an image: whether the camera truly sees it (its depth against the depth the renderer
found in that pixel), whether the test says so, and whether pixel and point are of one class. Nothing is trained on
these world seeds. Fails (rc 1) where the default test does not find half of the hidden points, drops more than 1.5 % of
all points wrongly, or does not raise the share of points on a pixel of their class.
"""

import os

os.environ["OMP_NUM_THREADS"] = "1"

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import cv2
import numpy as np

from ray_lidarseg.datasets.nuscenes import CLASSES as NUSCENES
from ray_lidarseg.geometry.camera import Projection, chain, project
from ray_lidarseg.geometry.occlusion import is_visible
from ray_lidarseg.synthetic.cameras import RIG, Picture, ego_SE3_camera, exposure_s, intrinsics, picture
from ray_lidarseg.synthetic.lidar import ego_SE3_lidar, scan
from ray_lidarseg.synthetic.presets import PRESETS
from ray_lidarseg.synthetic.scene import Scene
from ray_lidarseg.synthetic.shading import Light
from ray_lidarseg.types import IGNORE
from tests.bench.ledger import Ledger, Row, parser, print_table

PRESET = replace(PRESETS["demo"], image_size=(400, 225))
SCALE = PRESET.image_size[0] / 1600
SEEDS, FRAMES = (9700, 9701, 9702), (2, 6, 11)
HIDDEN_RATIO = 1.1  # a point this much behind the renderer's depth is hidden


def z_buffer(projection: Projection, cell_px: int, tolerance_ratio: float = 0.1) -> np.ndarray:
    """Points inside the image that no other point hides: a z-buffer of square cells.

    A point is hidden where its depth exceeds the smallest of its cell by more than ``tolerance_ratio``. The published
    methods make no such test; the cell (a beam's spacing in the image) and the tolerance (the ground's slope inside
    a cell) are ours.
    """
    inside = np.flatnonzero(projection.is_inside)
    columns, rows = projection.pixel_idx[inside].T // cell_px
    cell = rows * (columns.max(initial=0) + 1) + columns
    nearest_m = np.full(cell.max(initial=-1) + 1, np.inf)
    np.minimum.at(nearest_m, cell, projection.depth_m[inside])
    visible = np.zeros(len(projection.depth_m), bool)
    visible[inside] = projection.depth_m[inside] <= nearest_m[cell] * (1 + tolerance_ratio)
    return visible


TESTS: dict[str, Callable[[Projection], np.ndarray]] = {
    "none": lambda projection: projection.is_inside,
    "z-buffer 8 px": lambda projection: z_buffer(projection, round(8 * SCALE)),
    "z-buffer 16 px": lambda projection: z_buffer(projection, round(16 * SCALE)),
    "enclosed (default)": lambda projection: is_visible(projection, PRESET.image_size[0]),
}
COLUMNS = ("same_class_ratio", "kept_ratio", "hidden_ratio", "found_ratio", "wrongly_dropped_ratio")


@dataclass(frozen=True)
class View:
    """Points of known class that project into one image, and the truth of the pixels they lie in."""

    projection: Projection
    labels: np.ndarray
    pixel_labels: np.ndarray
    is_hidden: np.ndarray


def main() -> int:
    args = parser(__doc__.splitlines()[0]).parse_args()
    cv2.setNumThreads(1)
    seeds, frames = (SEEDS[:1], FRAMES[:1]) if args.quick else (SEEDS, FRAMES)
    views: list[View] = []
    key = {"seeds": list(seeds), "frames": list(frames)}

    def measure(name: str) -> Row:
        if not views:
            views.extend(_views(seeds, frames))
        return _measure(TESTS[name], views)

    ledger = Ledger(args.json)
    rows = {name: ledger.measure({"test": name, **key}, lambda n=name: measure(n)) for name in TESTS}
    print_table(["test", *COLUMNS], [[name, *(f"{row[c]:.4f}" for c in COLUMNS)] for name, row in rows.items()])
    none, ours = rows["none"], rows["enclosed (default)"]
    is_good = (
        ours["found_ratio"] > 0.5
        and ours["wrongly_dropped_ratio"] < 0.015
        and ours["same_class_ratio"] > none["same_class_ratio"]
    )
    print(
        f"{ours['num_points']} projections: on a pixel of their class {none['same_class_ratio']:.1%} → "
        f"{ours['same_class_ratio']:.1%}, {ours['found_ratio']:.0%} of the hidden found, "
        f"{ours['wrongly_dropped_ratio']:.1%} of all dropped wrongly: {'ok' if is_good else 'FAILED'}"
    )
    return int(not is_good)


def _views(seeds: tuple[int, ...], frames: tuple[int, ...]) -> Iterator[View]:
    for seed in seeds:
        scene = Scene(PRESET, seed, seed % 3)
        light = Light(scene)
        for frame in frames:
            sweep, lighting = scan(scene, frame), light.at(frame * PRESET.frame_interval_s)
            labels = NUSCENES.to_train(sweep.labels)
            known = sweep.points[labels != IGNORE, :3].astype(np.float64), labels[labels != IGNORE]
            for mounting in RIG:
                seen = picture(scene, light, frame, mounting, lighting)
                cam_SE3_lidar = chain(
                    ego_SE3_lidar(scene),
                    scene.ego_pose(frame * PRESET.frame_interval_s),
                    scene.ego_pose(exposure_s(scene, frame, mounting)),
                    ego_SE3_camera(mounting),
                )
                camera = intrinsics(mounting, PRESET.image_size)
                yield _view(known[1], project(known[0], cam_SE3_lidar, camera, *PRESET.image_size), seen)


def _view(labels: np.ndarray, projection: Projection, seen: Picture) -> View:
    inside = projection.is_inside
    column, row = np.floor(projection.pixels[inside]).astype(int).T
    pixel_labels = NUSCENES.to_train(seen.labels)[row, column]
    is_hidden = projection.depth_m[inside] > HIDDEN_RATIO * seen.depth[row, column]
    return View(projection, labels[inside], pixel_labels, is_hidden)


def _measure(test: Callable[[Projection], np.ndarray], views: list[View]) -> Row:
    kept = np.concatenate([test(view.projection)[view.projection.is_inside] for view in views])
    same = np.concatenate([view.labels == view.pixel_labels for view in views])
    hidden = np.concatenate([view.is_hidden for view in views])
    return {
        "num_points": len(kept),
        "same_class_ratio": float(same[kept].mean()),
        "kept_ratio": float(kept.mean()),
        "hidden_ratio": float(hidden.mean()),
        "found_ratio": float((~kept)[hidden].mean()),
        "wrongly_dropped_ratio": float((~kept & ~hidden).mean()),
    }


if __name__ == "__main__":
    sys.exit(main())
