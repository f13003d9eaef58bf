"""One progress line: live in a terminal, a few words now and then in a log file."""

import sys

from tqdm import tqdm

_TERMINAL_PERIOD_S = 0.1
_LOG_PERIOD_S = 10.0  # ours: a night of work fills pages of a job's log, not gigabytes


def progress(total: int | None, verb: str, unit: str, delay_s: float = 0.0) -> tqdm:
    """A bar on the error stream over ``total`` things (None: nobody knows how many); use it as a context manager.

    In a terminal it moves ten times a second. Where the stream is a file or a pipe it is written at its start, at its
    end and at most every ten seconds between. What ends within ``delay_s`` seconds shows no bar.
    """
    period_s = _TERMINAL_PERIOD_S if sys.stderr.isatty() else _LOG_PERIOD_S
    return tqdm(total=total, desc=verb, unit=unit, mininterval=period_s, maxinterval=_LOG_PERIOD_S, delay=delay_s)
