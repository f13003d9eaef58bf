"""Runs one damaged file through its reader and says how that ended: also how long it took, and how much memory."""

import contextlib
import re
import signal
import tempfile
import time
import traceback
import warnings
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np

from ray_lidarseg.errors import LidarSegError
from tests.fuzz.readers import Reader, case

OUTCOMES = ("read", "refused", "other", "wrong", "stalled", "memory")
"""``other``: an exception that is none of ours. ``wrong``: another value than the whole file's where the format tells,
or a refusal that shows a secret or is no message for people."""
FAILURES = OUTCOMES[2:]
STALL_S, MEMORY_MIB = 5.0, 500.0
_LONGEST_MESSAGE = 5_000
_SPOILT = re.compile(r"\bSECRET\b|pydantic\.dev|Traceback")


@dataclass(frozen=True)
class Outcome:
    """How a case ended.

    Attributes:
        kind: One of ``OUTCOMES``.
        detail: What failed, for people; empty where nothing did.
        seconds: It took so long.
        mib: And so much more memory than was in use before.
    """

    kind: str
    detail: str
    seconds: float
    mib: float


class _Stalled(BaseException):
    """Not an Exception: no reader may catch it."""


def run_case(reader: Reader, seed: int, number: int) -> Outcome:
    """Reads the damaged file of one case."""
    name, whole, damaged, mutations = case(reader, seed, number)
    before_mib = _reset_peak_mib()
    start = time.monotonic()
    kind, detail, value = _read(reader, name, damaged)
    seconds, mib = time.monotonic() - start, _peak_mib() - before_mib
    if kind in ("read", "refused"):
        is_told = reader.telling.issuperset(mutations) and (len(mutations) == 1 or len(reader.telling) > 1)
        if kind == "read" and is_told and value != _read(reader, name, whole)[2]:
            kind, detail = "wrong", f"{' '.join(each.__name__ for each in mutations)} gave another value"
        elif kind == "refused" and (_SPOILT.search(detail) or len(detail) > _LONGEST_MESSAGE):
            kind = "wrong"
        elif seconds > STALL_S:
            kind, detail = "stalled", f"{seconds:.1f} s"
        elif mib > MEMORY_MIB:
            kind, detail = "memory", f"{mib:.0f} MiB"
    shown = f"{reader.name} {number} ({name}): {detail:.2000}" if kind in FAILURES else ""
    return Outcome(kind, shown, seconds, mib)


def _read(reader: Reader, name: str, content: bytes) -> tuple[str, str, Any]:
    signal.signal(signal.SIGALRM, _alarm)
    signal.alarm(60)
    try:
        with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            return "read", "", reader.read(name, content, Path(folder))
    except LidarSegError as error:
        return "refused", str(error), None
    except _Stalled:
        return "stalled", "more than 60 s", None
    except MemoryError:
        return "memory", "MemoryError", None
    except Exception:
        return "other", traceback.format_exc(limit=-4), None
    finally:
        signal.alarm(0)


def _alarm(number: int, frame: FrameType | None) -> None:
    raise _Stalled


def _reset_peak_mib() -> float:
    """Memory in use now; the peak of the process starts anew from here where the kernel allows."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    return _status_mib("VmRSS")


def _peak_mib() -> float:
    return _status_mib("VmHWM")


def _status_mib(key: str) -> float:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(key):
            return int(line.split()[1]) / 1024
    return 0.0
