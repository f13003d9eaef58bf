"""Process trees that work in turns, so that what else a machine does slows all of them alike."""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

from tests.bench.process_tree import workers_of

TURN_S = 0.5  # short beside the minutes over which load changes, long beside what starting again costs


@dataclass
class Tree:
    """A process with all that it started.

    Attributes:
        root: Process id.
        is_ready: Whether it has started up; until all have, those that are ready wait.
        paused_s: When it was held, and until when.
    """

    root: int
    is_ready: Callable[[], bool]
    paused_s: list[tuple[float, float]] = field(default_factory=list)
    _held: set[int] = field(default_factory=set)
    _since_s: float = 0.0

    def hold(self) -> None:
        """Stops its processes, but for Ray's services, which others wait for."""
        if not self._held:
            self._since_s = time.time()
        self._held |= set(workers_of(self.root))
        _send(self._held, signal.SIGSTOP)

    def let_go(self) -> None:
        """The opposite."""
        if self._held:
            _send(self._held, signal.SIGCONT)
            self.paused_s.append((self._since_s, time.time()))
            self._held.clear()

    def working_s(self, start: float, stop: float) -> float:
        """Seconds between two moments in which it was not held."""
        held = sum(max(min(stop, until) - max(start, since), 0.0) for since, until in self.paused_s)
        return stop - start - held


@contextmanager
def taking_turns(trees: Sequence[Tree], turn_s: float = TURN_S) -> Iterator[None]:
    """Within the block one tree at a time works, from when all have started up until one of them has ended."""
    is_over = threading.Event()

    def go_on() -> None:
        try:
            while not is_over.is_set() and not all(tree.is_ready() for tree in trees):
                for tree in trees:
                    if tree.is_ready():
                        tree.hold()
                is_over.wait(0.05)
            number = 0
            while not is_over.is_set() and all(workers_of(tree.root) for tree in trees):
                for place, tree in enumerate(trees):
                    (tree.let_go if place == number % len(trees) else tree.hold)()
                is_over.wait(turn_s)
                number += 1
        finally:
            for tree in trees:
                tree.let_go()

    thread = threading.Thread(target=go_on, daemon=True)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()


def _send(processes: set[int], number: int) -> None:
    for process in processes:
        with suppress(ProcessLookupError):
            os.kill(process, number)
