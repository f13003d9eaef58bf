"""Seconds a scan of each corruption, on one core, beside a plain copy of the scan.

`python -m tests.bench.corruptions [--json FILE] [--quick]`

Scans are of the synthetic world, in nuScenes' size (32 beams, 1,084 columns) and SemanticKITTI's (64 beams). CPU time
of this process, median over scans. Fails (rc 1) where all 24 forms of a nuScenes scan take more than 1 s together: the
25-fold pass of `evaluate --robustness` should not be about its corruptions.
"""

import os

os.environ["OMP_NUM_THREADS"] = "1"

import statistics
import sys
import time
from collections.abc import Sequence
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

LIMIT_S = 1.0
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
    total = {
        spec.name: sum(row[severity] for row in rows if row["dataset"] == spec.name for severity in SEVERITIES)
        for spec in SPECS
    }
    is_good = total["nuscenes"] <= LIMIT_S
    said = ", ".join(f"{name} {seconds:.2f} s" for name, seconds in total.items())
    print(
        f"one core, 24 forms of a scan, median of {num_scans} scans: {said} (nuscenes <= {LIMIT_S:g}): "
        f"{'ok' if is_good else 'FAILED'}"
    )
    return int(not is_good)


class Scans:
    """Scans of a data set's size, cast when the first row asks for them."""

    def __init__(self, spec: DatasetSpec, count: int):
        self.spec, self.count = spec, count
        self.frames: list[Keyframe] = []

    def seconds(self, corruption: str) -> Row:
        """Median CPU seconds at each severity, and points a scan."""
        self.frames = self.frames or [frame_of(self.spec, number) for number in range(self.count)]
        points = round(statistics.mean(len(frame.points) for frame in self.frames))
        return {"points": points, **{rank: self._median(corruption, rank) for rank in SEVERITIES}}

    def _median(self, corruption: str, severity: str) -> float:
        chosen = setting(self.spec.name, corruption, severity)
        corrupt(self.frames[0], chosen, self.spec, self.spec.sensor)  # tables are made once a process
        return round(statistics.median(self._timed(chosen)), 5)

    def _timed(self, chosen) -> Sequence[float]:
        seconds = []
        for frame in self.frames:
            began = time.process_time()
            corrupt(frame, chosen, self.spec, self.spec.sensor)
            seconds.append(time.process_time() - began)
        return seconds


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
