"""Ctrl-C and SIGTERM end a verb the same way: an exception in the main thread, one sentence, a status of its own.

Ray sets handlers of its own while it starts and while it trains; theirs call ``sys.exit`` in the middle of anything.
No import of Ray here, as the command line needs this before any verb.
"""

import os
import select
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

NOBODY_READS = 128 + signal.SIGPIPE
"""Exit status where our output is no longer read, as shells have it."""

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_first: int | None = None  # of the signals that the last block got


class Terminated(KeyboardInterrupt):
    """SIGTERM, which a batch system or Kubernetes sends before it kills: the work ends as after Ctrl-C."""


def status_of(interruption: KeyboardInterrupt) -> int:
    """Exit status as shells have it, 128 + the signal's number: 143 after SIGTERM, 130 after Ctrl-C.

    What the signal raised may have become a plain KeyboardInterrupt on its way, as in Ray Tune.
    """
    is_terminated = isinstance(interruption, Terminated) or _first == signal.SIGTERM
    return 128 + (signal.SIGTERM if is_terminated else signal.SIGINT)


def reader_is_gone() -> bool:
    """Whether it is our output that nobody reads, as of ``… | head``; then Python shall not try again at exit."""
    asked = select.poll()
    asked.register(sys.stdout.fileno(), 0)  # errors are told in any case
    is_gone = bool(asked.poll(0))
    if is_gone:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return is_gone


@contextmanager
def interruptible(farewell: str) -> Iterator[None]:
    """Within the block the first SIGINT or SIGTERM raises in the main thread, so that ``finally`` clauses run.

    The second one ends the process at once, also when it comes after the block, while Python cleans up. What the shell
    told a process to ignore stays ignored. Off the main thread, where Python sets no handlers, nothing changes.

    Args:
        farewell: What the second signal says on the error stream.

    Raises:
        KeyboardInterrupt: The first signal was SIGINT.
        Terminated: It was SIGTERM.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    global _first
    _first = None

    def handle(number: int, _: FrameType | None) -> None:
        global _first
        if _first is not None:
            os.write(sys.__stderr__.fileno() if sys.__stderr__ else 2, f"{farewell}\n".encode())
            os._exit(128 + number)
        _first = number
        raise Terminated if number == signal.SIGTERM else KeyboardInterrupt

    before = {number: signal.getsignal(number) for number in _SIGNALS}
    for number in _SIGNALS:
        if before[number] is not signal.SIG_IGN:
            signal.signal(number, handle)
    try:
        yield
    finally:
        if _first is None:
            for number in _SIGNALS:
                signal.signal(number, before[number] or signal.SIG_DFL)
