"""Do LaserMix's pseudo-labels behave on real scans as on those of the world? Its diagnosis on both, side by side.

`python -m tests.bench.real_diagnosis --json FILE [--samples FOLDER] [--steps 300] [--jobs 1] [--show] [--quick]`

Three SemanticKITTI scans of a street (``../shared/samples``: for testing only) and three of the preset `kitti`, a tenth
of a second apart as well. Each scan in turn is labelled, the next is not, the third is held back: three runs of each,
by one recipe, the small FIDNet of `tests.bench.lasermix_pp` with 64 rows. Three scans prove nothing about a method and
no gain is printed; what is compared is the diagnosis every run writes, on the unlabelled scan, whose truth nothing
learns from: the share of points that get a pseudo-label, how many of these are right, and whether it is the common
classes that are kept (Spearman's correlation over classes of share among points and share kept).

It fails (rc 1) where a figure is missing or not finite.
"""

import math
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import spearmanr

from ray_lidarseg.datasets.catalog import read_catalog
from ray_lidarseg.datasets.semantickitti import CLASSES
from ray_lidarseg.recipe.load import override, with_method
from ray_lidarseg.recipe.schema import Recipe
from ray_lidarseg.storage import resolve
from tests.bench.lasermix_pp import RECIPE, RUNGS
from tests.bench.ledger import Ledger, Row, commit, measured_by, parser, print_table
from tests.bench.runs import Job, mean_std, measure_all, prepared_folder, prepared_world

SAMPLES = Path("../shared/samples/semantickitti_seq00")
SOURCES = ("real", "world")
WORLD: dict[str, object] = {"frames": 3, "train_scenes": 1, "val_scenes": 1, "image_width_px": 64}
NUM_SCANS = 3
CONFIDENCE = float(RECIPE["method.confidence"])  # type: ignore[arg-type]
_QUICK_CONFIDENCE = 0.05  # a teacher of a few steps is sure of nothing
_FIGURES = {"kept": "kept_total_ratio", "right": "precision_total_ratio"}


def main() -> int:
    args = _arguments()
    ledger, rows = Ledger(args.json), []
    for source in args.sources:
        if args.show:
            rows += [row for row in ledger.rows if row["source"] == source and row["steps"] == args.steps]
            continue
        folder = args.folder / source
        frames = _frames(args, source, folder)
        jobs = [_job(args, folder, frames, source, turn) for turn in range(args.turns)]
        rows += measure_all(ledger, jobs, args.jobs)
    _print(args, rows)
    found = {source: _of(rows, source) for source in args.sources}
    wrong = [
        f"{name} of {source}"
        for source, figures in found.items()
        for name in (*_FIGURES, *(() if args.quick else ("common",)))
        if len(figures.get(name, ())) != args.turns or not all(map(math.isfinite, figures[name]))
    ]
    if wrong:
        print(f"FAILED: no finite figure of {', '.join(wrong)}")
        return 1
    said = [
        f"{source}: kept {mean_std(figures['kept'])} %, right {mean_std(figures['right'])} %"
        + ("" if args.quick else f", common classes are kept by {statistics.mean(figures['common']):+.2f}")
        for source, figures in found.items()
    ]
    print("; ".join(said) + ": ok")
    return 0


def recipe(prepared: str, frames: Sequence[str], turn: int, steps: int, confidence: float = CONFIDENCE) -> Recipe:
    """LaserMix with scan ``turn`` labelled and the next one not; the one after is for validation."""
    labelled, _, held = (frames[(turn + offset) % NUM_SCANS] for offset in range(NUM_SCANS))
    changes: dict[str, Any] = {"data.prepared": prepared, "data.dataset": "semantickitti", "data.val_frames": [held]}
    changes |= {"split.protocol": "list", "split.frames": [labelled], "seed": turn, "model.height_px": 64}
    changes |= {"train.labelled_per_step": 1, "train.unlabelled_per_step": 1, "train.amp": "off"}
    changes |= {"train.steps": steps, "train.evaluate_every": steps, "train.checkpoint_every": steps}
    shared = override(Recipe(), {**RECIPE, **changes})
    return override(with_method(shared, "lasermix"), {**RUNGS["lasermix"].changes, "method.confidence": confidence})


def common_are_kept(row: Row) -> float:
    """Spearman's correlation, over the classes that are there, of a class's share among points and share kept."""
    pairs = [(truth, kept) for truth, kept in zip(row["truth_ratio"], row["kept_ratio"], strict=True) if truth]
    if len({kept for _, kept in pairs}) < 2:  # all alike: no order to compare
        return math.nan
    return float(spearmanr(*zip(*pairs, strict=True)).statistic)


def _of(rows: Sequence[Row], source: str) -> dict[str, list[float]]:
    mine = [row for row in rows if row["source"] == source]
    known = lambda value: math.nan if value is None else 100 * value  # noqa: E731
    figures = {name: [known(row.get(key)) for row in mine] for name, key in _FIGURES.items()}
    return figures | {"common": [common_are_kept(row) for row in mine]}


def _frames(args: Any, source: str, folder: Path) -> tuple[str, ...]:
    """Ids of three training scans, prepared where they are not yet."""
    from ray_lidarseg.index import index
    from ray_lidarseg.prepare import prepare

    if source == "world":
        prepared_world(folder, "kitti", 0, WORLD)
    elif not (folder / "prepared" / "catalog.parquet").exists():
        folder.mkdir(parents=True, exist_ok=True)
        index("semantickitti", str(args.samples), str(folder / "index.parquet"))
        prepare(str(folder / "index.parquet"), prepared_folder(folder))
    return read_catalog(*resolve(prepared_folder(folder))).of_split("train").frame_id[:NUM_SCANS]


def _job(args: Any, folder: Path, frames: Sequence[str], source: str, turn: int) -> Job:
    wanted = recipe(prepared_folder(folder), frames, turn, args.steps, args.confidence)
    key = {"source": source, "turn": turn, "steps": args.steps}
    name = f"{turn}-{wanted.fingerprint}"
    return Job(key, wanted, folder / "runs" / commit() / name, "tests.bench.diagnosed_run")


def _print(args: Any, rows: Sequence[Row]) -> None:
    def cells(source: str, place: int) -> list[str]:
        mine = [row for row in rows if row["source"] == source and row["truth_ratio"][place]]
        return [_mean([row[name][place] for row in mine]) for name in ("truth_ratio", "kept_ratio", "precision_ratio")]

    heads = [f"{source}: {part}" for source in args.sources for part in ("% of points", "% kept", "% right")]
    table = [[name, *(text for source in args.sources for text in cells(source, place))] for place, name in _classes()]
    print_table(["class", *heads], [line for line in table if any(text != "-" for text in line[1:])])
    if rows:
        print(f"\n{measured_by(rows)}")


def _classes() -> list[tuple[int, str]]:
    return list(enumerate(CLASSES.class_names))


def _mean(values: Sequence[float | None]) -> str:
    known = [100 * value for value in values if value is not None]
    return f"{np.mean(known):.1f}" if known else "-"


def _arguments() -> Any:
    flags = parser(__doc__.splitlines()[0])
    flags.add_argument("--samples", type=Path, default=SAMPLES, help="three real scans in SemanticKITTI's layout")
    flags.add_argument("--sources", nargs="+", default=list(SOURCES), choices=SOURCES)
    flags.add_argument("--steps", type=int, default=300)
    flags.add_argument("--jobs", type=int, default=1, help="runs at a time")
    flags.add_argument("--folder", type=Path, default=Path("build/bench/real-diagnosis"), help="scans and runs, kept")
    flags.add_argument("--show", action="store_true", help="print what the file holds, train nothing")
    args = flags.parse_args()
    args.turns, args.confidence = 1 if args.quick else NUM_SCANS, CONFIDENCE
    if args.quick:
        args.steps, args.sources, args.confidence = 5, ["world"], _QUICK_CONFIDENCE
    if "real" in args.sources and not args.show and not args.samples.exists():
        flags.error(f"{args.samples} is absent: name a folder of three scans with --samples, or --sources world")
    return args


if __name__ == "__main__":
    sys.exit(main())
