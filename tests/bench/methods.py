"""mIoU of the methods at the same few labels: mean ± std over seeds, one world, the real train verb.

`python -m tests.bench.methods --world demo --methods supervised mean_teacher lasermix --ratios 0.05 0.1 --seeds 0 1 2`

The seed changes the label split, the initial weights and the order of the scans; the world stays. The last checkpoint
counts (no selection on the validation scenes). Fails (rc 1) where LaserMix does not beat sup-only by more than the
larger of both standard deviations at every ratio, or where a figure is not finite.
"""

import os
import statistics
import sys
import time
from pathlib import Path

from ray_lidarseg.demo import demo_recipe
from ray_lidarseg.generate import generate
from ray_lidarseg.index import index
from ray_lidarseg.prepare import prepare
from ray_lidarseg.recipe import override
from ray_lidarseg.runtime.cluster import connect
from ray_lidarseg.train import train
from tests.bench.ledger import Ledger, Row, parser, print_table


def main() -> int:
    flags = parser(__doc__.splitlines()[0])
    flags.add_argument("--world", default="demo", help="world preset")
    flags.add_argument("--world-seed", type=int, default=0)
    flags.add_argument("--methods", nargs="+", default=["supervised", "mean_teacher", "lasermix"])
    flags.add_argument("--ratios", nargs="+", type=float, default=[0.05, 0.1])
    flags.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    flags.add_argument("--steps", type=int, default=0, help="0: as in the built-in recipe demo")
    flags.add_argument("--set", nargs="*", default=[], dest="overrides", help="KEY=VALUE on top of the demo recipe")
    flags.add_argument(
        "--folder", type=Path, default=Path("build/bench"), help="worlds and runs, kept for the next call"
    )
    args = flags.parse_args()
    if args.quick:
        args.world, args.ratios, args.seeds, args.steps = "tiny", [0.2], [0], 4
    ledger = Ledger(args.json)
    with connect():
        folder = _prepared(args)
        rows = [
            ledger.measure(
                _key(args, method, ratio, seed), lambda m=method, r=ratio, s=seed: _run(args, folder, m, r, s)
            )
            for ratio in args.ratios
            for seed in args.seeds
            for method in args.methods
        ]
    return _verdict(rows, args)


def _prepared(args) -> Path:
    folder = (args.folder / f"{args.world}-{args.world_seed}").resolve()
    generate(args.world, str(folder / "world"), args.world_seed)
    index("nuscenes", str(folder / "world"), str(folder / "index.parquet"))
    prepare(str(folder / "index.parquet"), str(folder / "prepared"))
    return folder


def _key(args, method: str, ratio: float, seed: int) -> Row:
    key = {"world": args.world, "world_seed": args.world_seed, "method": method, "ratio": ratio, "seed": seed}
    return {**key, "steps": args.steps, "overrides": " ".join(args.overrides)}


def _run(args, folder: Path, method: str, ratio: float, seed: int) -> Row:
    import yaml

    changes = dict(text.split("=", 1) for text in args.overrides)
    recipe = override(
        demo_recipe(folder, method, args.steps, seed, ratio),
        {key: yaml.safe_load(value) for key, value in changes.items()},
    )
    began = time.monotonic()
    run = train(recipe, str(folder / "runs" / f"{method}-{ratio:g}-{seed}-{recipe.fingerprint}"))
    evaluations = [line for line in run.metrics() if line["kind"] == "evaluate" and line["step"] == recipe.train.steps]
    figures = {
        f"{line['model']}_{level}_miou_ratio": line[f"{level}_miou_ratio"]
        for line in evaluations
        for level in ("point", "cell")
    }
    deployed = "teacher" if any(line["model"] == "teacher" for line in evaluations) else "student"
    return {
        **figures,
        "miou_ratio": figures[f"{deployed}_point_miou_ratio"],
        "cell_miou_ratio": figures[f"{deployed}_cell_miou_ratio"],
        "labelled_frames": run.manifest()["split"]["num_labelled"],
        "split_digest": run.manifest()["split"]["digest"],
        "train_steps": recipe.train.steps,
        "fingerprint": recipe.fingerprint,
        "wall_s": round(time.monotonic() - began, 1),
        "threads": os.environ.get("OMP_NUM_THREADS", ""),
    }


def _verdict(rows: list[Row], args) -> int:
    table = {(method, ratio): _of(rows, method, ratio) for ratio in args.ratios for method in args.methods}
    print_table(
        ["method", *(f"{ratio:.0%} labels" for ratio in args.ratios)],
        [[method, *(_cell(table[method, ratio]) for ratio in args.ratios)] for method in args.methods],
    )
    if args.quick or not {"supervised", "lasermix"} <= set(args.methods):
        print(f"{len(rows)} runs; point mIoU (%), {args.world} world; too few steps or methods for a comparison")
        return int(not all(row["miou_ratio"] == row["miou_ratio"] for row in rows))
    gains = {ratio: _gain(table["supervised", ratio], table["lasermix", ratio]) for ratio in args.ratios}
    print(
        "; ".join(
            f"{ratio:.0%}: LaserMix - sup-only = {gain:+.1f} (spread {spread:.1f})"
            for ratio, (gain, spread) in gains.items()
        )
    )
    return int(not all(gain > spread for gain, spread in gains.values()))


def _of(rows: list[Row], method: str, ratio: float) -> list[float]:
    return [100 * row["miou_ratio"] for row in rows if (row["method"], row["ratio"]) == (method, ratio)]


def _cell(values: list[float]) -> str:
    return f"{statistics.mean(values):.1f} ± {_std(values):.1f} (n={len(values)})"


def _std(values: list[float]) -> float:
    return statistics.stdev(values) if len(values) > 1 else 0.0


def _gain(base: list[float], ours: list[float]) -> tuple[float, float]:
    return statistics.mean(ours) - statistics.mean(base), max(_std(base), _std(ours))


if __name__ == "__main__":
    sys.exit(main())
