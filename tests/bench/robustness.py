"""Are LaserMix and LaserMix++ more robust than labels only? mIoU clean, mCE and mRR on the world `bench`, three seeds.

`python -m tests.bench.robustness --json FILE [--rows …] [--seeds …] [--ratio 0.1] [--frames 60] [--faults …]
[--set …] [--runs FOLDER] [--jobs 2] [--show] [--quick]`

Runs are those of `tests.bench.lasermix_pp` in the same folder: what that has trained at this commit is only scored,
and the other way round. ``--runs build/bench/WORLD-SEED/runs/COMMIT`` scores those of another commit or checkout, as
far as they have ended, and trains none; a row names the commit of its training (``trained_commit``). Errors are
relative to labels only, the mean over its seeds on the same frames: its own mCE is 100. Frames are evenly spread over
the validation scenes. `--faults missing_camera/heavy …` adds LaserMix++ trained beside cameras that fail so: how much
of its gain depends on them.

A stopped run goes on where it was: trainings by checkpoint, scores by frame, rows by the JSON file. It fails (rc 1)
only where a figure is missing or not finite; its last lines say what exceeds the larger deviation of both rows.
"""

import math
import os
import statistics
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from ray_lidarseg import storage
from ray_lidarseg.datasets.corruptions.camera_faults import CAMERA_FAULTS, corrupt_cameras
from ray_lidarseg.datasets.corruptions.severities import CORRUPTIONS, SEVERITIES, VERSION
from ray_lidarseg.datasets.parquet_files import parquet_bytes
from ray_lidarseg.datasets.shards import keyframe_table
from ray_lidarseg.metrics.robustness import Baseline, robustness
from ray_lidarseg.prepare.requested_layers import Teachers
from ray_lidarseg.sample import Keyframe
from tests.bench.ladder import text_of, with_overrides
from tests.bench.lasermix_pp import FEATURES, MASKS, RUNGS, RUNS, recipe, run_folder
from tests.bench.ledger import Ledger, Row, commit, measured_by, parser, print_table
from tests.bench.robust_run import FRAMES, OPTIONS, link
from tests.bench.runs import MIN_SEEDS, Job, figures_of, mean_std, measure_all, prepared_world, std, world_id

BASE = "sup-only"
ROWS = (BASE, "lasermix", "all")
QUICK = {"train.steps": 3, "model.width_px": 128}

Table = Mapping[str, Mapping[int, Mapping[str, float]]]
"""Percent by row and seed: ``clean``, ``mrr``, ``mce``, the options, and each corruption's mean mIoU."""


def main() -> int:
    args = _arguments()
    os.environ[FRAMES] = str(args.frames)
    ledger, jobs = Ledger(args.json), [_job(args, row, seed) for seed in args.seeds for row in args.rows]
    jobs = [job for job in jobs if ledger.find(job.key) or _can_measure(args, job)]
    rows = measure_all(ledger, jobs, args.jobs, partial(_prepare, args, jobs))
    table = table_of(rows)
    if rows:
        _print(table, rows)
    if not args.quick:
        print("\n".join(verdict(table, row) for row in args.rows if row != BASE and {row, BASE} <= table.keys()))
    if problems := [f"{row}, seed {seed}" for row, seed in _wanted(args) if not _is_finite(table, row, seed)]:
        print(f"FAILED: no finite figure of {', '.join(problems)}")
        return 1
    if args.quick:
        print(f"{len(rows)} runs of a few steps, {args.world} world: all finite, too short for a verdict: ok")
        return 0
    print(f"{rows[0]['world']}, {args.ratio:.0%} labels, {len(args.seeds)} seeds, {len(rows)} runs, all finite: ok")
    return 0


def table_of(rows: Sequence[Row]) -> Table:
    """All figures in percent; errors relative to the mean over the seeds of labels only."""
    base = [row["corrupted_miou_ratio"] for row in rows if row["row"] == BASE]
    means = {name: statistics.fmean(statistics.fmean(one[name]) for one in base) for name in CORRUPTIONS if base}
    baseline = Baseline(BASE, "", "", means) if base else None
    table: dict[str, dict[int, dict[str, float]]] = {}
    for row in rows:
        table.setdefault(row["row"], {})[row["seed"]] = _figures(row, baseline)
    return table


def verdict(table: Table, row: str) -> str:
    """What a row gains on labels only in each of the three figures, and whether that exceeds the spread."""
    said = []
    for figure, is_lower_better in (("clean", False), ("mrr", False), ("mce", True)):
        ours, theirs = ([part[figure] for part in table[name].values()] for name in (row, BASE))
        gain = statistics.fmean(ours) - statistics.fmean(theirs)
        spread = max(std(ours), std(theirs))
        better = -gain if is_lower_better else gain
        meaning = "better" if better > spread else "worse" if better < -spread else "within the spread"
        meaning = "too few seeds to say" if min(len(ours), len(theirs)) < MIN_SEEDS else meaning
        said.append(f"{figure} {gain:+.1f} (spread {spread:.1f}): {meaning}")
    return f"{title(row)} against labels only: {'; '.join(said)}"


def title(row: str) -> str:
    """As the table calls a row: a key of ``RUNGS``, or ``all+FAULT/SEVERITY``."""
    name, _, fault = row.partition("+")
    return RUNGS[name].title + (f", cameras with {fault}" if fault else "")


def faulty_index(source: str, out: str, fault: str, severity: str) -> None:
    """An index of the same frames with failing cameras; images that change are written beside it."""
    frames = [Keyframe.from_row(row) for row in pq.read_table(source).to_pylist()]
    changed = [_faulty(frame, fault, severity, f"{out}.images") for frame in frames]
    storage.write_bytes(out, parquet_bytes(keyframe_table(changed), len(changed)))


def _faulty(frame: Keyframe, fault: str, severity: str, folder: str) -> Keyframe:
    if fault in ("missing_camera", "misalignment"):
        return corrupt_cameras(frame, fault, severity)
    loaded = [replace(camera, image=storage.read_bytes(camera.uri)) for camera in frame.cameras]
    cameras = []
    for camera in corrupt_cameras(replace(frame, cameras=tuple(loaded)), fault, severity).cameras:
        uri = storage.join(folder, f"{frame.frame_id}-{camera.name}.jpg")
        storage.write_bytes(uri, camera.image)
        cameras.append(replace(camera, uri=uri, image=b""))
    return replace(frame, cameras=tuple(cameras))


def _figures(row: Row, baseline: Baseline | None) -> dict[str, float]:
    found = robustness(row["clean_miou_ratio"], row["corrupted_miou_ratio"], baseline)
    means = {name: statistics.fmean(values) for name, values in row["corrupted_miou_ratio"].items()}
    mean = lambda value: math.nan if value is None else value  # noqa: E731
    parts = {"clean": row["clean_miou_ratio"], "mrr": mean(found.mrr_ratio), "mce": mean(found.mce_ratio)}
    return {name: 100 * value for name, value in (parts | row["options_miou_ratio"] | means).items()}


def _arguments() -> Any:
    flags = parser(__doc__.splitlines()[0])
    flags.add_argument("--world", default="bench", help="world preset")
    flags.add_argument("--world-seed", type=int, default=0)
    flags.add_argument("--rows", nargs="+", default=list(ROWS), choices=RUNGS)
    flags.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    flags.add_argument("--ratio", type=float, default=0.1, help="share of labelled training frames")
    flags.add_argument("--frames", type=int, default=60, help="validation frames scored in 25 forms; 0: all")
    flags.add_argument("--faults", nargs="*", default=[], metavar="FAULT/SEVERITY", help=", ".join(CAMERA_FAULTS))
    flags.add_argument("--runs", type=Path, help="runs of a commit that lasermix_pp has trained; others are left out")
    flags.add_argument("--jobs", type=int, default=2, help="runs at a time")
    flags.add_argument("--show", action="store_true", help="print what the file holds, train and score nothing")
    flags.add_argument("--folder", type=Path, help="world and runs, kept (default: build/bench/WORLD-SEED)")
    flags.add_argument("--set", nargs="*", default=[], dest="overrides", help="KEY=VALUE of the recipe, for all rows")
    args = with_overrides(flags.parse_args())
    for fault in args.faults:
        name, _, severity = fault.partition("/")
        if name not in CAMERA_FAULTS or severity not in SEVERITIES:
            flags.error(f"--faults {fault}: expected one of {', '.join(CAMERA_FAULTS)}, a slash, and a severity")
    if args.quick:
        args.world, args.seeds, args.ratio, args.frames = "tiny", [0], 0.2, 2
        args.overrides = {**QUICK, **args.overrides}
    args.rows = [*dict.fromkeys([BASE, *args.rows]), *(f"all+{fault}" for fault in args.faults)]
    args.folder = args.folder or Path("build/bench") / f"{args.world}-{args.world_seed}"
    args.teachers = Teachers.of(MASKS, FEATURES, [])
    return args


def _wanted(args: Any) -> list[tuple[str, int]]:
    return [(row, seed) for row in args.rows for seed in args.seeds]


def _is_finite(table: Table, row: str, seed: int) -> bool:
    figures = table.get(row, {}).get(seed, {})
    return bool(figures) and all(map(math.isfinite, figures.values()))


def _place(args: Any, row: str) -> str:
    fault = row.partition("+")[2].replace("/", "-")
    return str((args.folder / (f"prepared-{fault}" if fault else "prepared")).resolve())


def _job(args: Any, row: str, seed: int) -> Job:
    _, pairs, features = args.teachers.layers()
    name = row.partition("+")[0]
    wanted = recipe(_place(args, row), f"{features.name}/{pairs.name}", name, args.ratio, seed, args.overrides)
    key = {"world": world_id(args.world, args.world_seed), "row": row, "ratio": args.ratio, "seed": seed}
    key |= {"steps": wanted.train.steps, "width_px": wanted.model.width_px, "scored_frames": args.frames}
    key |= {"corruptions_version": VERSION}
    if args.overrides and not args.quick:
        key |= {"overrides": text_of(args.overrides)}
    run = run_folder(_runs(args), row.replace("/", "-"), args.ratio, seed, wanted)
    return Job(key, wanted, args.folder / "robust" / run.parent.name / run.name, "tests.bench.robust_run")


def _runs(args: Any) -> Path:
    return args.runs or args.folder / RUNS / commit()


def _can_measure(args: Any, job: Job) -> bool:
    if args.show:
        return False
    return not args.runs or figures_of(_runs(args) / job.folder.name, job.recipe) is not None


def _prepare(args: Any, jobs: Sequence[Job]) -> None:
    """What the jobs score, and unless it is there: world, shards and layers, again for each fault of the cameras."""
    from ray_lidarseg.prepare import prepare
    from ray_lidarseg.runtime.cluster import connect

    for job in jobs:
        link(job.folder, _runs(args) / job.folder.name)
    if args.runs:
        return
    with connect():  # once for all
        prepared = prepared_world(args.folder, args.world, args.world_seed)
        index = str(args.folder / "index.parquet")
        if "all" in args.rows:
            prepare(index, prepared, teachers=args.teachers)
        for fault in args.faults:
            place = _place(args, f"all+{fault}")
            if not Path(f"{place}.parquet").exists():
                faulty_index(index, f"{place}.parquet", *fault.split("/"))
            prepare(f"{place}.parquet", place, teachers=args.teachers)


def _print(table: Table, rows: Sequence[Row]) -> None:
    columns = ["clean", "mrr", "mce", *OPTIONS, *CORRUPTIONS]
    print_table(
        ["method", "seeds", *columns],
        [
            [title(row), len(seeds), *(mean_std([part[column] for part in seeds.values()]) for column in columns)]
            for row, seeds in table.items()
        ],
    )
    trained = ", ".join(sorted({row.get("trained_commit", row["commit"]) for row in rows}))
    print(
        f"\n{rows[0]['frames']} frames, {rows[0]['steps']} steps, trained at {trained}, scored at {measured_by(rows)}"
    )


if __name__ == "__main__":
    sys.exit(main())
