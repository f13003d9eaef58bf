"""Optimiser and learning-rate schedule of a recipe: the rate is a pure function of the step."""

import math
from collections.abc import Iterable
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from ray_lidarseg.recipe.schema import Optim


def build_optimizer(
    module: nn.Module, optim: Optim, backbone: Iterable[nn.Parameter] = (), head_lr_factor: float = 1.0
) -> torch.optim.Optimizer:
    """AdamW, or SGD with Nesterov momentum, over everything trainable; weight decay on all of it (authors' code).

    Args:
        module: What is trained.
        optim: Its settings.
        backbone: Parameters whose rate ``head_lr_factor`` leaves alone.
        head_lr_factor: All others learn at this many times ``optim.lr``.
    """
    parameters: list[Any] = [parameter for parameter in module.parameters() if parameter.requires_grad]
    if head_lr_factor != 1.0:
        known = {id(parameter) for parameter in backbone}
        groups = {
            optim.lr: [parameter for parameter in parameters if id(parameter) in known],
            optim.lr * head_lr_factor: [parameter for parameter in parameters if id(parameter) not in known],
        }
        parameters = [{"params": members, "lr": rate} for rate, members in groups.items() if members]
    if optim.name == "adamw":
        # all tensors in one call: the same numbers as one after another, torch's choice on a CPU, in half the time
        return torch.optim.AdamW(parameters, lr=optim.lr, eps=optim.eps, weight_decay=optim.weight_decay, foreach=True)
    return torch.optim.SGD(
        parameters,
        lr=optim.lr,
        momentum=optim.momentum,
        nesterov=optim.momentum > 0,
        weight_decay=optim.weight_decay,
    )


def build_schedule(optimizer: torch.optim.Optimizer, optim: Optim, steps: int) -> LambdaLR:
    """The schedule of the recipe over ``steps`` optimiser steps; see ``rate_factor``."""
    return LambdaLR(optimizer, partial(rate_factor, optim=optim, steps=steps))


def rate_factor(step: int, optim: Optim, steps: int) -> float:
    """Learning rate of step ``step`` (0 … steps - 1), as a share of the peak rate.

    ``onecycle``: half a cosine from ``start_factor`` up to 1 over ``warmup_ratio`` of the steps, half a cosine down to
    ``final_factor`` at the last one (the values of ``torch.optim.lr_scheduler.OneCycleLR``). ``cosine``: the same with
    a straight rise. ``constant``: 1 at every step, warm-up included.
    """
    if optim.schedule == "constant":
        return 1.0
    last = max(steps - 1, 1)
    peak = optim.warmup_ratio * steps - 1
    if step < peak:
        done = step / peak
        return _half_cosine(optim.start_factor, 1.0, done) if optim.schedule == "onecycle" else _rise(optim, done)
    return _half_cosine(1.0, optim.final_factor, min((step - max(peak, 0)) / max(last - max(peak, 0), 1e-9), 1.0))


def _rise(optim: Optim, done: float) -> float:
    return optim.start_factor + (1.0 - optim.start_factor) * done


def _half_cosine(first: float, last: float, done: float) -> float:
    return last + (first - last) * (1.0 + math.cos(math.pi * done)) / 2.0
