"""A training run in a process of its own, and what it left."""

import time
from pathlib import Path

from ray.train.v2._internal.execution.callback import ControllerCallback

from ray_lidarseg.training.run_folder import RunFolder

_TIMINGS = ("scans_per_s", "data_wait_ratio", "memory_gib")
DRIVER = """
import sys
from ray_lidarseg.recipe.load import load_recipe
from ray_lidarseg.train import train
train(load_recipe(sys.argv[1]), sys.argv[2])
"""


class Injected(ControllerCallback):
    """What a platform names in RAY_TRAIN_CALLBACKS."""


def results(run: RunFolder | str | Path) -> list[dict]:
    """All lines of a run without what a clock or the machine decides."""
    lines = RunFolder(str(run)).metrics() if not isinstance(run, RunFolder) else run.metrics()
    return [{key: value for key, value in line.items() if key not in _TIMINGS} for line in lines]


def wait_for_step(run: Path, step: int) -> None:
    """Returns once a run has logged a step.

    Raises:
        AssertionError: It does not within five minutes.
    """
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline:
        file = run / "metrics.jsonl"
        if file.exists() and any(f'"step": {step},' in line for line in file.read_text().splitlines()):
            return
        time.sleep(0.02)
    raise AssertionError(f"no step {step} in {run} within five minutes")
