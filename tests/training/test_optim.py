import itertools
import math

import pytest
import torch
from torch.optim.lr_scheduler import OneCycleLR

from ray_lidarseg.recipe.schema import Optim
from ray_lidarseg.training.optim import build_optimizer, build_schedule, rate_factor


@pytest.mark.parametrize("steps", [10, 57, 100])
def test_onecycle_is_the_one_of_torch(steps):
    optim = Optim(lr=0.02)
    ours = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.02)
    theirs = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.02)
    schedule = build_schedule(ours, optim, steps)
    reference = OneCycleLR(theirs, max_lr=0.02, total_steps=steps, cycle_momentum=False)
    for step in range(steps):
        assert schedule.get_last_lr()[0] == pytest.approx(reference.get_last_lr()[0], rel=1e-9), step
        ours.step(), theirs.step()
        if step < steps - 1:
            schedule.step(), reference.step()


def test_cosine_rises_straight_and_falls_to_the_final_factor():
    optim = Optim(schedule="cosine", warmup_ratio=0.5, start_factor=0.1, final_factor=1e-9)
    factors = [rate_factor(step, optim, 21) for step in range(21)]
    assert factors[0] == pytest.approx(0.1)
    rises = [after - before for before, after in itertools.pairwise(factors[:10])]
    assert rises == pytest.approx([0.9 / 9.5] * 9)
    assert factors[-1] == pytest.approx(1e-9)
    assert max(factors) == pytest.approx(1.0, abs=0.01)


def test_no_warm_up_starts_at_the_peak():
    optim = Optim(warmup_ratio=0.0)
    assert rate_factor(0, optim, 10) == 1.0
    assert rate_factor(9, optim, 10) == pytest.approx(4e-6)


@pytest.mark.parametrize("schedule", ["onecycle", "cosine", "constant"])
@pytest.mark.parametrize("steps", [1, 2, 3])
def test_shortest_runs_have_finite_rates(schedule, steps):
    optim = Optim(schedule=schedule)
    assert all(0 < rate_factor(step, optim, steps) <= 1 for step in range(steps))


def test_constant_is_constant():
    assert {rate_factor(step, Optim(schedule="constant"), 50) for step in range(50)} == {1.0}


def test_optimisers_take_the_recipe_and_leave_frozen_weights_alone():
    module = torch.nn.Linear(2, 2)
    module.bias.requires_grad_(False)
    sgd = build_optimizer(module, Optim(name="sgd", lr=0.1, momentum=0.8, weight_decay=0.3))
    assert isinstance(sgd, torch.optim.SGD)
    group = sgd.param_groups[0]
    assert (group["nesterov"], group["momentum"], group["weight_decay"]) == (True, 0.8, 0.3)
    assert [id(parameter) for parameter in group["params"]] == [id(module.weight)]
    assert not build_optimizer(module, Optim(name="sgd", momentum=0.0)).param_groups[0]["nesterov"]
    assert isinstance(build_optimizer(module, Optim()), torch.optim.AdamW)


def test_half_way_up_is_half_way():
    optim = Optim(warmup_ratio=0.5, start_factor=0.2)
    assert rate_factor(5, optim, 22) == pytest.approx(0.6)
    assert math.isclose(rate_factor(10, optim, 22), 1.0)
