"""What `make demo` shows, over several seeds: the demo's own recipes on the demo's own worlds, beside labels only.

`python -m tests.bench.demo_gain --json FILE [--seeds 0 1 2 3 4] [--methods …] [--set KEY=VALUE …] [--jobs 2] [--quick]`

Seed s is the world, the split and the training of `ray-lidarseg demo --seed s`; a run here is one worker alone instead
of two, with the same global batch. Labels only also runs at half and at twice the length: it is compared at its best.
Two figures: scans of scenes that no run saw (two scenes a world, so much of the spread is theirs), and the training
scans without labels themselves, which is what labelling an own log means. Fails (rc 1) where on either LaserMix does
not gain more than the spread over labels only, or LaserMix++ is below LaserMix.
"""

import statistics
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from ray_lidarseg.datasets.entries import dataset_of
from ray_lidarseg.datasets.sensor import resolve_sensor
from ray_lidarseg.demo import METHODS, TEACHERS, demo_recipe
from ray_lidarseg.models.build import build_segmentor
from ray_lidarseg.prepare.requested_layers import Teachers
from ray_lidarseg.recipe.load import override
from ray_lidarseg.recipe.schema import Recipe
from tests.bench.ledger import Ledger, Row, commit, measured_by, parser, print_table
from tests.bench.runs import MIN_SEEDS, Job, mean_std, measure_all, prepared_folder, prepared_world, std, world_id

BASE = "supervised"
LENGTHS = (0.5, 1.0, 2.0)
"""Of labels only, as shares of the recipe's steps: few labels are soon learnt by heart."""

Table = Mapping[tuple[str, float], Mapping[int, float]]
"""mIoU in percent by method and share of the recipe's steps, then seed."""


def main() -> int:
    args = _arguments()
    jobs = [job for seed in args.seeds for job in _jobs(args, seed)]
    rows = measure_all(Ledger(args.json), jobs, args.jobs, partial(_prepare, args))
    table, seen = table_of(rows), table_of(rows, "unlabelled_miou_ratio")
    _print(table, rows, args.seeds)
    print("\nTraining scans without labels:")
    _print(seen, rows, args.seeds)
    if args.quick:
        print(f"{len(rows)} runs on the {args.preset} world: too short for a verdict")
        return int(not all(value == value for values in table.values() for value in values.values()))
    checks = [verdict(table), verdict(seen)]
    for where, (is_good, sentence) in zip(("unseen scenes", "unlabelled scans"), checks, strict=True):
        print(f"demo, point mIoU, {len(args.seeds)} seeds, {where}: {sentence}: {'ok' if is_good else 'FAILED'}")
    return int(not all(is_good for is_good, _ in checks))


def table_of(rows: Sequence[Row], figure: str = "miou_ratio") -> Table:
    """A figure, in percent, from rows of the ledger."""
    table: dict[tuple[str, float], dict[int, float]] = {}
    for row in rows:
        table.setdefault((row["method"], row["length"]), {})[row["seed"]] = 100 * row[figure]
    return table


def verdict(table: Table) -> tuple[bool, str]:
    """Whether the demo shows what it is for, and a sentence with the figures.

    Labels only count at the length with the best mean. A gain counts where it exceeds the larger standard deviation of
    the two, over at least ``MIN_SEEDS`` seeds; the differences in each seed's own world are said, and decide nothing.
    """
    base = max((values for (method, _), values in table.items() if method == BASE), key=_mean)
    said, checks = [f"labels only {mean_std(base.values())}"], [len(base) >= MIN_SEEDS]
    before = base
    for method in ("lasermix", "lasermix_pp"):
        if (ours := table.get((method, 1.0))) is None:
            continue
        gain, spread = _mean(ours) - _mean(base), max(std(ours.values()), std(base.values()))
        gains = [ours[seed] - base[seed] for seed in ours if seed in base]
        better = f"in the same world {mean_std(gains)}, better in {sum(each > 0 for each in gains)} of {len(gains)}"
        said.append(f"{method} {mean_std(ours.values())} ({gain:+.1f}, spread {spread:.1f}; {better})")
        checks += [gain > spread, _mean(ours) >= _mean(before)]
        before = ours
    return all(checks), "; ".join(said)


def _mean(values: Mapping[int, float]) -> float:
    return statistics.mean(values.values())


def _arguments() -> Any:
    flags = parser(__doc__.splitlines()[0])
    flags.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2, 3, 4])
    flags.add_argument("--methods", nargs="+", default=list(METHODS), choices=METHODS)
    flags.add_argument("--set", nargs="*", default=[], dest="overrides", help="KEY=VALUE of the recipe, for every row")
    flags.add_argument("--jobs", type=int, default=2, help="runs at a time")
    flags.add_argument("--folder", type=Path, default=Path("build/bench"), help="worlds and runs, kept")
    args = flags.parse_args()
    args.preset, args.lengths = "demo", LENGTHS
    if args.quick:
        args.preset, args.seeds, args.lengths = "tiny", [0], (1.0,)
        args.methods = [BASE, "lasermix"] if args.methods == list(METHODS) else args.methods
        quick = ["train.steps=3", "train.evaluate_every=3", "train.checkpoint_every=3", "split.ratio=0.2"]
        args.overrides = [*quick, "model.width_px=128", *args.overrides]
    return args


def _folder(args: Any, seed: int) -> Path:
    return args.folder / f"{args.preset}-{seed}"


def _jobs(args: Any, seed: int) -> list[Job]:
    folder = _folder(args, seed)
    return [
        _job(args, folder, seed, method, length)
        for method in args.methods
        for length in (args.lengths if method == BASE else (1.0,))
    ]


def _job(args: Any, folder: Path, seed: int, method: str, length: float) -> Job:
    own = {key: yaml.safe_load(value) for key, value in (text.split("=", 1) for text in args.overrides)}
    recipe = demo_recipe(folder.resolve(), method, seed=seed)
    own = {key: value for key, value in own.items() if not key.startswith("method.") or hasattr(recipe.method, key[7:])}
    recipe = override(recipe, own)
    steps = round(length * recipe.train.steps)
    rhythm = {"train.steps": steps, "train.evaluate_every": steps, "train.checkpoint_every": max(steps // 4, 1)}
    recipe = override(recipe, rhythm)
    key = {"world": world_id(args.preset, seed), "method": method, "seed": seed, "length": length, "steps": steps}
    # rows of another network are not this one's, whatever the demo's recipe has become since
    key |= {"overrides": " ".join(args.overrides), "parameters": _parameters(recipe)}
    return Job(key, recipe, folder / "runs" / commit() / f"{method}-{length:g}-{recipe.fingerprint}")


def _parameters(recipe: Recipe) -> int:
    """Of the network, as the rows say."""
    num_classes = dataset_of(recipe.data).taxonomy.num_classes
    model = build_segmentor(recipe, resolve_sensor(recipe.data), num_classes)
    return sum(parameter.numel() for parameter in model.parameters())


def _prepare(args: Any) -> None:
    from ray_lidarseg.prepare import prepare

    for seed in args.seeds:
        prepared_world(_folder(args, seed), args.preset, seed)
        if "lasermix_pp" in args.methods:
            index = str(_folder(args, seed) / "index.parquet")
            prepared = prepared_folder(_folder(args, seed))
            prepare(index, prepared, teachers=Teachers.of(**TEACHERS), image_splits=("train",))


def _print(table: Table, rows: Sequence[Row], seeds: Sequence[int]) -> None:
    print_table(
        ["method", "steps", "mIoU", *(f"seed {seed}" for seed in seeds)],
        [
            [method, _steps(rows, method, length), mean_std(values.values())]
            + [f"{values[seed]:.1f}" if seed in values else "-" for seed in seeds]
            for (method, length), values in table.items()
        ],
    )
    print(measured_by(rows))


def _steps(rows: Sequence[Row], method: str, length: float) -> int:
    return next(row["steps"] for row in rows if (row["method"], row["length"]) == (method, length))


if __name__ == "__main__":
    raise SystemExit(main())
