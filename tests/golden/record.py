"""Rewrites the stored loss series: `python -m tests.golden.record [NAME …]`, all of them where none is named.

Never do that without explaining in the commit message why the losses are allowed to change. It prints how far each
series moved from the stored one: `same`; `float-order` (the same sums in another order, see ``compare``); or
`OTHER`, which means that the change computes something else. Paste what it prints into the message.

A change of float order records all series, on whatever processor it was made: another kind than that of the records is
held to float order alone and cannot notice, and the tests then fail on the kind they were recorded on.
"""

import os

os.environ["OMP_NUM_THREADS"] = "1"

import json
import sys
from pathlib import Path
from typing import Any

from tests.bench.ledger import commit
from tests.golden.compare import Series, differences, farthest, limits, machine
from tests.golden.series import ALL, run

FOLDER = Path(__file__).parent / "stored"
COMMAND = "python -m tests.golden.record"
_NUDGES = (1, 2, 3, 4)  # with one alone LaserMix++ went 3.4 times as far as it, in the order of sums of another commit


def read(name: str) -> dict[str, Any]:
    """A stored series with its origin.

    Raises:
        FileNotFoundError: It was never recorded.
    """
    return json.loads(_file(name).read_text())


def main(names: list[str]) -> int:
    if unknown := sorted(set(names) - set(ALL)):
        print(f"no series {', '.join(unknown)}: expected some of {', '.join(ALL)}")
        return 2
    FOLDER.mkdir(exist_ok=True)
    origin = {"commit": commit(), "command": COMMAND, "threads": "1", **machine()}
    for name in names or list(ALL):
        series = run(ALL[name])
        print(f"{name}: {_moved(name, series)}", flush=True)
        spread = [f"{distance:.1e}" for distance in _spread(name, series)]
        parts = {"origin": origin, "settings": ALL[name], "series": series}
        _file(name).write_text(_text({**parts, "float_order": {"spread": [float(number) for number in spread]}}))
    return 0


def _spread(name: str, series: Series) -> list[float]:
    """How far the same sums in another order go, the farthest of several ways to get that."""
    others = [run(ALL[name], threads=2), *(run(ALL[name], nudge=seed) for seed in _NUDGES)]
    return [max(distances) for distances in zip(*(farthest(other, series) for other in others), strict=True)]


def _file(name: str) -> Path:
    return FOLDER / f"{name}.json"


def _moved(name: str, series: Series) -> str:
    if not _file(name).exists():
        return "new"
    stored = read(name)["series"]
    if not differences(series, stored):
        return "same"
    if found := differences(series, stored, limits(read(name)["float_order"]["spread"])):
        return f"OTHER: {'; '.join(found)}"
    far = farthest(series, stored)
    return f"float-order (step 1 {far[0]:.1e}, any {max(far):.1e})"


def _text(content: dict[str, dict[str, Any]]) -> str:
    """One line a value, so that a diff shows which loss moved."""
    parts = [
        f' "{part}": {{\n' + ",\n".join(f"  {json.dumps(key)}: {json.dumps(value)}" for key, value in values.items())
        for part, values in content.items()
    ]
    return "{\n" + "\n },\n".join(parts) + "\n }\n}\n"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
