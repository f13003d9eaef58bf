"""Where a training step on a GPU would wait for it, and how many kernels it starts: counted without a GPU, by line.

`python -m tests.bench.launches [--backbones …] [--methods …] [--width 0.5] [--rows 12] [--json FILE] [--quick]`

Whole optimiser steps (data to the device, forward, backward, clipping, update, teacher) of the built-in nuScenes
recipes on one labelled and one unlabelled scan of the synthetic world, on the pretended device of ``tests/gpu``, whose
file says what counts. Counts are those of float32; bfloat16 on Hopper starts fewer kernels (``grouped``). The first
step, on tiny scans, makes the optimiser's state and is not counted.

Fails (rc 1) where a supervised MinkUNet step has more than 12 waits or 3,000 launches, or LaserMix more than 40 waits.
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import sys
from collections.abc import Callable, Sequence
from typing import Any

import torch

from ray_lidarseg.training.loop import MicroBatches
from tests.bench import cost
from tests.bench.ledger import Ledger, Row, closing, print_table
from tests.gpu.pretend_device import Counts, pretending

METHODS = ("supervised", "lasermix", "lasermix_pp")
LIMITS = {("minkunet", "supervised"): (12, 3000), **{(name, "lasermix"): (40, None) for name in cost.BACKBONES}}
"""Most waits and launches of a step."""
Ahead = Callable[[MicroBatches], MicroBatches]


def count(backbone: str, method: str, width: float, preset: str, ahead: Ahead = lambda batches: batches) -> Counts:
    """What the second step of a run does; ``ahead`` is done to its batches before, on the host."""
    wanted, device = cost.recipe(backbone, method, width, "off"), torch.device("cuda")
    with pretending() as seen:
        loop = cost._loop(wanted, device)
        loop.one_step(cost._micro_batch(loop.method, cost._scans("tiny", 2)))
        batches = ahead(cost._micro_batch(loop.method, cost._scans(preset, 2)))
        seen.waits.clear()
        seen.launches.clear()
        loop.one_step(batches)
    return seen


def excesses(rows: Sequence[Row]) -> list[str]:
    """Which limits are passed, in words."""
    found = []
    for row in rows:
        limits = LIMITS.get((row["backbone"], row["method"]), (None, None))
        for name, limit in zip(("waits", "launches"), limits, strict=True):
            if limit is not None and row[name] > limit:
                found.append(f"{row['backbone']}, {row['method']}: {row[name]} {name}, at most {limit} wanted")
    return found


def main() -> int:
    """Counts, prints, writes; 1 where a limit is passed."""
    args = _arguments()
    torch.set_num_threads(1)
    ledger, rows = Ledger(args.json), []
    for backbone in args.backbones:
        for method in args.methods:
            key = {"backbone": backbone, "method": method, "width": args.width, "preset": args.preset}
            rows.append(ledger.measure(key, lambda k=key: _row(count(**k))))
            _print_lines(rows[-1], args.rows)
    print_table(
        ["a step of", "waits", "launches"], [[cost.name_of(row), row["waits"], row["launches"]] for row in rows]
    )
    figures = ", ".join(f"{cost.name_of(row)} {row['waits']} waits {row['launches']} launches" for row in rows)
    return closing(excesses(rows), figures)


def _row(seen: Counts) -> Row:
    by_line = {f"{name}_by_line": dict(getattr(seen, name).most_common()) for name in ("waits", "launches")}
    return {"waits": seen.waits.total(), "launches": seen.launches.total(), **by_line}


def _print_lines(row: Row, num_rows: int) -> None:
    print(cost.name_of(row))
    for name in ("waits", "launches"):
        for place, number in list(row[f"{name}_by_line"].items())[:num_rows]:
            print(f"  {name:9}{number:6}  {place}")


def _arguments() -> Any:
    flags = cost.step_flags(__doc__.splitlines()[0], METHODS, 0.5)
    flags.add_argument("--rows", type=int, default=12, help="lines to print")
    args = flags.parse_args()
    if args.quick:
        args.preset, args.width = "tiny", 0.125
    return args


if __name__ == "__main__":
    sys.exit(main())
