"""A whole training step on a CUDA device: the same losses as on a CPU, and finite ones under mixed precision."""

import math
from dataclasses import replace

import pytest
import torch

from ray_lidarseg.methods.build import build_method
from ray_lidarseg.recipe.load import parse_recipe
from ray_lidarseg.sample import PointBatch, SensorSpec
from ray_lidarseg.training.loop import Ranks, StepLoop
from ray_lidarseg.types import IMAGE_FEATURES, IMAGE_SEGMENT, LANGUAGE_LOGITS

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]
SENSOR = SensorSpec(32, math.radians(10), math.radians(-30), 1.0, 50.0, 1.0)
MODELS = {
    "fidnet": "{name: fidnet, height_px: 16, width_px: 64, width_factor: 0.25}",
    "minkunet": "{name: minkunet, depth: 14, width_factor: 0.25, voxel_size_m: 0.5}",
}
LASERMIX = "{name: lasermix, confidence: 0.3, consistency_weight: 1.0}"
OTHERS = {
    "lasermix_pp": "{name: lasermix_pp, confidence: 0.3, consistency_weight: 1.0}",
    "cbst": "{name: cbst}",
    "cps": "{name: cps}",
    "cutmix_seg": "{name: cutmix_seg, confidence: 0.3}",
    "polarmix": "{name: polarmix, confidence: 0.3, consistency_weight: 1.0, instance_classes: [1]}",
}


def _scans(seed: int) -> PointBatch:
    generator = torch.Generator().manual_seed(seed)
    scans = []
    for _ in range(2):
        points = (torch.rand(2000, 4, generator=generator) - 0.5) * torch.tensor([60.0, 60.0, 6.0, 0.0])
        points[:, 3] = 0.5
        segments = {
            IMAGE_FEATURES: torch.randn(101, 4, generator=generator).half(),
            LANGUAGE_LOGITS: (0.2 + 0.1 * torch.rand(101, 3, generator=generator)).half(),
        }
        number = torch.randint(-100, 101, (2000,), generator=generator).clamp_min(0)
        scan = PointBatch.of_scan(points, (points[:, 2] > 0).long(), {IMAGE_SEGMENT: number})
        scans.append(replace(scan, segments=segments))
    return PointBatch.pack(scans)


def losses(device: str, model: str, amp: str, steps: int, method: str = LASERMIX) -> list[dict[str, float]]:
    """Every logged value of a few steps."""
    recipe = parse_recipe(
        f"""
        model: {MODELS[model]}
        method: {method}
        data: {{evidence: auto, evidence_dim: 4}}
        optim: {{lr: 0.001, schedule: constant}}
        train: {{steps: {steps}, labelled_per_step: 2, unlabelled_per_step: 2, amp: {amp}}}
        workers: {{num_workers: 1}}
        """
    )
    torch.manual_seed(0)
    loop = StepLoop(build_method(recipe, SENSOR, 3).to(device), recipe, torch.device(device), Ranks())
    batches = [(_scans(2 * step), _scans(2 * step + 1).unlabelled()) for step in range(steps)]
    return [{name: float(value) for name, value in loop.one_step([batch]).items()} for batch in batches]


@pytest.mark.parametrize("model", MODELS)
def test_the_first_step_has_the_losses_of_a_cpu(model: str) -> None:
    on_gpu, on_cpu = (losses(device, model, "off", 1)[0] for device in ("cuda", "cpu"))
    assert on_gpu == pytest.approx(on_cpu, rel=1e-2, abs=1e-3)


@pytest.mark.parametrize("model", MODELS)
def test_mixed_precision_trains(model: str) -> None:
    series = losses("cuda", model, "auto", 12)
    assert all(math.isfinite(value) for line in series for value in line.values())
    assert series[-1]["loss_cross_entropy"] < series[0]["loss_cross_entropy"]


@pytest.mark.parametrize("method", OTHERS)
def test_every_method_steps_as_on_a_cpu_and_in_mixed_precision(method: str) -> None:
    on_gpu, on_cpu = (losses(device, "fidnet", "off", 1, OTHERS[method])[0] for device in ("cuda", "cpu"))
    assert on_gpu == pytest.approx(on_cpu, rel=1e-2, abs=2e-3)
    series = losses("cuda", "fidnet", "auto", 3, OTHERS[method])
    assert all(math.isfinite(value) for line in series for value in line.values())
