"""What `workers.compile_dense` brings on this machine: a step with and without it, and how often it compiles.

`python -m tests.bench.compiled [--methods …] [--amp off auto] [--width 0.5] [--rounds 3] [--json FILE] [--quick]`

Whole optimiser steps of FIDNet as in ``tests.bench.cost``, on scans of the synthetic world. A loop with and one without
take turns step by step, so that a busy machine hurts both alike; medians of the CPU seconds of one thread, or of wall
seconds on a CUDA device. The first steps, of scans that differ in number of occupied pixels, compile and are not
counted; afterwards nothing may be compiled, though no two steps have the same scans.

Fails (rc 1) where a step after the first ones compiles, or where the first losses differ by more than 1e-3 in float32
or 3 % in bfloat16. Whether it pays is said, not judged.
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import argparse
import statistics
import sys
import time
from collections.abc import Sequence

import torch
from torch._dynamo.utils import counters

from ray_lidarseg.models.dense_parts import compile_dense
from tests.bench import cost
from tests.bench.ledger import Ledger, Row, closing, print_table

WARM_UP = 2
TOLERANCES = {"float32": 1e-3, "bfloat16": 3e-2}


def main() -> int:
    """Measures, prints, writes; 1 where something is compiled late or losses differ."""
    args = _arguments()
    torch.set_num_threads(1)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    ledger, rows = Ledger(args.json), []
    for method in args.methods:
        for amp in args.amp:
            key = {"backbone": "fidnet", "method": method, "amp": amp, "width": args.width, "preset": args.preset}
            key |= {"device": device.type, "rounds": args.rounds}
            rows.append(ledger.measure(key, lambda m=method, a=amp: measure(args, m, a, device)))
    names = ("plain_s", "compiled_s", "gain", "graphs", "late_graphs", "compiling_s")
    print_table(["a step of", *names], [[_name(row), *(f"{row[name]:.3g}" for name in names)] for row in rows])
    figures = ", ".join(f"{_name(row)} {row['gain']:.2f} times as fast" for row in rows)
    return closing(problems(rows), f"compiled: {figures}")


def measure(args: argparse.Namespace, method: str, amp: str, device: torch.device) -> Row:
    """Both loops in turn, on other scans at every step."""
    torch.compiler.reset()
    counters.clear()
    loops = {name: cost._loop(cost.recipe("fidnet", method, args.width, amp), device) for name in ("plain", "compiled")}
    compile_dense(loops["compiled"].method, device)
    scans = cost._scans(args.preset, 2)
    taken: dict[str, list[float]] = {name: [] for name in loops}
    first: dict[str, float] = {}
    graphs, wall = 0, dict.fromkeys(loops, 0.0)
    for number in range(args.rounds + WARM_UP):
        # the world's frames come round again: fewer points make other numbers of occupied pixels
        batches = [scan.select(torch.arange(len(scan) - 97 * number)) for scan in scans]
        for name, loop in loops.items():
            began = time.perf_counter()
            (seconds, _), values = cost._step(loop, cost._micro_batch(loop.method, batches), device)
            first.setdefault(name, float(values["loss_total"]))
            if number < WARM_UP:
                graphs, wall[name] = counters["stats"]["unique_graphs"], wall[name] + time.perf_counter() - began
            else:
                taken[name].append(seconds)
    plain, compiled = (statistics.median(taken[name]) for name in ("plain", "compiled"))
    return {
        "plain_s": plain,
        "compiled_s": compiled,
        "gain": plain / compiled,
        "graphs": graphs,
        "late_graphs": counters["stats"]["unique_graphs"] - graphs,
        "compiling_s": wall["compiled"] - wall["plain"],
        "precision": str(loops["compiled"].precision or torch.float32).removeprefix("torch."),
        "plain_loss": first["plain"],
        "compiled_loss": first["compiled"],
    }


def problems(rows: Sequence[Row]) -> list[str]:
    """What does not hold, in words."""
    found = []
    for row in rows:
        if row["late_graphs"]:
            found.append(f"{_name(row)}: {row['late_graphs']} graphs were compiled after the first {WARM_UP} steps")
        apart = abs(row["compiled_loss"] / row["plain_loss"] - 1)
        if not apart <= TOLERANCES[row["precision"]]:
            found.append(f"{_name(row)}: loss {row['compiled_loss']} is {apart:.1e} from {row['plain_loss']}")
    return found


def _name(row: Row) -> str:
    return f"{cost.name_of(row)}, amp {row['amp']}"


def _arguments() -> argparse.Namespace:
    flags = cost.step_flags(__doc__.splitlines()[0], ("supervised", "lasermix"), 0.5, ("fidnet",))
    flags.add_argument("--amp", nargs="+", default=("off", "auto"), choices=("off", "bf16", "auto"), help="train.amp")
    flags.add_argument("--rounds", type=int, default=3)
    args = flags.parse_args()
    if args.quick:
        args.preset, args.width, args.rounds, args.methods, args.amp = "tiny", 0.125, 2, ("supervised",), ("off",)
    return args


if __name__ == "__main__":
    sys.exit(main())
