"""The teacher of a mean-teacher method: an exponential moving average (EMA) of its student."""

import copy
from typing import Literal

import torch
from torch import Tensor, nn

from ray_lidarseg.models.segmentor import Cells, Output, Segmentor
from ray_lidarseg.sample import PointBatch

BufferRule = Literal["average", "copy", "own"]


class EMATeacher(nn.Module):
    """A frozen copy of the student that follows it: ``teacher = decay · teacher + (1 - decay) · student``.

    It starts as an exact copy. Its parameters have no gradient, so DDP leaves it alone. What happens to its buffers
    (batch-norm statistics) is explicit, because a teacher whose statistics stay behind its weights labels badly:

    - ``average``: floating-point buffers move like parameters, integer ones are copied; the teacher is in eval mode.
    - ``copy``: all buffers are copied from the student; the teacher is in eval mode.
    - ``own``: buffers are left alone; in training the teacher is in train mode, normalises by the statistics of the
      batch and gathers running statistics from its own forwards.

    A teacher that starts as an untrained student forgets it only after ``1 / (1 - decay)`` updates, a large part of a
    short run. With ``warm_up``, update k moves by ``min(decay, 1 - 1 / k)``: until the memory is full, the teacher is
    the plain mean of all students so far, its own first weights left out.

    Source: Mean Teacher (Tarvainen & Valpola, NeurIPS 2017); its code warms up by ``1 - 1 / (k + 1)``, so that the
    first weights count as one student. ``own`` is the LaserMix authors' code, ``average`` and ``copy`` ours.

    Args:
        student: The model to follow.
        decay: Share of the teacher that stays in one update, in [0, 1].
        buffers: The rule for buffers.
        warm_up: Whether the first updates remember less.
    """

    num_updates: Tensor

    def __init__(self, student: Segmentor, decay: float, buffers: BufferRule, warm_up: bool = False) -> None:
        super().__init__()
        self.model = copy.deepcopy(student).requires_grad_(False)
        self.decay, self.buffer_rule = decay, buffers
        self._is_warming_up = warm_up
        if warm_up:  # part of the state only where it is used, so that checkpoints of other teachers stay as they were
            self.register_buffer("num_updates", torch.zeros((), dtype=torch.int64))
        self.train(student.training)

    @torch.no_grad()
    def forward(self, batch: PointBatch, cells: Cells | None = None) -> Output:
        """What the teacher says of a batch, without a graph; see ``Segmentor.forward``."""
        return self.model(batch, cells)

    def train(self, mode: bool = True) -> "EMATeacher":
        """Train mode only where the teacher gathers its own batch-norm statistics."""
        return super().train(mode and self.buffer_rule == "own")

    @torch.no_grad()
    def update(self, student: Segmentor) -> float:
        """Moves the teacher one step towards the student; returns the decay, for what else follows at this pace."""
        decay = self._next_decay()
        self._move(list(self.model.parameters()), list(student.parameters()), decay)
        if self.buffer_rule == "own":
            return decay
        pairs = list(zip(self.model.buffers(), student.buffers(), strict=True))
        is_averaged = [self.buffer_rule == "average" and mine.is_floating_point() for mine, _ in pairs]
        averaged = [pair for pair, chosen in zip(pairs, is_averaged, strict=True) if chosen]
        self._move([mine for mine, _ in averaged], [theirs for _, theirs in averaged], decay)
        for (mine, theirs), chosen in zip(pairs, is_averaged, strict=True):
            if not chosen:
                mine.copy_(theirs)
        return decay

    def _next_decay(self) -> float:
        if not self._is_warming_up:  # also spares a GPU the wait for the count once the memory is full
            return self.decay
        self.num_updates += 1
        warm = 1 - 1 / int(self.num_updates)
        self._is_warming_up = warm < self.decay
        return min(self.decay, warm)

    @staticmethod
    def _move(mine: list[Tensor], theirs: list[Tensor], decay: float) -> None:
        if mine:  # one fused kernel for all tensors of a model
            torch._foreach_lerp_(mine, theirs, 1 - decay)
