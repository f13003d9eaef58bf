"""Which frames make step k: a pure function of (seed, k), so a run resumes at any step with any number of workers."""

from functools import lru_cache

import numpy as np

LABELLED, UNLABELLED = 0, 1
"""Stream numbers that go into every seed."""


class StepSampler:
    """Walks each stream through endless seeded permutations; every pass holds every frame exactly once.

    The global batch of step k is slots k*n … (k+1)*n - 1 of the stream; workers divide those slots among themselves.
    The i-th labelled and the i-th unlabelled frame form a pair.
    """

    def __init__(
        self, seed: int, num_labelled: int, num_unlabelled: int, labelled_per_step: int, unlabelled_per_step: int
    ):
        for name, num_frames, per_step in (
            ("labelled", num_labelled, labelled_per_step),
            ("unlabelled", num_unlabelled, unlabelled_per_step),
        ):
            if per_step and not num_frames:
                raise ValueError(f"{per_step} {name} scans a step are asked for, but there are no {name} frames")
        self.seed = seed
        self.num_frames = (num_labelled, num_unlabelled)
        self.per_step = (labelled_per_step, unlabelled_per_step)

    def step(self, k: int) -> tuple[list[int], list[int]]:
        """Indices into the labelled and into the unlabelled frames that make step ``k`` over all workers."""
        return self._stream(LABELLED, k), self._stream(UNLABELLED, k)

    def _stream(self, stream: int, k: int) -> list[int]:
        first = k * self.per_step[stream]
        return [self._slot(stream, slot) for slot in range(first, first + self.per_step[stream])]

    def _slot(self, stream: int, slot: int) -> int:
        num_frames = self.num_frames[stream]
        round_trip, position = divmod(slot, num_frames)
        return int(_permutation(self.seed, stream, round_trip, num_frames)[position])


@lru_cache(maxsize=4)
def _permutation(seed: int, stream: int, round_trip: int, num_frames: int) -> np.ndarray:
    return np.random.default_rng([seed, stream, round_trip]).permutation(num_frames)
