"""Processes that died while Ray waited for them: no traceback of the waiting is shown."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def deaths_untold(name: str) -> Iterator[None]:
    """Without what a part of Ray says of processes that died; the caller says it in a line of its own.

    Args:
        name: Of its logger, as ``ray.data``; a filter sees no records of loggers below, so each of them gets it.
    """
    below = [known for known in logging.root.manager.loggerDict if known.startswith(f"{name}.")]
    logs = [logging.getLogger(known) for known in (name, *below)]
    for log in logs:
        log.addFilter(_is_no_death)
    try:
        yield
    finally:
        for log in logs:
            log.removeFilter(_is_no_death)


def _is_no_death(record: logging.LogRecord) -> bool:
    from ray.exceptions import RayActorError

    return not (record.exc_info and isinstance(record.exc_info[1], RayActorError))
