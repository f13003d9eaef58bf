"""What the micro-batches of one optimiser step note for the end of it."""

import torch
import torch.distributed as dist
from torch import Tensor


class StepNotes:
    """Adds up tensors over the micro-batches and ranks of a step; notes of a step that was skipped are dropped.

    The loop skips a step whose loss is not finite, and then ``after_step`` is not called: notes carry the progress of
    their step, so that those left behind never count in the next one.
    """

    def __init__(self) -> None:
        self._notes: list[tuple[float, Tensor]] = []

    def __bool__(self) -> bool:
        """Whether anything was noted; the same on all ranks, which note in the same steps."""
        return bool(self._notes)

    def add(self, progress: float, values: Tensor) -> None:
        """Notes values of one forward in the step at ``progress``; all notes of a run have one shape."""
        self._notes = [note for note in self._notes if note[0] == progress] + [(progress, values.detach())]

    def total(self) -> Tensor:
        """The sum over this step's forwards on all ranks, every one of which must call it; the notes are gone then."""
        total = torch.stack([values for _, values in self._notes]).sum(dim=0)
        if dist.is_available() and dist.is_initialized():
            dist.all_reduce(total)
        self._notes = []
        return total
