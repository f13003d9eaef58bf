"""Is the world `bench` neither saturated nor hopeless? One small model, supervised, at 1 %, 10 % and 100 % labels.

`python -m tests.bench.saturation --json FILE [--jobs 2] [--quick]`

60 training scenes, 15 others for validation, 20 key-frames each. The seed changes the label split, the initial weights
and the order of the scans; the world, the model and the number of optimiser steps stay. The last checkpoint counts (no
selection on the validation scenes). Fails (rc 1) where the mean mIoU does not rise from each ratio to the next, or the
last is not at least 15 points above the first.
"""

import itertools
import os
import statistics
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import yaml

from ray_lidarseg.recipe.load import override
from ray_lidarseg.recipe.schema import Recipe
from tests.bench.ledger import Ledger, Row, commit, measured_by, parser, print_table
from tests.bench.runs import Job, mean_std, measure_all, prepared_folder, prepared_world, print_classes, world_id

MIN_GAP_POINTS = 15.0  # data.md §4.4
RECIPE: dict[str, object] = {
    "method.name": "supervised",
    "split.protocol": "uniform",  # LaserMix
    "model.name": "fidnet",
    "model.height_px": 32,
    "model.width_px": 512,
    "model.width_factor": 0.125,
    "optim.lr": 0.004,
    "train.steps": 2000,
    "train.labelled_per_step": 4,
    "train.unlabelled_per_step": 0,
    "train.log_every": 50,
    "train.keep_checkpoints": 1,
    "workers.num_workers": 1,
    "workers.use_gpu": "no",
}
"""Ours, ten minutes of one CPU core a run, chosen on training scenes alone (10 of the 60 held out, one seed): with half
the columns the image, by its gap between point and cell, limited what more labels could give."""


def main() -> int:
    flags = parser(__doc__.splitlines()[0])
    flags.add_argument("--world", default="bench", help="world preset")
    flags.add_argument("--world-seed", type=int, default=0)
    flags.add_argument("--ratios", nargs="+", type=float, default=[0.01, 0.1, 1.0])
    flags.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    flags.add_argument("--steps", type=int, default=RECIPE["train.steps"])
    flags.add_argument("--jobs", type=int, default=max((os.cpu_count() or 2) // 2, 2), help="runs at a time")
    flags.add_argument("--set", nargs="*", default=[], dest="overrides", help="KEY=VALUE on top of the recipe")
    flags.add_argument("--folder", type=Path, help="world and runs, kept (default: build/bench/WORLD-SEED)")
    args = flags.parse_args()
    if args.quick:
        args.world, args.ratios, args.seeds, args.steps = "tiny", [0.1, 1.0], [0], 4
    folder = args.folder or Path("build/bench") / f"{args.world}-{args.world_seed}"
    jobs = [_job(args, folder, ratio, seed) for seed in args.seeds for ratio in args.ratios]
    make_world = partial(prepared_world, folder, args.world, args.world_seed)
    rows = measure_all(Ledger(args.json), jobs, args.jobs, make_world)
    table = {ratio: [100 * row["miou_ratio"] for row in rows if row["ratio"] == ratio] for ratio in args.ratios}
    _print(rows, table)
    if args.quick:
        print(f"{len(rows)} runs of {args.steps} steps, {args.world} world: too short for a verdict")
        return int(not all(value == value for values in table.values() for value in values))
    is_good, sentence = verdict(table)
    print(f"{rows[0]['world']}, point mIoU, {len(args.seeds)} seeds: {sentence}: {'ok' if is_good else 'FAILED'}")
    return int(not is_good)


def recipe(prepared: str, ratio: float, seed: int, steps: int, overrides: Sequence[str] = ()) -> Recipe:
    """The one recipe; between the runs of a table nothing changes but the ratio and the seed."""
    own = {key: yaml.safe_load(value) for key, value in (text.split("=", 1) for text in overrides)}
    changes = {"data.prepared": prepared, "split.ratio": ratio, "split.seed": seed, "seed": seed}
    rhythm = {"train.steps": steps, "train.evaluate_every": steps, "train.checkpoint_every": max(steps // 4, 1)}
    return override(Recipe(), {**RECIPE, **own, **changes, **rhythm})


def verdict(table: Mapping[float, Sequence[float]]) -> tuple[bool, str]:
    """Whether the means rise over the ratios and by enough in all, and a sentence with the figures.

    Args:
        table: mIoU in percent of each seed, by ratio of labels, ascending.
    """
    means = {ratio: statistics.mean(values) for ratio, values in table.items()}
    steps = list(means.values())
    is_rising = all(later > earlier for earlier, later in itertools.pairwise(steps))
    gap = steps[-1] - steps[0]
    figures = ", ".join(f"{ratio:.0%} labels {mean:.1f}" for ratio, mean in means.items())
    order = "rising" if is_rising else "not rising"
    return is_rising and gap >= MIN_GAP_POINTS, f"{figures}; {order}, gap {gap:.1f} (>= {MIN_GAP_POINTS:.0f})"


def _job(args, folder: Path, ratio: float, seed: int) -> Job:
    wanted = recipe(prepared_folder(folder), ratio, seed, args.steps, args.overrides)
    model = f"{wanted.model.name} {wanted.model.height_px}x{wanted.model.width_px} width {wanted.model.width_factor:g}"
    key = {"world": world_id(args.world, args.world_seed), "model": model, "ratio": ratio, "seed": seed}
    key |= {"steps": args.steps, "scans_per_step": wanted.train.labelled_per_step, "lr": wanted.optim.lr}
    key |= {"overrides": " ".join(args.overrides)}
    name = f"supervised-{ratio:g}-{seed}-{wanted.fingerprint}"
    return Job(key, wanted, folder / "runs" / commit() / name)  # other code, other runs


def _print(rows: Sequence[Row], table: Mapping[float, Sequence[float]]) -> None:
    print_table(
        ["labels", "frames", "mIoU", *(f"seed {row['seed']}" for row in rows if row["ratio"] == rows[0]["ratio"])],
        [
            [f"{ratio:.0%}", *_frames(rows, ratio), mean_std(values)] + [f"{value:.1f}" for value in values]
            for ratio, values in table.items()
        ],
    )
    print_classes({f"{ratio:.0%}": [row for row in rows if row["ratio"] == ratio] for ratio in table})
    print(f"\n{rows[0]['model']}, {rows[0]['parameters']} parameters, {rows[0]['train_steps']} steps each")
    print(measured_by(rows))


def _frames(rows: Sequence[Row], ratio: float) -> list[int]:
    return [next(row["labelled_frames"] for row in rows if row["ratio"] == ratio)]


if __name__ == "__main__":
    sys.exit(main())
