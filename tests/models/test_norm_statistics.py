import math

import pytest
import torch
from torch import nn

from ray_lidarseg.models.fidnet import FIDNet
from ray_lidarseg.models.norm_statistics import kept_statistics, measured_statistics, read_statistics, write_statistics
from ray_lidarseg.sample import PointBatch, SensorSpec

SENSOR = SensorSpec(32, math.radians(10.0), math.radians(-30.0), 1.0, 50.0, 1.0)


@pytest.fixture
def model() -> FIDNet:
    torch.manual_seed(0)
    return FIDNet(SENSOR, 3, height_px=8, width_px=32, width_factor=0.125, blocks=(1, 1, 1, 1)).train()


def batch(seed: int, num_points: int = 300) -> PointBatch:
    points = torch.randn(num_points, 4, generator=torch.Generator().manual_seed(seed))
    return PointBatch.of_scan(10 * points * torch.tensor([1, 1, 0.1, 0.05]))


def first_norm(model: nn.Module) -> tuple[str, nn.BatchNorm2d]:
    return next((name, m) for name, m in model.named_modules() if isinstance(m, nn.BatchNorm2d))


def test_statistics_are_the_mean_of_the_batches_own(model):
    name, norm = first_norm(model)
    inputs: list[torch.Tensor] = []
    handle = norm.register_forward_pre_hook(lambda _, args: inputs.append(args[0]))
    batches = [batch(1), batch(2), batch(3)]
    measured = measured_statistics(model, batches)
    handle.remove()
    axes = (0, 2, 3)
    expected_mean = torch.stack([x.mean(axes) for x in inputs]).mean(0)
    expected_var = torch.stack([x.var(axes) for x in inputs]).mean(0)  # unbiased, as torch's running variance is
    torch.testing.assert_close(measured[f"{name}.running_mean"], expected_mean)
    torch.testing.assert_close(measured[f"{name}.running_var"], expected_var)
    assert int(measured[f"{name}.num_batches_tracked"]) == 3


def test_the_model_stays_as_it_was(model):
    before = {key: value.clone() for key, value in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    momenta = [m.momentum for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    measured = measured_statistics(model, [batch(1)])
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert [module.training for module in model.modules()] == modes
    assert [m.momentum for m in model.modules() if isinstance(m, nn.BatchNorm2d)] == momenta
    write_statistics(model, measured)
    assert any(not torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_without_points_nothing_is_measured(model):
    measured = measured_statistics(model, [batch(1, num_points=0)])
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in measured.items())


def test_a_network_in_eval_mode_is_better_with_statistics_of_its_own_weights(model):
    """Running statistics of other weights, as a teacher's are, and what measuring them again gives."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3.0)
    scans = batch(1)
    by_batch = model.train()(scans).point_logits.detach()
    stale = model.eval()(scans).point_logits.detach()
    write_statistics(model, measured_statistics(model, [scans]))
    fresh = model.eval()(scans).point_logits.detach()
    assert (fresh - by_batch).abs().mean() < 0.2 * (stale - by_batch).abs().mean()


def test_whatever_happens_to_kept_statistics_is_undone(model):
    before = read_statistics(model)
    broken = RuntimeError("inside")

    def harm() -> None:
        with kept_statistics(model):
            model(batch(1))
            assert any(not torch.equal(value, before[name]) for name, value in read_statistics(model).items())
            raise broken

    with pytest.raises(RuntimeError, match="inside"):
        harm()
    assert all(torch.equal(value, before[name]) for name, value in read_statistics(model).items())
