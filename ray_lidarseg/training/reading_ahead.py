"""The next step's batch is read while this one computes: one thread, always one step ahead."""

from collections import deque
from collections.abc import Callable, Generator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")


def read_ahead(read: Callable[[int], T], steps: range) -> Generator[T, None, None]:
    """``read(k)`` for each of the steps in order, begun when the step before is handed out.

    What comes is what a plain loop gives, as ``read`` is a function of k alone; two results are held at a time. Reading
    leaves the interpreter to the step that computes, as decoding, copying and products do not hold its lock. An error
    is raised where its step would have come. Closing the iterator waits for the one read that has begun.

    Not for steps that compute on the CPU: ``sparse.products`` switches torch's library of products for a whole process
    while it multiplies, so that a product in a thread beside it (of an augmentation) would be rounded one way or the
    other by chance, and two runs would differ. There is no idle core to win there, either.

    Args:
        read: What to do in the thread.
        steps: Which; may be empty.
    """
    with ThreadPoolExecutor(1, thread_name_prefix="next-step") as thread:
        waiting: deque[Future[T]] = deque()
        for step in steps:
            waiting.append(thread.submit(read, step))
            if len(waiting) > 1:
                yield waiting.popleft().result()
        for last in waiting:
            yield last.result()
