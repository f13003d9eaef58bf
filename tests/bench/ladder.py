"""What ablations share: flags, mIoU by row and label ratio, and what each part of a method is worth."""

import math
import os
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from tests.bench.ledger import Row, measured_by, parser, print_table
from tests.bench.runs import MIN_SEEDS, mean_std, print_classes, std

Table = Mapping[tuple[str, float], Mapping[int, float]]
"""mIoU in percent by row and ratio, then seed."""


def flags_of(about: str, rows: Sequence[str], default: Sequence[str]) -> Any:
    """A parser with the flags of every ablation; pass what it parsed to ``with_overrides``."""
    flags = parser(about)
    flags.add_argument("--world", default="bench", help="world preset")
    flags.add_argument("--world-seed", type=int, default=0)
    flags.add_argument("--rows", nargs="+", default=default, choices=rows, help="rows of the table")
    flags.add_argument("--ratios", nargs="+", type=float, default=[0.01, 0.1])
    flags.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    flags.add_argument("--set", nargs="*", default=[], dest="overrides", help="KEY=VALUE of the recipe, for all rows")
    flags.add_argument("--jobs", type=int, default=max((os.cpu_count() or 2) // 2, 2), help="runs at a time")
    flags.add_argument("--folder", type=Path, help="world and runs, kept (default: build/bench/WORLD-SEED…)")
    flags.add_argument("--classes", action="store_true", help="a table of the classes' IoU at each ratio, too")
    flags.add_argument("--show", action="store_true", help="print what the file holds, train nothing")
    return flags


def with_overrides(args: Any) -> Any:
    """The same arguments, ``--set`` as a mapping."""
    args.overrides = {key: yaml.safe_load(value) for key, _, value in (text.partition("=") for text in args.overrides)}
    return args


def text_of(settings: Mapping[str, Any]) -> str:
    """Settings as a row of the ledger names them."""
    return " ".join(f"{key}={value}" for key, value in settings.items())


def table_of(rows: Sequence[Row]) -> Table:
    """mIoU in percent from rows of the ledger."""
    table: dict[tuple[str, float], dict[int, float]] = {}
    for row in rows:
        table.setdefault((row["row"], row["ratio"]), {})[row["seed"]] = 100 * row["miou_ratio"]
    return table


def conclude(args: Any, rows: Sequence[Row], table: Table, verdict: Callable[[float], str]) -> int:
    """Prints what was found at each ratio, last of all what was measured; 1 where a figure is missing or not finite."""
    if problems := _missing(table, args):
        print(f"FAILED: no finite figure of {', '.join(problems)}")
        return 1
    if args.quick:
        print(f"{len(rows)} runs of a few steps, {args.world} world: all finite, too short for a verdict: ok")
        return 0
    for ratio in args.ratios:
        print(f"{ratio:.0%} labels: {verdict(ratio) or 'no two rows to compare'}")
    print(f"{rows[0]['world']}, point mIoU, {len(args.seeds)} seeds, {len(rows)} runs, all finite: ok")
    return 0


def part_sentences(
    parts: Sequence[tuple[str, str, str]], values_of: Callable[[str], Mapping[int, float] | None]
) -> Iterator[str]:
    """Each part's mean gain in points, and whether it exceeds the larger standard deviation of the two rows.

    Fewer than ``MIN_SEEDS`` seeds that both rows have say nothing.

    Args:
        parts: What is claimed to help, the row with it, and the row without.
        values_of: mIoU in percent by seed, of a row.
    """
    for part, name, base in parts:
        ours, theirs = values_of(name), values_of(base)
        if ours and theirs:
            gain, spread, num_better = gain_of(ours, theirs)
            meaning = "helps" if gain > spread else "hurts" if gain < -spread else "within the spread"
            if len(ours.keys() & theirs.keys()) < MIN_SEEDS:
                meaning = "too few seeds to say"
            yield f"{part} {gain:+.1f} (spread {spread:.1f}, better in {num_better} of {len(ours)}): {meaning}"


def gain_of(ours: Mapping[int, float], theirs: Mapping[int, float]) -> tuple[float, float, int]:
    """Difference of the means, the larger standard deviation, and the number of seeds that are better."""
    gain = statistics.mean(ours.values()) - statistics.mean(theirs.values())
    num_better = sum(value > theirs.get(seed, math.inf) for seed, value in ours.items())
    return gain, max(std(ours.values()), std(theirs.values())), num_better


def print_ladder(args: Any, rows: Sequence[Row], table: Table, titles: Mapping[str, str]) -> None:
    """mIoU of every row by ratio, mean and each seed; then, where asked for, that of its classes."""
    seeds = [(ratio, seed) for ratio in args.ratios for seed in args.seeds]
    print_table(
        ["method", *(f"{ratio:.0%} labels" for ratio in args.ratios), *(f"{r:.0%} seed {s}" for r, s in seeds)],
        [
            [titles[name], *(_mean(table.get((name, ratio), {})) for ratio in args.ratios)]
            + [_figure(table.get((name, ratio), {}).get(seed)) for ratio, seed in seeds]
            for name in args.rows
        ],
    )
    for ratio in args.ratios if args.classes else ():
        of_ratio = [row for row in rows if row["ratio"] == ratio]
        print_classes({name: [row for row in of_ratio if row["row"] == name] for name in args.rows})
    if rows:
        steps = ", ".join(f"{count:,}" for count in sorted({row["steps"] for row in rows}))
        print(f"\n{rows[0]['model']}, {steps} steps; {measured_by(rows)}")


def _missing(table: Table, args: Any) -> list[str]:
    """Runs that were asked for and have no finite figure, in words."""
    wanted = ((name, ratio, seed) for ratio in args.ratios for seed in args.seeds for name in args.rows)
    return [
        f"{name} at {ratio:.0%}, seed {seed}"
        for name, ratio, seed in wanted
        if not math.isfinite(table.get((name, ratio), {}).get(seed, math.nan))
    ]


def _mean(values: Mapping[int, float]) -> str:
    return f"{mean_std(values.values())} (n={len(values)})" if values else "-"


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"
