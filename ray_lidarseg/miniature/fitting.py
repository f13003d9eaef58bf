"""The loop both miniatures are trained by: AdamW, warm-up and cosine, resumable, the best checkpoint is kept.

Step k draws its batch and its augmentation from a generator seeded with (seed, k): a run that was stopped and continued
sees what one that ran through sees. Source: ours.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from ray_lidarseg.foundation.weight_files import save_weights

Loss = Callable[[np.random.Generator], dict[str, torch.Tensor]]
Quality = Callable[[], float]

_DECAY, _CLIP = 0.02, 1.0


@dataclass(frozen=True)
class Plan:
    """How long and how fast.

    Attributes:
        steps: Optimiser steps.
        peak_rate: Largest learning rate, after the warm-up.
        check_every: Steps between two looks at the held-out pictures, when the state is saved too.
        warm_up: Steps until the peak.
        seed: Of the batches.
    """

    steps: int
    peak_rate: float
    check_every: int = 100
    warm_up: int = 40
    seed: int = 0

    def rate(self, step: int) -> float:
        """Learning rate of a step: linear up, cosine down to a hundredth."""
        if step < self.warm_up:
            return self.peak_rate * (step + 1) / self.warm_up
        progress = (step - self.warm_up) / max(1, self.steps - self.warm_up)
        return self.peak_rate * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * progress)))


class Fitting:
    """One model on its way; its state is a file, so that the same command continues."""

    def __init__(self, model: torch.nn.Module, plan: Plan, folder: Path) -> None:
        self.model, self.plan, self.folder = model, plan, folder
        decayed = [p for p in model.parameters() if p.requires_grad and p.ndim > 1]
        others = [p for p in model.parameters() if p.requires_grad and p.ndim <= 1]
        groups = [{"params": decayed, "weight_decay": _DECAY}, {"params": others, "weight_decay": 0.0}]
        self.optimiser = torch.optim.AdamW(groups, lr=plan.peak_rate, betas=(0.9, 0.98))
        self.step, self.best = 0, -math.inf
        folder.mkdir(parents=True, exist_ok=True)

    @property
    def best_file(self) -> Path:
        """Weights of the best look so far, float32."""
        return self.folder / "best.safetensors"

    def resume(self) -> None:
        """Continues from the saved state where there is one."""
        if (self.folder / "state.pt").exists():
            state = torch.load(self.folder / "state.pt", weights_only=True)
            self.model.load_state_dict(state["model"])
            self.optimiser.load_state_dict(state["optimiser"])
            self.step, self.best = state["step"], state["best"]

    def run(self, loss: Loss, quality: Quality) -> None:
        """Trains to the plan's end; one line at every look."""
        self.resume()
        started, sums = time.monotonic(), dict[str, float]()
        while self.step < self.plan.steps:
            for name, value in self.advance(loss).items():
                sums[name] = sums.get(name, 0.0) + value / self.plan.check_every
            if self.step % self.plan.check_every == 0 or self.step == self.plan.steps:
                self._look(quality(), sums, time.monotonic() - started)
                sums = {}

    def advance(self, loss: Loss) -> dict[str, float]:
        """One step; its losses by name."""
        for group in self.optimiser.param_groups:
            group["lr"] = self.plan.rate(self.step)
        losses = loss(np.random.default_rng([self.plan.seed, self.step]))
        self.optimiser.zero_grad(set_to_none=True)
        torch.stack(list(losses.values())).sum().backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), _CLIP)
        self.optimiser.step()
        self.step += 1
        return {name: value.item() for name, value in losses.items()}

    def _look(self, quality: float, sums: dict[str, float], seconds: float) -> None:
        if quality > self.best:
            self.best = quality
            weights = {name: value.contiguous() for name, value in self.model.state_dict().items()}
            save_weights(weights, self.folder / "best.partial")
            (self.folder / "best.partial").replace(self.best_file)
        state = {
            "model": self.model.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "step": self.step,
            "best": self.best,
        }
        torch.save(state, self.folder / "state.partial")
        (self.folder / "state.partial").replace(self.folder / "state.pt")
        text = " ".join(f"{name} {value:.3f}" for name, value in sums.items())
        print(f"step {self.step}/{self.plan.steps} {seconds:.0f} s {text} held-out {quality:.3f}", flush=True)
