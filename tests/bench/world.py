"""CPU time of the synthetic world on one core: a LiDAR sweep, six 400x225 images, a scene; and label agreement.

`python -m tests.bench.world [--json FILE] [--quick]`

Beside them, in the same run, a plain pass of numpy over as many pixels as six images have (norms, their order, a
running sum): machines differ by three times, and the ratio does not. Fails (rc 1) where a sweep takes as long as that
pass, six images eight times as long (twice what they do), or fewer than 85 % of the projected LiDAR points carry the
label the camera sees there. Times are medians over scenes, CPU seconds of this process.
"""

import os

os.environ["OMP_NUM_THREADS"] = "1"

import math
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import replace

import cv2
import numpy as np

from ray_lidarseg.synthetic.cameras import RIG, Picture, ego_SE3_camera, exposure_s, intrinsics, picture
from ray_lidarseg.synthetic.lidar import EGO, NOISE, Scan, ego_SE3_lidar, scan
from ray_lidarseg.synthetic.presets import PRESETS
from ray_lidarseg.synthetic.scene import Scene
from ray_lidarseg.synthetic.shading import Light
from tests.bench.ledger import Ledger, Row, parser, print_table

LIMITS = {"sweep_s": 1.0, "images_s": 8.0}
"""Times the plain pass; 0.4 and 4.8 when they were set."""
MIN_AGREEMENT = 0.85
PRESET = replace(PRESETS["demo"], image_size=(400, 225))


def main() -> int:
    args = parser(__doc__.splitlines()[0]).parse_args()
    cv2.setNumThreads(1)
    ledger = Ledger(args.json)
    indices = range(2 if args.quick else 10)
    rows = [ledger.measure({"scene": index, "seed": 0}, lambda i=index: _measure(i)) for index in indices]
    names = ("plain_s", "build_s", "sweep_s", "images_s", "shadows_s", "agreement_ratio")
    print_table(["scene", "solids", *names], [[r["scene"], r["solids"], *(f"{r[n]:.3f}" for n in names)] for r in rows])
    middle = {name: statistics.median(row[name] for row in rows) for name in names}
    ratios = {name: middle[name] / middle["plain_s"] for name in LIMITS}
    is_good = all(ratios[name] < limit for name, limit in LIMITS.items()) and middle["agreement_ratio"] > MIN_AGREEMENT
    print(
        f"one core, median of {len(rows)} scenes, in plain passes of {middle['plain_s']:.3f} s: sweep "
        f"{ratios['sweep_s']:.2f} (< {LIMITS['sweep_s']:g}), six images {ratios['images_s']:.1f} "
        f"(< {LIMITS['images_s']:g}), labels agree {middle['agreement_ratio']:.1%} (> {MIN_AGREEMENT:.0%}): "
        f"{'ok' if is_good else 'FAILED'}"
    )
    return int(not is_good)


def _measure(index: int) -> Row:
    values = np.random.default_rng(index).random((6 * math.prod(PRESET.image_size), 3), np.float32)
    plain_s = min(_timed(lambda: _plain(values))[0] for _ in range(3))
    build_s, scene = _timed(lambda: Scene(PRESET, 0, index))
    light = Light(scene)
    scan(scene, 0)
    light.at(0.0)  # tables and fixed shadows are made once a scene
    frame = 5
    sweep_s, sweep = _timed(lambda: scan(scene, frame))
    shadows_s, lighting = _timed(lambda: light.at(frame * PRESET.frame_interval_s))
    images_s, pictures = _timed(lambda: [picture(scene, light, frame, mounting, lighting) for mounting in RIG])
    times = {
        "plain_s": plain_s,
        "build_s": build_s,
        "sweep_s": sweep_s,
        "images_s": images_s + shadows_s,
        "shadows_s": shadows_s,
    }
    agreement = _agreement(scene, frame, sweep, pictures)
    return {"solids": len(scene.solids(0.0)), **times, "agreement_ratio": agreement}


def _plain(values: np.ndarray) -> np.ndarray:
    norms = np.sqrt((values * values).sum(axis=1))
    order = np.argsort(norms, kind="stable")
    return (values[order] / norms[order, None]).cumsum(axis=0)


def _timed(work: Callable[[], object]) -> tuple[float, object]:
    began = time.process_time()
    result = work()
    return time.process_time() - began, result


def _agreement(scene: Scene, frame: int, sweep: Scan, pictures: list[Picture]) -> float:
    keep = (sweep.labels != EGO) & (sweep.labels != NOISE)
    points, labels = sweep.points[keep, :3].astype(np.float64), sweep.labels[keep]
    world_SE3_lidar = scene.ego_pose(frame * PRESET.frame_interval_s) @ ego_SE3_lidar(scene)
    same = count = 0
    for mounting, seen in zip(RIG, pictures, strict=True):
        world_SE3_cam = scene.ego_pose(exposure_s(scene, frame, mounting)) @ ego_SE3_camera(mounting)
        chain = np.linalg.inv(world_SE3_cam) @ world_SE3_lidar
        x, y, z = chain[:3, :3] @ points.T + chain[:3, 3:]
        matrix = intrinsics(mounting, PRESET.image_size)
        ahead = np.maximum(z, 1e-6)
        column, row = matrix[0, 0] * x / ahead + matrix[0, 2], matrix[1, 1] * y / ahead + matrix[1, 2]
        inside = (z > 0.5) & (column >= 0) & (column < 400) & (row >= 0) & (row < 225)
        same += int((seen.labels[row[inside].astype(int), column[inside].astype(int)] == labels[inside]).sum())
        count += int(inside.sum())
    return same / count


if __name__ == "__main__":
    sys.exit(main())
