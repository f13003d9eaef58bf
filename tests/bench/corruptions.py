"""Seconds a scan of each corruption, on one core, beside a plain pass over the scan.

`python -m tests.bench.corruptions [--json FILE] [--quick]`

Scans are of the synthetic world, in nuScenes' size (32 beams, 1,084 columns) and SemanticKITTI's (64 beams). CPU time
of this process, median over scans. The plain pass, taken beside each corruption, is what any reader does: range,
azimuth and inclination of every point, and the points sorted by azimuth. Fails (rc 1) where a form of a scan takes, on
average, longer than ``MAX_PASSES`` of them: the 25-fold pass of `evaluate --robustness` should not be about its
corruptions.
"""

import os

os.environ["OMP_NUM_THREADS"] = "1"

import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from ray_lidarseg.datasets import nuscenes, semantickitti
from ray_lidarseg.datasets.corruptions.corrupt import corrupt
from ray_lidarseg.datasets.corruptions.severities import CORRUPTIONS, SEVERITIES, VERSION, setting
from ray_lidarseg.datasets.spec import DatasetSpec
from ray_lidarseg.sample import Keyframe
from ray_lidarseg.synthetic.kitti_rig import kitti_scan
from ray_lidarseg.synthetic.lidar import scan
from ray_lidarseg.synthetic.presets import PRESETS
from ray_lidarseg.synthetic.scene import Scene
from tests.bench.ledger import Ledger, Row, parser, print_table

MAX_PASSES = 20.0
"""Of a form, the mean over all 24: 8.8 of a nuScenes scan and 6.5 of a SemanticKITTI one when it was set."""
SPECS = (nuscenes.SPEC, semantickitti.SPEC)


def main() -> int:
    args = parser(__doc__.splitlines()[0]).parse_args()
    num_scans = 2 if args.quick else 10
    ledger, scans = Ledger(args.json), {spec.name: Scans(spec, num_scans) for spec in SPECS}
    rows = [
        ledger.measure(
            {"dataset": spec.name, "corruption": corruption, "scans": num_scans, "corruptions_version": VERSION},
            lambda spec=spec, corruption=corruption: scans[spec.name].seconds(corruption),
        )
        for spec in SPECS
        for corruption in CORRUPTIONS
    ]
    print_table(
        ["corruption", *(f"{spec.name} {severity}" for spec in SPECS for severity in SEVERITIES)],
        [
            [name, *(_shown(rows, spec, name, severity) for spec in SPECS for severity in SEVERITIES)]
            for name in CORRUPTIONS
        ],
    )
    passes = {spec.name: passes_of([row for row in rows if row["dataset"] == spec.name]) for spec in SPECS}
    is_good = all(value <= MAX_PASSES for value in passes.values())
    print(
        f"one core, a corrupted form of a scan in plain passes over it, mean of 24, medians of {num_scans} scans: "
        f"{', '.join(f'{name} {value:.1f}' for name, value in passes.items())} (<= {MAX_PASSES:g}): "
        f"{'ok' if is_good else 'FAILED'}"
    )
    return int(not is_good)


def passes_of(rows: Sequence[Row]) -> float:
    """Plain passes that a form of a scan takes, the mean over all forms in the rows of a data set."""
    return statistics.mean(row[severity] / row["plain_s"] for row in rows for severity in SEVERITIES)


class Scans:
    """Scans of a data set's size, cast when the first row asks for them."""

    def __init__(self, spec: DatasetSpec, count: int):
        self.spec, self.count = spec, count
        self.frames: list[Keyframe] = []

    def seconds(self, corruption: str) -> Row:
        """Median CPU seconds at each severity and of a plain pass, and points a scan."""
        self.frames = self.frames or [frame_of(self.spec, number) for number in range(self.count)]
        points = round(statistics.mean(len(frame.points) for frame in self.frames))
        works = {rank: self._corruption(corruption, rank) for rank in SEVERITIES}
        works["plain_s"] = lambda frame: plain_pass(frame.points)
        return {"points": points, **self._medians(works)}

    def _corruption(self, corruption: str, severity: str) -> Callable[[Keyframe], object]:
        chosen = setting(self.spec.name, corruption, severity)
        return lambda frame: corrupt(frame, chosen, self.spec, self.spec.sensor)

    def _medians(self, works: Mapping[str, Callable[[Keyframe], object]]) -> Row:
        """By name of the work, all of them on a scan before the next scan: a busy machine hurts them alike."""
        for work in works.values():
            work(self.frames[0])  # tables are made once a process
        seconds = [{name: _timed(work, frame) for name, work in works.items()} for frame in self.frames]
        return {name: round(statistics.median(one[name] for one in seconds), 5) for name in works}


def plain_pass(points: np.ndarray) -> np.ndarray:
    """[P, 3] range (m), azimuth and inclination (rad) of points [P, 4], in the order of their azimuth."""
    x, y, z = points[:, :3].T
    range_m = np.sqrt(x * x + y * y + z * z)
    azimuth = np.arctan2(y, x)
    inclination = np.arcsin(z / np.maximum(range_m, 1e-6))
    return np.stack([range_m, azimuth, inclination], axis=1)[np.argsort(azimuth, kind="stable")]


def _timed(work: Callable[[Keyframe], object], frame: Keyframe) -> float:
    began = time.process_time()
    work(frame)
    return time.process_time() - began


def frame_of(spec: DatasetSpec, number: int) -> Keyframe:
    """A labelled key-frame of the synthetic world as the data set's loader gives it."""
    is_kitti = spec.name == semantickitti.NAME
    scene = Scene(PRESETS["kitti" if is_kitti else "demo"], 0, number)
    made = (kitti_scan if is_kitti else scan)(scene, 0)
    empty = Keyframe(f"{spec.name}-{number}", spec.name, "s", "val", 0, "x")
    raw = np.asarray(made.labels) & 0xFFFF if is_kitti else made.labels
    points = made.points[:, :4].copy()
    points[:, 3] *= spec.sensor.intensity_scale
    ring = np.zeros(0, np.uint8) if is_kitti else made.points[:, 4].astype(np.uint8)
    return replace(empty, points=points, labels=spec.taxonomy.to_train(raw), ring=ring)


def _shown(rows: Sequence[Row], spec: DatasetSpec, corruption: str, severity: str) -> str:
    row = next(row for row in rows if (row["dataset"], row["corruption"]) == (spec.name, corruption))
    return f"{row[severity]:.4f}"


if __name__ == "__main__":
    sys.exit(main())
