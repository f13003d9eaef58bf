"""What camera rays and image segments are worth at how few labels: method nerf on the world `bench`, one switch a row.

`python -m tests.bench.nerf --json FILE [--jobs 2] [--rows …] [--ratios …] [--seeds …] [--masks slic | sam]
[--entropies | --compare-masks] [--show] [--quick]`

One small Cylinder3D (the recipe `cylinder3d-world`) and the same labelled scans in every row; the seed changes the
label split, the initial weights and the order of the scans. The deployed model of the last checkpoint counts, by point
(no selection on the validation scenes). Every run is evaluated three times on its way: the last third of labels only
says whether the length uses the labels up. The world has label images, hidden truth by which pseudo-labels are judged
while training; nothing learns from it but the row `never-wrong`, which tells the method's limit from its teacher's.

`projected` differs from `rendered` in who labels a segment and what learns it; the head and its two losses on LiDAR
and labelled camera rays stay (`no-segments` is these alone, `points-only` is without). It also labels more: all points
of a kept segment learn, by the network's own classifier, where `rendered` teaches the head at most 16 opaque pixels of
each of the segments drawn. `front` looks through one camera of six, on the same scenes. `voters` lets only certain
pixels vote for their segment, which then labels its uncertain ones. `--entropies` sweeps the threshold of a segment's
entropy, `--compare-masks` puts SAM beside SLIC; both at the first seed alone: they choose settings and prove nothing.

An ablation reports: it fails (rc 1) only where a figure is missing or not finite.
"""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

from ray_lidarseg.prepare.requested_layers import Teachers
from ray_lidarseg.recipe.load import load_recipe, override, with_method
from ray_lidarseg.recipe.schema import Recipe
from tests.bench.ladder import Table, conclude, flags_of, part_sentences, print_ladder, table_of, with_overrides
from tests.bench.ledger import Ledger, Row, commit, print_table
from tests.bench.runs import Job, mean_std, measure_all, prepared_world, world_id

BASE_RECIPE = "cylinder3d-world"
RHYTHM: dict[str, object] = {"train.keep_checkpoints": 1, "train.amp": "bf16", "workers.num_workers": 1}
RHYTHM |= {"workers.use_gpu": "no"}
STEPS = {0.01: 800, 0.1: 1600}
"""By label ratio: ten times the labels take longer to use up. Ours; the curve of labels only is printed beside it."""
DEFAULT_STEPS = 800
OPTIONS = {"label_images": "yes"}
"""Of the world: hidden truth to judge pseudo-labels by."""
FRONT = "CAM_FRONT"
LASERMIX: dict[str, object] = {
    "confidence": 0.9,
    "consistency_weight": 0.0,
    "ema_buffers": "own",
    "ema_memory_ratio": 0.0167,
}
"""As in the recipe ``demo``, where they were chosen on a world of another seed."""
ENTROPIES = (0.05, 0.1, 0.2, 0.3, 0.5)
FLAT_POINTS = 1.0
"""Labels only are used up where the last third of the steps moves their mean by no more. Ours."""


@dataclass(frozen=True)
class Rung:
    """One row of the table.

    Attributes:
        title: As the table calls it.
        method: Name in the recipe.
        changes: Dotted keys on top of what all rows share.
        module: What trains it.
    """

    title: str
    method: str
    changes: Mapping[str, Any]
    module: str = Job.module


_NERF = {"method.log_truth": True}
RUNGS = {
    "sup-only": Rung("sup-only", "supervised", {"train.unlabelled_per_step": 0}),
    "projected": Rung("+ NeRF (projected)", "nerf", {**_NERF, "method.target": "projected"}),
    "rendered": Rung("+ NeRF (rendered)", "nerf", _NERF),
    "never-wrong": Rung("+ NeRF, segments never wrong", "nerf", _NERF, "tests.bench.never_wrong_segments"),
    "lasermix": Rung("LaserMix", "lasermix", {f"method.{key}": value for key, value in LASERMIX.items()}),
    "lasermix-nerf": Rung("LaserMix + NeRF (rendered)", "nerf", {**_NERF, "method.mixing": LASERMIX}),
    "front": Rung("+ NeRF (rendered), front camera", "nerf", {**_NERF, "method.cameras": [FRONT]}),
    "no-segments": Rung("+ rendering losses alone", "nerf", {**_NERF, "method.segment_weight": 0.0}),
    "points-only": Rung(
        "+ projected segments alone",
        "nerf",
        {**_NERF, "method.target": "projected", "method.rendered_weight": 0.0, "method.depth_weight": 0.0},
    ),
    "teacher": Rung("+ NeRF (rendered), EMA teacher", "nerf", {**_NERF, "method.teacher": "ema"}),
    "voters": Rung("+ NeRF (rendered), certain pixels vote", "nerf", {**_NERF, "method.pixel_entropy_threshold": 0.3}),
    "sam": Rung("+ NeRF (rendered), segments of SAM", "nerf", {**_NERF, "method.masks": "sam"}),
    **{
        f"entropy-{value:g}": Rung(
            f"+ NeRF (rendered), H_th {value:g}", "nerf", {**_NERF, "method.entropy_threshold": value}
        )
        for value in ENTROPIES
    },
}
"""Rows by their short names; those from the eighth on are for finding out why, run where they are asked for."""
LADDER = tuple(RUNGS)[:7]

PARTS = (
    ("NeRF (projected)", "projected", "sup-only"),
    ("NeRF (rendered)", "rendered", "sup-only"),
    ("rendering instead of projecting", "rendered", "projected"),
    ("segments never wrong", "never-wrong", "rendered"),
    ("LaserMix", "lasermix", "sup-only"),
    ("NeRF on LaserMix", "lasermix-nerf", "lasermix"),
    ("NeRF with the front camera", "front", "sup-only"),
    ("six cameras instead of one", "rendered", "front"),
    ("rendering losses alone", "no-segments", "sup-only"),
    ("segments on top of them", "rendered", "no-segments"),
    ("projected segments alone", "points-only", "sup-only"),
    ("an EMA teacher", "teacher", "rendered"),
    ("votes of certain pixels alone", "voters", "rendered"),
    ("SAM instead of SLIC", "sam", "rendered"),
)
"""What is claimed to help, the row with it, and the row without."""

_OF_LABELS = {
    "kept segments": "segment_keep_ratio",
    "precision": "pseudo_precision_ratio",
    "recall": "pseudo_recall_ratio",
    "opacity": "pixel_opacity_ratio",
}


def main() -> int:
    args = _arguments()
    jobs = [_job(args, name, ratio, seed) for ratio in args.ratios for seed in args.seeds for name in args.rows]
    ledger = Ledger(args.json)
    if not args.show:
        measure_all(ledger, jobs, args.jobs, partial(_prepare, args))
    rows = [row for job in jobs if (row := ledger.find(job.key))]
    table = table_of(rows)
    _print(table, rows, args)
    return conclude(args, rows, table, partial(verdict, table, rows))


def recipe(prepared: str, masks: Mapping[str, str], name: str, ratio: float, seed: int, overrides: Mapping) -> Recipe:
    """The recipe of one run: what all rows share, then the row's method and its switches.

    Args:
        prepared: Folder of the shards and layers.
        masks: Full name of the layers of each mask teacher; ``""`` is that of rows that name none.
        name: Of the row, a key of ``RUNGS``.
        ratio: Share of labelled training frames.
        seed: Of split, weights and order.
        overrides: Dotted keys for all rows; ``method.…`` is of method nerf, and counts where the row's has it, too.
    """
    rung = RUNGS[name]
    steps = int(overrides.get("train.steps", STEPS.get(ratio, DEFAULT_STEPS)))
    changes = {"data.prepared": prepared, "split.ratio": ratio, "split.seed": seed, "seed": seed, **RHYTHM}
    changes |= {"train.steps": steps, "train.evaluate_every": -(-steps // 3)}
    changes |= {"train.checkpoint_every": max(steps // 4, 1)}
    shared = override(load_recipe(BASE_RECIPE), {**changes, "method.masks": masks[""], **overrides})
    switches = {key: value for key, value in rung.changes.items() if key != "method.masks"}
    if layer := rung.changes.get("method.masks"):
        switches["method.masks"] = masks[layer]
    return override(with_method(shared, rung.method), switches)


def verdict(table: Table, rows: Sequence[Row], ratio: float) -> str:
    """What each part is worth at a ratio, and whether labels only were used up."""
    parts = part_sentences(PARTS, lambda name: table.get((name, ratio)))
    return "; ".join(filter(None, (*parts, flatness([row for row in rows if row["ratio"] == ratio]))))


def flatness(rows: Sequence[Row]) -> str:
    """What the last third of the steps still gave labels only, on average: a short run shows nothing."""
    curves = [row["curve"] for row in rows if row["row"] == "sup-only" and len(row["curve"]) > 1]
    if not curves:
        return ""
    points = 100 * sum(curve[-1][1] - curve[-2][1] for curve in curves) / len(curves)
    meaning = "used up" if points <= FLAT_POINTS else "not used up: the run is too short"
    return f"labels only gained {points:+.1f} since step {curves[0][-2][0]:,} of {curves[0][-1][0]:,}: {meaning}"


def _arguments() -> Any:
    flags = flags_of(__doc__.splitlines()[0], tuple(RUNGS), LADDER)
    flags.add_argument("--masks", default="slic", choices=("slic", "sam"), help="segments of all rows but `sam`")
    flags.add_argument("--entropies", action="store_true", help="sweep the entropy threshold, first seed alone")
    flags.add_argument("--compare-masks", action="store_true", help="SAM beside SLIC, first seed alone")
    args = with_overrides(flags.parse_args())
    if args.entropies or args.compare_masks:
        args.rows = [f"entropy-{value:g}" for value in ENTROPIES] if args.entropies else []
        args.rows += ["rendered", "sam"] if args.compare_masks else []
        args.seeds = args.seeds[:1]
    if args.quick:
        args.world, args.ratios, args.seeds = "tiny", [0.2], [0]
        args.rows = ["rendered", "never-wrong", "lasermix-nerf"] if args.rows is LADDER else args.rows
        small = {"model.grid": [24, 24, 8], "model.width_factor": 0.125, "method.beams": 64}
        args.overrides = {"train.steps": 3, "train.log_every": 1, **small, **args.overrides}
    args.folder = args.folder or Path("build/bench") / f"{args.world}-{args.world_seed}-labelled"
    args.layers = {"": _layers(args.masks)}
    if "sam" in args.rows:
        args.layers["sam"] = _layers("sam")
    return args


@cache
def _layers(masks: str) -> str:
    return "/".join(layer.name for layer in Teachers.of(masks).layers())


def _job(args: Any, name: str, ratio: float, seed: int) -> Job:
    prepared = str((args.folder / "prepared").resolve())
    wanted = recipe(prepared, args.layers, name, ratio, seed, args.overrides)
    model = f"{wanted.model.name} {'x'.join(map(str, wanted.model.grid))} width {wanted.model.width_factor:g}"
    key = {"world": world_id(args.world, args.world_seed, OPTIONS), "model": model, "row": name, "ratio": ratio}
    key |= {"seed": seed, "steps": wanted.train.steps, "labelled_per_step": wanted.train.labelled_per_step}
    key |= {"lr": wanted.optim.lr, "overrides": " ".join(f"{key}={value}" for key, value in args.overrides.items())}
    key |= {"masks": getattr(wanted.method, "masks", "")}
    folder = args.folder / "runs" / commit() / f"{name}-{ratio:g}-{seed}-{wanted.fingerprint}"
    return Job(key, wanted, folder, RUNGS[name].module)


def _prepare(args: Any) -> None:
    """World, shards and layers, as far as they are missing."""
    from ray_lidarseg.prepare import prepare

    prepared = prepared_world(args.folder, args.world, args.world_seed, OPTIONS)
    for masks in {args.masks, *(("sam",) if "sam" in args.layers else ())}:
        prepare(str(args.folder / "index.parquet"), prepared, teachers=Teachers.of(masks))


def _print(table: Table, rows: Sequence[Row], args: Any) -> None:
    print_ladder(args, rows, table, {name: rung.title for name, rung in RUNGS.items()})
    for ratio in args.ratios:
        of_ratio = [row for row in rows if row["ratio"] == ratio]
        judged = {name: own for name in args.rows if (own := [row for row in of_ratio if row["row"] == name])}
        judged = {name: own for name, own in judged.items() if _OF_LABELS["kept segments"] in own[0]}
        if judged:
            print(f"\npseudo-labels at {ratio:.0%}, last third of the steps, percent of segments or pixels")
            print_table(
                ["method", *_OF_LABELS],
                [
                    [RUNGS[name].title, *(_share(own, key) for key in _OF_LABELS.values())]
                    for name, own in judged.items()
                ],
            )


def _share(rows: Sequence[Row], key: str) -> str:
    known = [100 * row[key] for row in rows if key in row]
    return mean_std(known) if known else "-"


if __name__ == "__main__":
    sys.exit(main())
