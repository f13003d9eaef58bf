"""What Prometheus and Grafana see of training and preparing, through Ray's own endpoint for metrics on every node.

Ray puts ``ray_`` before the names; ``deploy/options/monitoring`` has the dashboard that reads them.
"""

import math
from collections.abc import Mapping
from typing import Any

TRAIN_GAUGES = {
    "step": ("lidarseg_step", "Steps done"),
    "loss_total": ("lidarseg_loss", "Sum of the losses"),
    "scans_per_s": ("lidarseg_scans_per_s", "Labelled and unlabelled scans a second, all workers together"),
    "data_wait_ratio": ("lidarseg_data_wait_ratio", "Share of the time spent waiting for data"),
    "pseudo_keep_ratio": ("lidarseg_pseudo_keep_ratio", "Share of the unlabelled points that get a pseudo-label"),
}
"""Of a train line: its key → name and description."""

MIOU_GAUGE = ("lidarseg_miou_ratio", "mIoU by point on the validation frames")
EMA_GAP_GAUGE = ("lidarseg_ema_gap_ratio", "mIoU of the EMA teacher less that of its student")
IMAGES_COUNTER = ("lidarseg_teacher_images", "Images that a teacher has looked at")


class TrainGauges:
    """Takes the lines of a run's ``metrics.jsonl``, on the worker that writes them; Ray must be connected.

    Args:
        run: URI of the run folder, the tag ``run`` of every gauge.
    """

    def __init__(self, run: str):
        from ray.util.metrics import Gauge

        self._tags = {"run": run}
        self._gauges = {key: Gauge(*named, tag_keys=("run",)) for key, named in TRAIN_GAUGES.items()}
        self._miou = Gauge(*MIOU_GAUGE, tag_keys=("run", "model"))
        self._gap = Gauge(*EMA_GAP_GAUGE, tag_keys=("run",))
        self._scores: dict[str, tuple[int, float]] = {}

    def __call__(self, line: Mapping[str, Any]) -> None:
        """One line; what is not a number says nothing."""
        if line["kind"] == "train":
            for key, gauge in self._gauges.items():
                if math.isfinite(line.get(key, math.nan)):
                    gauge.set(line[key], self._tags)
        elif line["kind"] == "evaluate" and math.isfinite(line["point_miou_ratio"]):
            self._take_score(line["model"], line["step"], line["point_miou_ratio"])

    def _take_score(self, model: str, step: int, miou: float) -> None:
        self._miou.set(miou, {**self._tags, "model": model})
        self._scores[model] = step, miou
        student, teacher = (self._scores.get(name, (-1, 0.0)) for name in ("student", "teacher"))
        if student[0] == teacher[0]:  # of one evaluation
            self._gap.set(teacher[1] - student[1], self._tags)


class ImageCounter:
    """Images that one teacher has looked at; their rate is its speed.

    Args:
        teacher: Its name, the tag ``teacher``.
    """

    def __init__(self, teacher: str):
        from ray.util.metrics import Counter

        self._counter = Counter(*IMAGES_COUNTER, tag_keys=("teacher",))
        self._tags = {"teacher": teacher}

    def add(self, number: int) -> None:
        """So many more."""
        if number:
            self._counter.inc(number, self._tags)
