"""Branches of a run on GPUs that a CPU can take: loss scaling in float16, and which norms several GPUs share."""

import torch
from torch import nn

from ray_lidarseg.methods.build import build_method
from ray_lidarseg.recipe.load import parse_recipe
from ray_lidarseg.sample import PointBatch, SensorSpec
from ray_lidarseg.training import loop as module
from ray_lidarseg.training.loop import Ranks, StepLoop, synchronise_batch_norm

SENSOR = SensorSpec(8, 0.1, -0.5, 1.0, 50.0, 1.0)
RECIPE = parse_recipe(
    """
    model: {name: fidnet, height_px: 8, width_px: 32, width_factor: 0.125, blocks: [1, 1, 1, 1]}
    method: {name: mean_teacher}
    optim: {lr: 0.001, schedule: constant}
    train: {steps: 4, labelled_per_step: 1, unlabelled_per_step: 1}
    workers: {num_workers: 1}
    """
)


def _method():
    torch.manual_seed(0)
    return build_method(RECIPE, SENSOR, 3).train()


def _scan(seed: int) -> PointBatch:
    points = torch.randn(300, 4, generator=torch.Generator().manual_seed(seed)) * torch.tensor([10.0, 10.0, 1.0, 0.1])
    return PointBatch.of_scan(points, (points[:, 0] > 0).long())


def test_float16_scales_the_loss_skips_a_step_that_overflows_and_goes_on(monkeypatch):
    monkeypatch.setattr(module, "precision", lambda *_: torch.float16)
    loop = StepLoop(_method(), RECIPE, torch.device("cpu"), Ranks())
    assert loop.scaler.is_enabled()
    loop.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**40)  # no gradient in float16 is finite at this scale
    before = [weight.detach().clone() for weight in loop.method.parameters()]
    batch = [(_scan(0), _scan(1).unlabelled())]
    loop.one_step(batch)
    assert loop.skipped_steps == 1
    assert loop.scaler.get_scale() == 2.0**39
    assert all(torch.equal(now, then) for now, then in zip(loop.method.parameters(), before, strict=True))
    loop.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**8)
    loop.one_step(batch)
    assert loop.skipped_steps == 1
    assert any(not torch.equal(now, then) for now, then in zip(loop.method.parameters(), before, strict=True))
    resumed = StepLoop(_method(), RECIPE, torch.device("cpu"), Ranks())
    resumed.load_state_dict(loop.state_dict())
    assert resumed.scaler.get_scale() == 2.0**8


def test_norms_of_students_are_shared_between_gpus_and_a_teacher_keeps_its_own():
    is_shared = lambda model: any(isinstance(part, nn.SyncBatchNorm) for part in model.modules())  # noqa: E731
    for device, ranks, wanted in (("cuda", 2, True), ("cuda", 1, False), ("cpu", 2, False)):
        method = _method()
        weights = method.student.state_dict()
        synchronise_batch_norm(method, torch.device(device), Ranks(0, ranks))
        assert is_shared(method.student) == wanted
        assert not is_shared(method.teacher)
        assert all(torch.equal(weights[name], value) for name, value in method.student.state_dict().items())
