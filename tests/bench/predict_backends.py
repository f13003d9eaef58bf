"""`predict` with either sparse backend on a CPU, side by side: scans/s, CPU seconds of a scan, and equal labels.

`python -m tests.bench.predict_backends [--models …] [--way loop] [--rounds 3] [--json FILE] [--quick]`

The scans, networks and counting of ``tests.bench.predict``: the verb with one actor of one thread, or the plain loop of
the same functions that Ray adds nothing to, each backbone at a quarter of its width with the same random weights.
Backends take turns round by round, so that a busy machine hurts all alike; medians. ``cpu_s`` is the figure to compare
there.

Fails (rc 1) where fewer than 99.9 % of the points have the label that the first backend gives them.
"""

import argparse
import os
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from tests.bench import predict
from tests.bench.ledger import Ledger, Row, parser, print_table

MODELS = ("minkunet", "spvcnn", "cylinder3d")
MIN_ALIKE_RATIO = 0.999  # ours: logits agree to 1e-4 (tests/sparse/test_spconv_backend.py), so only near ties differ


def main() -> int:
    """Measures, prints, writes; 1 where labels differ."""
    args = _arguments()
    os.environ.update(predict.ENVIRONMENT)
    ledger, rows = Ledger(args.json), []
    for model in args.models:
        key = {"model": model, "frames": args.frames, "group": predict.GROUP, "world": args.world, "way": args.way}
        keys = [{**key, "backend": backend, "rounds": args.rounds} for backend in args.backends]
        fresh: dict[str, Row] = {}
        if any(ledger.find(known) is None for known in keys):
            fresh = measure(args, model)
        rows += [ledger.measure(known, lambda k=known, f=fresh: f[k["backend"]]) for known in keys]
    names = ("scans_per_s", "cpu_s", "alike_ratio", "load_average")
    print_table(["predict", *names], [[_name(row), *(f"{row[name]:.4g}" for name in names)] for row in rows])
    is_good, sentence = verdict(rows)
    print(f"{sentence}: {'ok' if is_good else 'FAILED'}")
    return int(not is_good)


def measure(args: argparse.Namespace, model: str) -> dict[str, Row]:
    """A row of each backend."""
    folder = args.folder.resolve()
    index = predict.scans_index(folder, args.world, args.frames)
    settings = {"name": model, **predict.MODELS[model]}
    runs = {name: predict.run_folder(folder / f"run-{model}-{name}", settings, name) for name in args.backends}
    outs = {name: folder / f"{model}-{name}" for name in args.backends}
    taken: dict[str, list[Row]] = {name: [] for name in args.backends}
    for _ in range(args.rounds):
        for name in args.backends:
            taken[name].append(predict.speed_of(args.way, 1, runs[name], index, outs[name]))
    medians = {
        name: {figure: statistics.median(row[figure] for row in rounds) for figure in rounds[0]}
        for name, rounds in taken.items()
    }
    return {name: {**row, "alike_ratio": alike(outs[args.backends[0]], outs[name])} for name, row in medians.items()}


def alike(one: Path, other: Path) -> float:
    """Share of the points of two folders' label files that have the same label; 0 where the files are not the same."""
    files = [predict.labels(folder) for folder in (one, other)]
    if [file.name for file in files[0]] != [file.name for file in files[1]]:
        return 0.0
    first, second = (np.concatenate([np.fromfile(file, np.uint8) for file in each]) for each in files)
    return float((first == second).mean()) if len(first) == len(second) else 0.0


def verdict(rows: Sequence[Row]) -> tuple[bool, str]:
    """Whether all labels are alike, and a sentence with the figures."""
    parts = []
    for row in rows:
        others = "" if row["alike_ratio"] >= MIN_ALIKE_RATIO else f", OTHER labels ({row['alike_ratio']:.2%} alike)"
        parts.append(f"{_name(row)} {row['scans_per_s']:.2f} scans/s, {row['cpu_s']:.2f} CPU s a scan{others}")
    return all(row["alike_ratio"] >= MIN_ALIKE_RATIO for row in rows), "; ".join(parts)


def _name(row: Row) -> str:
    return f"{row['model']} {row['backend']}"


def _arguments() -> argparse.Namespace:
    flags = parser(__doc__.splitlines()[0])
    flags.add_argument("--models", nargs="+", default=MODELS, choices=MODELS, help="backbones")
    flags.add_argument("--backends", nargs="+", default=("torch", "spconv"), help="sparse.backend; the first is judge")
    flags.add_argument("--way", default="verb", choices=("verb", "loop"))
    flags.add_argument("--world", default="demo", help="preset of the scans")
    flags.add_argument("--frames", type=int, default=40)
    flags.add_argument("--rounds", type=int, default=3)
    flags.add_argument("--folder", type=Path, default=Path("build/bench/predict"), help="worlds (kept) and labels")
    args = flags.parse_args()
    if args.quick:
        args.models, args.world, args.frames, args.rounds = ("minkunet",), "tiny", 12, 1
    return args


if __name__ == "__main__":
    sys.exit(main())
