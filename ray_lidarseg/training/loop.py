"""The step loop: plain torch, no Ray, and no knowledge of which method it runs.

One optimiser step is one list of micro-batches per rank. Every collective (gradients, the skip decision, batch-norm
statistics, logged values) lies on a path that all ranks take in the same order. What step k computes depends on
(recipe, k, state after k - 1) only, so a run that resumes at any step goes on as if nothing had happened.
"""

import math
import resource
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel

from ray_lidarseg.datasets.division import seed_words
from ray_lidarseg.errors import RunError
from ray_lidarseg.methods.method import Losses, Method
from ray_lidarseg.recipe.schema import Recipe
from ray_lidarseg.sample import PointBatch
from ray_lidarseg.training.host_geometry import Represented, foreseen
from ray_lidarseg.training.optim import build_optimizer, build_schedule
from ray_lidarseg.training.precision import precision

Arriving = PointBatch | Represented
"""On the host; with its cells where the loader computes them."""

MicroBatches = Sequence[tuple[Arriving, Arriving]]
"""What one rank computes in one optimiser step: pairs of a labelled and an unlabelled batch."""

MAX_SKIPPED_IN_A_ROW = 20
"""So many non-finite steps in a row end the run: nothing will repair it by itself (ours)."""


_ANYWHERE = {"float32": None, "bfloat16": torch.bfloat16}
"""What ``train.amp`` auto chose once, a run that resumes on another machine goes on with."""


@dataclass(frozen=True)
class Ranks:
    """This process among the training workers; without a process group it is alone.

    Attributes:
        rank: Among all.
        world_size: How many there are.
        local_rank: Among those of its node.
    """

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0

    def sum_(self, tensor: Tensor) -> Tensor:
        """Adds the tensors of all ranks, in place; every rank must call it."""
        if self.world_size > 1:
            dist.all_reduce(tensor)
        return tensor

    def mean(self, tensor: Tensor) -> Tensor:
        """The mean of the tensors of all ranks, in their type; every rank must call it."""
        return (self.sum_(tensor.double()) / self.world_size).to(tensor.dtype)

    def least(self, number: int, device: torch.device) -> int:
        """The least number of all ranks; every rank must call it."""
        if self.world_size == 1:
            return number
        tensor = torch.tensor(number, device=device)
        dist.all_reduce(tensor, dist.ReduceOp.MIN)
        return int(tensor)

    def any(self, flags: Tensor) -> list[bool]:
        """Which flags are set on at least one rank; every rank must call it."""
        return (self.sum_(flags.to(torch.float32)) > 0).tolist()


@dataclass(frozen=True)
class Hooks:
    """What the loop calls; each is called on every rank, at the same steps.

    Attributes:
        record: Takes one line of metrics.
        evaluate: Takes the number of steps done; says whether they are worth a checkpoint, on every rank the same.
        save: Takes the number of steps done, after everything else of that step.
        is_leaving: Whether this rank knows that its machine is about to be taken away; asked at every step.
    """

    record: Callable[[dict[str, Any]], None]
    evaluate: Callable[[int], bool]
    save: Callable[[int], None]
    is_leaving: Callable[[], bool] = lambda: False


class StepLoop:
    """A method with its optimiser, schedule and loss scaling, at some step.

    Args:
        method: Its modules on ``device`` already.
        recipe: Length, optimiser, clipping, seed.
        device: Where the step computes.
        ranks: This process among the others; a process group must exist where there are others.
    """

    def __init__(self, method: Method, recipe: Recipe, device: torch.device, ranks: Ranks):
        self.method, self.recipe, self.device, self.ranks = method, recipe, device, ranks
        self.optimizer = build_optimizer(method, recipe.optim, *_rates(method, recipe))
        self.schedule = build_schedule(self.optimizer, recipe.optim, recipe.train.steps)
        self.precision = precision(recipe, device, method)
        if not ranks.least(int(self.precision is not None), device):  # every worker measures; all compute alike
            self.precision = None
        self.scaler = torch.amp.GradScaler(device.type, enabled=self.precision == torch.float16)
        self.statistics = BatchStatistics(method)
        self._parameters = [parameter for parameter in method.parameters() if parameter.requires_grad]
        self.step = self.step_scans = 0
        self.skipped_steps = 0
        self._skipped_in_a_row, self.is_leaving = 0, False
        self._forward: nn.Module = method
        if ranks.world_size > 1:
            self._forward = DistributedDataParallel(method, broadcast_buffers=False, gradient_as_bucket_view=True)

    def state_dict(self) -> dict[str, Any]:
        """Everything a resumed run needs; tensors and plain values only."""
        return {
            "step": self.step,
            "skipped_steps": self.skipped_steps,
            "skipped_in_a_row": self._skipped_in_a_row,
            "method": self.method.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "scaler": self.scaler.state_dict(),
            "precision": str(self.precision or torch.float32).removeprefix("torch."),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continues where ``state_dict`` was taken."""
        self.method.load_state_dict(state["method"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        if self.scaler.is_enabled() and state["scaler"]:
            self.scaler.load_state_dict(state["scaler"])
        if self.recipe.train.amp == "auto" and state.get("precision") in _ANYWHERE:
            self.precision = _ANYWHERE[state["precision"]]
        self.step, self.skipped_steps = state["step"], state["skipped_steps"]
        self._skipped_in_a_row = state["skipped_in_a_row"]

    def one_step(self, micro_batches: MicroBatches, is_leaving: bool = False) -> dict[str, Tensor]:
        """One optimiser step.

        Args:
            micro_batches: Of this rank.
            is_leaving: What this rank knows; afterwards the attribute says whether any rank does.

        Returns:
            Losses and stats of this rank by their names in the metrics, averaged over micro-batches by scans; the mean
            over ranks is that of the whole step.

        Raises:
            RunError: Too many steps in a row gave a non-finite loss or gradient.
        """
        before = self.statistics.read()
        values = self._backward(micro_batches)
        self.scaler.unscale_(self.optimizer)
        norm = self._clip()
        finite = torch.isfinite(values["loss_total"]) & torch.isfinite(norm)
        is_bad, self.is_leaving = self.ranks.any(torch.stack([~finite, torch.full_like(finite, is_leaving)]))
        if is_bad:
            self._skip(before)
        else:
            self._update()
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*lr_scheduler.step")  # where the very first step is skipped
            self.schedule.step()
        self.step += 1
        return values

    def _backward(self, micro_batches: MicroBatches) -> dict[str, Tensor]:
        scans = [labelled.num_scans + unlabelled.num_scans for labelled, unlabelled in micro_batches]
        self.step_scans = self._over_all_ranks(sum(scans))
        values: dict[str, Tensor] = {}
        for index, (labelled, unlabelled) in enumerate(micro_batches):
            share = scans[index] * self.ranks.world_size / self.step_scans  # DDP divides by the number of ranks
            with self._synchronised(index == len(micro_batches) - 1):
                losses = self._losses(index, labelled, unlabelled)
                self.scaler.scale(losses.total * share).backward()
            for name, value in _named(losses).items():
                values[name] = values.get(name, torch.zeros((), device=self.device)) + share * value
        return values

    def _over_all_ranks(self, scans: int) -> int:
        if not self.recipe.is_elastic:
            return scans * self.ranks.world_size
        return int(self.ranks.sum_(torch.tensor(scans, device=self.device)))

    def _losses(self, micro: int, labelled: Arriving, unlabelled: Arriving) -> Losses:
        words = seed_words(self.recipe, self.ranks.rank, self.ranks.world_size, micro)
        seed = seed_of(self.recipe.seed, self.step, *words)
        torch.manual_seed(seed)
        generator = torch.Generator().manual_seed(seed)
        arrived = [part.to(self.device) for part in (labelled, unlabelled)]
        with_cells = [part for part in arrived if isinstance(part, tuple)]
        batches = [part[0] if isinstance(part, tuple) else part for part in arrived]
        autocast = torch.autocast(self.device.type, self.precision, enabled=self.precision is not None)
        with foreseen(self.method, with_cells), autocast:
            return self._forward(*batches, self.progress, generator)

    def _synchronised(self, is_last: bool) -> AbstractContextManager[None]:
        if is_last or not isinstance(self._forward, DistributedDataParallel):
            return nullcontext()
        return self._forward.no_sync()

    def _clip(self) -> Tensor:
        limit = self.recipe.optim.grad_clip_norm or math.inf
        return nn.utils.clip_grad_norm_([p for p in self._parameters if p.grad is not None], limit)

    def _update(self) -> None:
        self._skipped_in_a_row = 0
        self.scaler.step(self.optimizer)
        self.statistics.average(self.ranks)
        self.method.after_step(self.progress)

    def _skip(self, statistics: Tensor) -> None:
        self.statistics.write(statistics)
        self.skipped_steps += 1
        self._skipped_in_a_row += 1
        if self._skipped_in_a_row >= MAX_SKIPPED_IN_A_ROW:
            raise RunError(
                f"step {self.step + 1}: {MAX_SKIPPED_IN_A_ROW} steps in a row gave a loss or gradient that is not "
                "finite: lower optim.lr, set optim.grad_clip_norm, or set train.amp=off; then start a new run"
            )

    @property
    def progress(self) -> float:
        """Share of the schedule done, in [0, 1)."""
        return self.step / self.recipe.train.steps


class BatchStatistics:
    """The running means and variances of a module's batch norms, as one flat tensor.

    Ranks see different scans, so their statistics drift apart; averaged after every step they stay the same
    everywhere, however often a run evaluates or saves.
    """

    def __init__(self, module: nn.Module):
        norms = [m for m in module.modules() if isinstance(m, _BatchNorm) and m.running_mean is not None]
        buffers = [buffer for norm in norms for buffer in (norm.running_mean, norm.running_var)]
        self._buffers = [buffer for buffer in buffers if buffer is not None]

    def read(self) -> Tensor:
        """A copy of all values."""
        return torch.cat([buffer.flatten() for buffer in self._buffers]) if self._buffers else torch.zeros(0)

    def write(self, values: Tensor) -> None:
        """Puts values of ``read`` back."""
        sizes = [buffer.numel() for buffer in self._buffers]
        for buffer, part in zip(self._buffers, values.split(sizes), strict=True):
            buffer.copy_(part.view_as(buffer))

    def average(self, ranks: Ranks) -> None:
        """Replaces the values by their mean over all ranks; every rank must call it."""
        if ranks.world_size > 1 and self._buffers:
            self.write(ranks.sum_(self.read()) / ranks.world_size)


def run(loop: StepLoop, steps: Iterable[MicroBatches], hooks: Hooks) -> None:
    """Steps to the end of the schedule; logs, evaluates and saves at the recipe's rhythm, and saves on notice.

    Args:
        loop: At any step, for example loaded from a checkpoint.
        steps: The micro-batches of this rank for step ``loop.step`` and all that follow.
        hooks: Where lines, evaluations and checkpoints go.
    """
    train = loop.recipe.train
    meter = _Meter()
    if loop.step == 0 and train.evaluate_first:
        hooks.evaluate(0)
    for micro_batches in meter.timed(steps):
        rate, was_leaving = loop.schedule.get_last_lr()[0], loop.is_leaving
        values = loop.one_step(micro_batches, hooks.is_leaving())
        meter.count(loop.step_scans)
        done = loop.step
        if done in (1, train.steps) or done % train.log_every == 0:
            means = _mean_over_ranks(values, loop.ranks)
            hooks.record({"kind": "train", "step": done, **means, "lr": rate, **meter.read(loop)})
        is_worth_it = loop.is_leaving and not was_leaving
        if done == train.steps or done % train.evaluate_every == 0:
            is_worth_it |= hooks.evaluate(done)
        if is_worth_it or done == train.steps or done % train.checkpoint_every == 0:
            hooks.save(done)
        meter.pause()


def _rates(method: Method, recipe: Recipe) -> tuple[list[nn.Parameter], float]:
    """The backbones' parameters, and by how much all others learn faster."""
    if recipe.start is None:
        return [], 1.0
    models = method.segmentors().values()
    return [part for model in models for part in model.backbone_parameters()], recipe.start.head_lr_factor


def seed_of(seed: int, step: int, rank: int, micro: int) -> int:
    """The seed of one forward: independent for each of its four coordinates (``division.seed_words`` gives two)."""
    state = np.random.SeedSequence([seed, step, rank, micro]).generate_state(1, np.uint64)
    return int(state[0] >> np.uint64(1))


def synchronise_batch_norm(method: Method, device: torch.device, ranks: Ranks) -> None:
    """On CUDA with several ranks, batch norms of every student see the batch of all ranks; call before ``StepLoop``."""
    if device.type != "cuda" or ranks.world_size == 1:
        return
    for segmentor in method.segmentors().values():
        if any(parameter.requires_grad for parameter in segmentor.parameters()):
            nn.SyncBatchNorm.convert_sync_batchnorm(segmentor)  # replaces the batch norms inside it


def _named(losses: Losses) -> dict[str, Tensor]:
    terms = {f"loss_{name}": value.detach() for name, value in losses.terms.items()}
    stats = {name: value.detach() for name, value in losses.stats.items()}
    return {"loss_total": losses.total.detach(), **terms, **stats}


def _mean_over_ranks(values: dict[str, Tensor], ranks: Ranks) -> dict[str, float]:
    flat = torch.stack([value.to(torch.float32) for value in values.values()])
    means = ranks.sum_(flat) / ranks.world_size
    return dict(zip(values, means.tolist(), strict=True))


class _Meter:
    """Scans per second, share of the time spent waiting for data, and memory, since the last line."""

    def __init__(self) -> None:
        self._started_s = time.perf_counter()
        self._reset()

    def _reset(self) -> None:
        self._scans, self._wait_s, self._busy_s = 0, 0.0, 0.0

    def timed(self, steps: Iterable[MicroBatches]) -> Iterator[MicroBatches]:
        iterator = iter(steps)
        self.pause()
        for micro_batches in iterator:
            waited_s = time.perf_counter() - self._started_s
            self._wait_s += waited_s
            self._busy_s += waited_s
            self.pause()
            yield micro_batches

    def count(self, scans: int) -> None:
        self._busy_s += time.perf_counter() - self._started_s
        self._scans += scans

    def pause(self) -> None:
        self._started_s = time.perf_counter()

    def read(self, loop: StepLoop) -> dict[str, float]:
        rates = {
            "scans_per_s": round(self._scans / max(self._busy_s, 1e-9), 3),
            "data_wait_ratio": round(self._wait_s / max(self._busy_s, 1e-9), 4),
            "memory_gib": round(peak_memory_gib(loop.device), 3),
            "skipped_steps": loop.skipped_steps,
        }
        self._reset()
        return rates


def peak_memory_gib(device: torch.device) -> float:
    """The most memory held so far: by tensors on a CUDA device, else by this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    unit = 1 if sys.platform == "darwin" else 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30
