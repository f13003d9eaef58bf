"""What a verb costs before and beside its work: CPU seconds, wall time and processes on almost no data.

`python -m tests.bench.startup [--checkout PATH …] [--rounds N] [--json FILE] [--quick]`

Verbs run as commands, each with its own Ray, on 20 key-frames of the world `tiny`: `prepare` that decodes, `train` of
two steps with two workers, `evaluate` on four frames. CPU seconds are those of all processes of the command, Ray's
services included; wall time says little on a machine that others use. Other checkouts of this repository are measured
in turn with this one, for a before and after. With --quick one round of `prepare` alone. It judges nothing (rc 0).
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median

from tests.bench.ledger import Ledger, Row, parser, print_table
from tests.bench.process_tree import watched

HERE = Path(__file__).parents[2]
_INTERVAL_S = 0.1
_SHORT = (
    "train.steps=2",
    "train.evaluate_every=2",
    "train.checkpoint_every=2",
    "split.ratio=0.5",
    "method.name=supervised",
    "workers.use_gpu=no",
)


def main() -> int:
    args = _arguments()
    ledger = Ledger(args.json)
    rounds = range(1 if args.quick else args.rounds)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        index = _indexed(Path(folder))
        for number in rounds:
            for checkout in args.checkout:
                out = Path(folder) / f"{number}-{checkout.name}"
                for verb, command in _commands(index, out, args.quick).items():
                    key = {"verb": verb, "checkout": str(checkout.resolve().name), "round": number}
                    rows.append(ledger.measure(key, lambda c=command, at=checkout: spent(c, at)))
    _print(rows)
    return 0


def spent(command: Sequence[str], checkout: Path) -> Row:
    """CPU seconds, wall time and number of processes of one command of the package in ``checkout``."""
    environment = {**os.environ, "PYTHONPATH": str(checkout), "OMP_NUM_THREADS": "1", "RAY_worker_niceness": "0"}
    began = time.monotonic()
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    with watched(process.pid, _INTERVAL_S, with_memory=False) as watch:
        said, _ = process.communicate()
    if process.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with status {process.returncode}:\n{said}")
    at_once = max(sample.processes for sample in watch.samples)
    return {"cpu_s": watch.samples[-1].cpu_s, "wall_s": time.monotonic() - began, "processes": at_once}


def _commands(index: Path, out: Path, is_quick: bool) -> dict[str, list[str]]:
    verb = [sys.executable, "-m", "ray_lidarseg.cli"]
    prepared, run = str(out / "prepared"), str(out / "run")
    settings = [part for setting in (f"data.prepared={prepared}", *_SHORT) for part in ("--set", setting)]
    commands = {"prepare": [*verb, "prepare", str(index), "--out", prepared]}
    if not is_quick:
        commands["train"] = [*verb, "train", "demo", *settings, "--run", run]
        commands["evaluate"] = [*verb, "evaluate", run]
    return commands


def _indexed(folder: Path) -> Path:
    from ray_lidarseg.index import index
    from ray_lidarseg.world import generate

    generate("tiny", str(folder / "world"))
    index("nuscenes", str(folder / "world"), str(folder / "index.parquet"))
    return folder / "index.parquet"


def _print(rows: Sequence[Row]) -> None:
    lines = []
    for verb, checkout in dict.fromkeys((row["verb"], row["checkout"]) for row in rows):
        same = [row for row in rows if (row["verb"], row["checkout"]) == (verb, checkout)]
        figures = (median(row[name] for row in same) for name in ("cpu_s", "wall_s"))
        lines.append([verb, checkout, *(f"{value:.1f}" for value in figures), max(row["processes"] for row in same)])
    print_table(["verb", "checkout", "CPU s", "wall s", "processes at once"], lines)


def _arguments() -> argparse.Namespace:
    flags = parser(__doc__.splitlines()[0])
    flags.add_argument("--checkout", type=Path, nargs="*", default=[HERE], help="folders of this repository, in turn")
    flags.add_argument("--rounds", type=int, default=3, help="medians of so many")
    return flags.parse_args()


if __name__ == "__main__":
    sys.exit(main())
