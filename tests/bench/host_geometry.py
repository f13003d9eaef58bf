"""What `workers.geometry_in_loader` moves out of a step: CPU seconds, waits and launches; and what travels instead.

`python -m tests.bench.host_geometry [--backbones …] [--methods …] [--width 0.125] [--rounds 3] [--json FILE] [--quick]`

Whole optimiser steps as in ``tests.bench.cost``, once with geometry in the step and once with cells that were computed
before, in turn; CPU seconds of one thread, medians. ``ahead_s`` is what a loader spends on a step's batches, stowing
included. Waits and launches are those of a GPU, counted on the pretended device on tiny scans.

Fails (rc 1) where losses differ between the two, or where a step with its geometry ahead waits more often.
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import argparse
import statistics
import sys
import time
from collections.abc import Sequence
from functools import partial

import torch

from ray_lidarseg.sample import PointBatch
from ray_lidarseg.training.cargo import stowed
from ray_lidarseg.training.host_geometry import Represented
from ray_lidarseg.training.loop import Arriving, MicroBatches, StepLoop
from tests.bench import cost, launches
from tests.bench.ledger import Ledger, Row, closing, print_table

METHODS = ("supervised", "lasermix")


def main() -> int:
    """Measures, prints, writes; 1 where losses differ or a step waits more often."""
    args = _arguments()
    torch.set_num_threads(1)
    ledger, rows = Ledger(args.json), []
    for backbone in args.backbones:
        for method in args.methods:
            key = {"backbone": backbone, "method": method, "width": args.width, "preset": args.preset}
            key["rounds"] = args.rounds
            rows.append(ledger.measure(key, lambda k=key: measure(**k)))
    names = ("step_s", "with_cells_s", "ahead_s", "mib", "waits", "waits_ahead", "launches", "launches_ahead")
    print_table(["a step of", *names], [[cost.name_of(row), *(f"{row[name]:.4g}" for name in names)] for row in rows])
    figures = ", ".join(f"{cost.name_of(row)} {1 - row['with_cells_s'] / row['step_s']:.0%}" for row in rows)
    return closing(problems(rows), f"of a step's CPU time moved to the loader: {figures}")


def measure(backbone: str, method: str, width: float, preset: str, rounds: int) -> Row:
    """Both ways in turn on a CPU, then one step of each on the pretended device."""
    loops = [_loop(backbone, method, width, "cpu") for _ in range(2)]
    plain = cost._micro_batch(loops[0].method, cost._scans(preset, 2))
    taken: list[tuple[float, float, float]] = []
    losses: list[list[float]] = [[], []]
    for number in range(rounds + 1):
        began = time.process_time()
        ahead = with_cells(loops[1], plain)
        ahead_s = time.process_time() - began
        seconds = []
        for loop, batches, said in zip(loops, (plain, ahead), losses, strict=True):
            (step_s, _), values = cost._step(loop, batches, torch.device("cpu"))
            seconds.append(step_s)
            said.append(float(values["loss_total"]))
        if number:  # the first round warms up
            taken.append((*seconds, ahead_s))
    step_s, with_cells_s, ahead_s = (statistics.median(column) for column in zip(*taken, strict=True))
    cargo = sum(part.cargo.num_bytes for pair in ahead for part in pair if isinstance(part, Represented))
    figures = {"step_s": step_s, "with_cells_s": with_cells_s, "ahead_s": ahead_s, "mib": cargo / 2**20}
    return {**figures, "is_same": losses[0] == losses[1], **_counts(backbone, method)}


def with_cells(loop: StepLoop, micro_batches: MicroBatches) -> MicroBatches:
    """What the loader hands over; the loop's own model represents here, on the host."""

    def represented(batch: Arriving) -> Arriving:
        if not isinstance(batch, PointBatch) or not batch.num_scans:
            return batch
        return Represented(batch.num_scans, stowed((batch, loop.method.student.represent(batch))))

    return [(represented(labelled), represented(unlabelled)) for labelled, unlabelled in micro_batches]


def _counts(backbone: str, method: str) -> Row:
    host = _loop(backbone, method, 0.125, "cpu")
    plain = launches.count(backbone, method, 0.125, "tiny")
    ahead = launches.count(backbone, method, 0.125, "tiny", partial(with_cells, host))
    waits = {"waits": plain.waits.total(), "waits_ahead": ahead.waits.total()}
    return {**waits, "launches": plain.launches.total(), "launches_ahead": ahead.launches.total()}


def _loop(backbone: str, method: str, width: float, device: str) -> StepLoop:
    return cost._loop(cost.recipe(backbone, method, width, "off"), torch.device(device))


def problems(rows: Sequence[Row]) -> list[str]:
    """What does not hold, in words."""
    found = [f"{cost.name_of(row)}: other losses with cells from the loader" for row in rows if not row["is_same"]]
    for row in rows:
        if row["waits_ahead"] > row["waits"]:
            found.append(f"{cost.name_of(row)}: {row['waits_ahead']} waits with geometry ahead, {row['waits']} without")
    return found


def _arguments() -> argparse.Namespace:
    flags = cost.step_flags(__doc__.splitlines()[0], METHODS, 0.125)
    flags.add_argument("--rounds", type=int, default=3)
    args = flags.parse_args()
    if args.quick:
        args.preset, args.rounds, args.methods, args.backbones = "tiny", 1, ("supervised",), ("minkunet",)
    return args


if __name__ == "__main__":
    sys.exit(main())
