"""Which frames make step k: a pure function of (seed, k), so a run resumes at any step with any number of workers."""

from collections.abc import Iterable, Sequence
from functools import lru_cache

import numpy as np
from jaxtyping import Int

from ray_lidarseg.types import IGNORE

LABELLED, UNLABELLED = 0, 1
"""Stream numbers that go into every seed."""


class StepSampler:
    """Walks each stream through endless seeded permutations; every pass holds every frame exactly once.

    The global batch of step k is slots k*n … (k+1)*n - 1 of the stream; workers divide those slots among themselves.
    The i-th labelled and the i-th unlabelled frame form a pair.

    Args:
        seed: Of the permutations.
        num_labelled: Frames of the labelled stream.
        num_unlabelled: Frames of the unlabelled stream.
        labelled_per_step: Over all workers; 0 leaves the stream unread.
        unlabelled_per_step: Likewise.
        repeats: How often each labelled frame comes in one pass, at least once; left out, once.
    """

    def __init__(
        self,
        seed: int,
        num_labelled: int,
        num_unlabelled: int,
        labelled_per_step: int,
        unlabelled_per_step: int,
        repeats: Sequence[int] | None = None,
    ):
        for name, num_frames, per_step in (
            ("labelled", num_labelled, labelled_per_step),
            ("unlabelled", num_unlabelled, unlabelled_per_step),
        ):
            if per_step and not num_frames:
                raise ValueError(f"{per_step} {name} scans a step are asked for, but there are no {name} frames")
        self.seed = seed
        counts = np.ones(num_labelled, np.int64) if repeats is None else np.asarray(repeats)
        self.passes = (np.repeat(np.arange(num_labelled), counts), np.arange(num_unlabelled))
        self.per_step = (labelled_per_step, unlabelled_per_step)

    def step(self, k: int) -> tuple[list[int], list[int]]:
        """Indices into the labelled and into the unlabelled frames that make step ``k`` over all workers."""
        return self._stream(LABELLED, k), self._stream(UNLABELLED, k)

    def _stream(self, stream: int, k: int) -> list[int]:
        first = k * self.per_step[stream]
        return [self._slot(stream, slot) for slot in range(first, first + self.per_step[stream])]

    def _slot(self, stream: int, slot: int) -> int:
        frames = self.passes[stream]
        round_trip, position = divmod(slot, len(frames))
        return int(frames[_permutation(self.seed, stream, round_trip, len(frames))[position]])


def class_balanced_repeats(labels: Iterable[Int[np.ndarray, "P"]], most: int = 10) -> list[int]:
    """How often each frame comes in a pass so that classes, not frames, are met alike.

    ``p_i = mean over classes c of (points of c in frame i) / (points of c in all frames)`` is the chance of frame i
    where a class is drawn first, each alike, and then one of its points; of N frames, frame i comes
    ``round(N p_i)`` times, at least once and at most ``most`` times.

    Args:
        labels: Class ids of each frame's points, IGNORE allowed.
        most: Bound for a frame that alone holds several classes (ours: 10).

    Source: class-aware sampling (Shen et al., ECCV 2016), with points for images; rounding and bounds are ours.
    """
    counts = np.array([np.bincount(ids[ids != IGNORE], minlength=IGNORE) for ids in labels])
    totals = counts.sum(axis=0)
    present = totals > 0
    if not present.any():
        return [1] * len(counts)
    chance = (counts[:, present] / totals[present]).mean(axis=1)
    return np.clip(np.round(len(counts) * chance), 1, most).astype(int).tolist()


@lru_cache(maxsize=4)
def _permutation(seed: int, stream: int, round_trip: int, num_frames: int) -> np.ndarray:
    return np.random.default_rng([seed, stream, round_trip]).permutation(num_frames)
