"""When two series count as the same: bit by bit, or up to the order in which floats are added.

``exact``: every stored float32 is repeated. Another process on the same machine does that (measured, also with other
blocks of memory in use), so it is asked for wherever torch, NumPy, the instruction set and the processor are those of
the record; the libraries below torch choose their kernels by them.

``float-order``: for every other machine, and for a change that computes the same sums in another order on purpose
(another matrix-product library, another number of threads). Such a difference starts at 1e-7 and grows, faster where
labels come from thresholds or from the largest class: after twenty steps it is 1e-7 for one series and 1 for another.
So each record measures how far its own series goes with two threads and, four times, from weights moved by a last
digit; ``limits`` are that, times a margin. Values are compared relative to the stored ones, or to ``FLOOR`` where these
are smaller (a loss or a share that starts near 0).
"""

import math
import os
import platform
from pathlib import Path

import numpy as np
import torch

Series = dict[str, list[float]]
"""What each step said, by the name of the loss or figure."""

EXACT, FLOAT_ORDER = "exact", "float-order"
LEVEL_VARIABLE = "GOLDEN_LEVEL"
"""Environment variable that asks for a level whatever the machine."""

FLOOR = 0.1


_MARGIN = 3.0  # ours: two measurements do not meet the worst case
_LEAST_FIRST, _LEAST_LATER = 1e-3, 1e-2  # of the first step and of later ones: one label of a point that flips


def limits(spread: list[float]) -> list[float]:
    """Largest distance of each step that float order may make.

    Args:
        spread: The largest distance of each step that it was seen to make; what grew once may come earlier.
    """
    least = [_LEAST_FIRST, *[_LEAST_LATER] * (len(spread) - 1)]
    return [max(low, _MARGIN * max(spread[: step + 1])) for step, low in enumerate(least)]


def machine() -> dict[str, str]:
    """All that decides which kernels torch takes and how its numbers are drawn."""
    capability = torch.backends.cpu.get_cpu_capability()
    return {"torch": torch.__version__, "numpy": np.__version__, "cpu": capability, "processor": _processor()}


def _processor() -> str:
    """Vendor, family and model as Linux tells them: names of cloud machines say less."""
    file, found = Path("/proc/cpuinfo"), {}
    for line in file.read_text().splitlines() if file.exists() else ():
        key, _, value = line.partition(":")
        found.setdefault(key.strip(), value.strip())
    words = [found[key] for key in ("vendor_id", "cpu family", "model") if key in found]
    return " ".join(words) or platform.machine()


def level_for(recorded: dict[str, str]) -> str:
    """The level this machine can be held to by a record of that one.

    Raises:
        ValueError: The environment asks for a level there is not.
    """
    asked = os.environ.get(LEVEL_VARIABLE, "")
    if asked and asked not in (EXACT, FLOAT_ORDER):
        raise ValueError(f"{LEVEL_VARIABLE}={asked}: expected {EXACT} or {FLOAT_ORDER}")
    return asked or (EXACT if machine() == recorded else FLOAT_ORDER)


def differences(found: Series, stored: Series, allowed: list[float] | None = None) -> list[str]:
    """What tells the series apart, a sentence a name; empty where nothing does.

    Args:
        found: The new one.
        stored: The old one.
        allowed: ``limits`` of each step; None: exact.
    """
    if set(found) != set(stored):
        return [
            f"names differ: {sorted(set(found) - set(stored))} are new, {sorted(set(stored) - set(found))} are gone"
        ]
    return [text for name in stored if (text := _difference(name, found[name], stored[name], allowed))]


def _difference(name: str, found: list[float], stored: list[float], allowed: list[float] | None) -> str:
    if len(found) != len(stored):
        return f"{name}: {len(found)} steps, {len(stored)} are stored"
    for step, (one, other) in enumerate(zip(found, stored, strict=True)):
        if repr(one) != repr(other) and (allowed is None or not distance(one, other) <= allowed[step]):
            return f"{name}: step {step + 1} says {one!r}, {other!r} is stored ({distance(one, other):.1e} apart)"
    return ""


def distance(found: float, stored: float) -> float:
    """Difference relative to the stored value or ``FLOOR``, 0 where both are the same, even if not finite."""
    if repr(found) == repr(stored):
        return 0.0
    apart = abs(found - stored) / max(abs(stored), FLOOR)
    return apart if math.isfinite(apart) else math.inf


def farthest(found: Series, stored: Series) -> list[float]:
    """The largest ``distance`` of each step over the names both series have."""
    names = sorted(set(found) & set(stored))
    steps = min(len(series[name]) for series in (found, stored) for name in names)
    return [max(distance(found[name][step], stored[name][step]) for name in names) for step in range(steps)]
