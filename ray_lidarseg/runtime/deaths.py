"""Processes that died while Ray waited for them: counted, and no traceback of the waiting shown."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass
class Deaths:
    """How many there were."""

    count: int = 0

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether a record is of anything else; called by a logger."""
        from ray.exceptions import RayActorError

        is_death = bool(record.exc_info) and isinstance(record.exc_info[1], RayActorError)
        self.count += is_death
        return not is_death


@contextmanager
def deaths_untold(logger: str) -> Iterator[Deaths]:
    """Without what one of Ray's loggers says of processes that died; the caller says it in a line of its own.

    Args:
        logger: Its whole name: a filter sees no records of the loggers below.
    """
    deaths, log = Deaths(), logging.getLogger(logger)
    log.addFilter(deaths)
    try:
        yield deaths
    finally:
        log.removeFilter(deaths)
