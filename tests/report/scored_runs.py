"""Run folders with what `evaluate` writes: numbers from the very functions of the verb, on random counts."""

import json
from typing import Any

import numpy as np

from ray_lidarseg.datasets import nuscenes
from ray_lidarseg.evaluate.corrupted import numbers_of_variants
from ray_lidarseg.evaluate.score_tables import numbers_of
from ray_lidarseg.metrics.robustness import Baseline
from ray_lidarseg.metrics.scoring import Scores
from ray_lidarseg.metrics.variant_scoring import VARIANTS
from ray_lidarseg.training.run_folder import RunFolder

FRAMES = {"frames": 3, "frames_digest": "f00d", "step": 20, "split": "val", "model": "teacher", "inference_name": ""}


def scores(seed: int) -> Scores:
    """900 points of random classes, half of them right."""
    rng = np.random.default_rng(seed)
    made = Scores.empty(16)
    truth = rng.integers(0, 16, 900)
    said = np.where(rng.random(900) < 0.5, truth, rng.integers(0, 16, 900))
    made.by_range.add(truth, said, rng.uniform(0, 60, 900))
    made.calibration.add(truth, said, rng.uniform(0.2, 1.0, 900))
    made.num_frames = 3
    return made


def robustness_result(seed: int, baseline: Baseline | None = None) -> dict[str, Any]:
    """What `evaluate --robustness` writes."""
    counted = {variant: scores(seed + number) for number, variant in enumerate(VARIANTS)}
    return {**FRAMES, **numbers_of_variants(nuscenes.SPEC, counted, baseline)}


def add_evaluations(uri: str, seed: int, baseline: Baseline | None = None) -> None:
    """Puts all three kinds of evaluation into a run folder."""
    folder = RunFolder(uri)
    deployed = folder.recipe().method.deployed
    result = {**FRAMES, "deployed": deployed, "models": {deployed: numbers_of(scores(seed), "skip")}}
    folder.write("evaluation/val.json", json.dumps(result).encode())
    other = {**result, "inference_name": "knn", "models": {deployed: numbers_of(scores(seed + 1), "skip")}}
    folder.write("evaluation/val-knn.json", json.dumps(other).encode())
    folder.write("evaluation/robustness-val.json", json.dumps(robustness_result(seed, baseline)).encode())
