"""What a run's own numbers say about it: its best step so far, a collapse, losses that are not finite."""

import math
from collections.abc import Iterable
from typing import Any

COLLAPSED_RATIO, COLLAPSED_EVALUATIONS = 0.5, 2
"""A run has collapsed where so many evaluations in a row are below this share of its best and its loss falls (ours)."""


class Health:
    """Takes the lines of a run in order, on every rank alike.

    Args:
        deployed: Name of the model whose mIoU by point counts.
        lines: What the run recorded before.

    Attributes:
        best_step: Step of the best evaluation; 0 where there is none.
        best_ratio: Its mIoU.
    """

    def __init__(self, deployed: str, lines: Iterable[dict[str, Any]] = ()):
        self.best_step, self.best_ratio = 0, -math.inf
        self._deployed, self._losses = deployed, [0.0, 0.0]  # sum and number since the last evaluation
        self._best_loss = math.inf
        self._below, self._skipped, self._is_skipping = 0, 0, False
        for line in lines:
            self.take(line)

    def take(self, line: dict[str, Any]) -> str:
        """What there is to warn of after this line; empty where all is well, or was said already."""
        if line.get("kind") == "train":
            return self._trained(line)
        if line.get("kind") == "evaluate" and line.get("model") == self._deployed and line["step"] > 0:
            ratio = line.get("point_miou_ratio")
            if isinstance(ratio, float | int) and not math.isnan(ratio):
                return self._evaluated(line["step"], ratio)
        return ""

    def _trained(self, line: dict[str, Any]) -> str:
        loss, skipped = line.get("loss_total"), line.get("skipped_steps", 0)
        if isinstance(loss, float | int) and math.isfinite(loss):
            self._losses = [self._losses[0] + loss, self._losses[1] + 1]
        was_skipping, self._is_skipping = self._is_skipping, skipped > self._skipped
        self._skipped = skipped
        if not self._is_skipping or was_skipping:
            return ""
        return (
            f"step {line['step']}: a loss or gradient is not finite ({skipped} steps skipped so far): if it goes on, "
            "lower optim.lr, set optim.grad_clip_norm, or set train.amp=off"
        )

    def _evaluated(self, step: int, ratio: float) -> str:
        loss = self._losses[0] / self._losses[1] if self._losses[1] else math.inf
        self._losses = [0.0, 0.0]
        if ratio > self.best_ratio:
            self.best_step, self.best_ratio, self._best_loss, self._below = step, ratio, loss, 0
            return ""
        self._below = self._below + 1 if ratio < COLLAPSED_RATIO * self.best_ratio else 0
        if self._below != COLLAPSED_EVALUATIONS or loss >= self._best_loss:
            return ""
        return (
            f"step {step}: the run has collapsed: validation mIoU {ratio:.1%}, {self.best_ratio:.1%} at step "
            f"{self.best_step}, while the loss fell from {self._best_loss:.4g} to {loss:.4g}: the checkpoint of step "
            f"{self.best_step} is kept; pseudo-labels may confirm themselves (raise method.confidence, lower the "
            "weight of the unlabelled loss), or optim.lr is too high"
        )
