"""What each distillation loss does to features, and what its network is worth: rows of the world `bench`.

`python -m tests.bench.distill --json FILE [--rows …] [--seeds …] [--ratio 0.01] [--oracle] [--plot FILE.png]
[--show] [--quick]`

A row is one pre-training by a loss (or none: random weights) and all that is measured of it: uniformity, tolerance
and gaps beside the images' own, zero-shot mIoU, a linear probe on all labels, and fine-tuning on ``--ratio`` of them.
Images are seen by SLIC and the miniature CLIP, with ``--oracle`` by a teacher that is never wrong, which tells the loss
from the teacher (it sees training scenes only, so the structure is measured there). The deployed model of the last
checkpoint counts, by point; nothing is tuned on these seeds: rates and lengths are those of `tests.bench.lasermix_pp`.

It fails (rc 1) where a figure is missing or not finite. Its last lines say which of the paper's claims the rows bear
out: that relational is closest to the images in structure, that it is best zero-shot, and that the structural gap goes
with low accuracy (Pearson's correlation over rows; plotted with ``--plot``).
"""

import json
import math
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from ray_lidarseg.datasets.nuscenes import CLASSES as NUSCENES
from ray_lidarseg.prepare.requested_layers import Teachers
from ray_lidarseg.recipe.load import override
from ray_lidarseg.recipe.schema import Recipe
from tests.bench.lasermix_pp import DEFAULT_STEPS, FEATURES, MASKS
from tests.bench.lasermix_pp import RECIPE as SHARED
from tests.bench.ledger import Ledger, Row, parser, print_table
from tests.bench.oracle_evidence import oracle_layer, write_oracle
from tests.bench.runs import in_child, mean_std, prepared_folder, prepared_world, world_id

LOSSES: dict[str, dict[str, Any]] = {
    "random": {},
    "contrastive": {"method.loss": "contrastive"},
    "st-contrastive": {"method.loss": "st_contrastive"},
    "similarity": {"method.loss": "similarity"},
    "relational": {},
    "relational-mse": {"method.relation": "mse"},
}
NETWORK = {key: value for key, value in SHARED.items() if not key.startswith(("method.", "split.", "train.unlabelled"))}
STRUCTURE = ("uniformity", "tolerance", "modality_gap", "alignment_gap")
DOWNSTREAM = {"linear_probe": 1.0, "fine_tuned": 0.0}
_MEASURED = "measured.json"


def main() -> int:
    args = _arguments()
    ledger, rows = Ledger(args.json), []
    for seed in args.seeds:
        for name in args.rows:
            key = {"world": world_id(args.world, args.world_seed), "loss": name, "seed": seed, "ratio": args.ratio}
            key |= {"teacher": "oracle" if args.oracle else "clip", "steps": args.steps}
            if args.show:
                rows += [row] if (row := ledger.find(key)) else []
            else:
                rows.append(ledger.measure(key, lambda name=name, seed=seed: measure(args, name, seed)))
                print(f"{name}, seed {seed}: {_sentence(rows[-1])}", flush=True)
    _print(rows)
    wanted = [(name, seed) for name in args.rows for seed in args.seeds]
    problems = missing_figures(rows, wanted)
    if args.plot:
        plot(rows, args.plot)
    if problems:
        print(f"FAILED: no finite figure of {', '.join(problems)}")
        return 1
    print("; ".join(claims(rows)) or "too few losses for a claim")
    print(f"{len(rows)} rows, {len(args.seeds)} seeds, all finite: ok")
    return 0


def missing_figures(rows: list[Row], wanted: list[tuple[str, int]]) -> list[str]:
    """Runs asked for that have no row, or a figure that is not finite, in words."""
    found = {(row["loss"], row["seed"]): row for row in rows}
    problems = []
    for name, seed in wanted:
        names = [*DOWNSTREAM, *(() if name == "random" else ("zero_shot", *STRUCTURE))]
        row = found.get((name, seed), {})
        problems += [f"{part} of {name}, seed {seed}" for part in names if not math.isfinite(row.get(part) or math.nan)]
    return problems


def claims(rows: list[Row]) -> list[str]:
    """The paper's claims, each with what the rows say of it; none where fewer than three losses are there."""
    distilled = [row for row in rows if row["loss"] != "random"]
    names = list(dict.fromkeys(row["loss"] for row in distilled))
    if len(names) < 3 or "relational" not in names:
        return []
    mean = lambda name, part: statistics.mean(row[part] for row in distilled if row["loss"] == name)  # noqa: E731
    nearest = min(names, key=lambda name: mean(name, "structural_gap"))
    best = max(names, key=lambda name: mean(name, "zero_shot"))
    said = [
        f"closest in structure: {nearest} (claim {'holds' if nearest == 'relational' else 'does not hold'})",
        f"best zero-shot: {best} (claim {'holds' if best == 'relational' else 'does not hold'})",
    ]
    for part in ("zero_shot", "fine_tuned"):
        gaps, scores = ([row[key] for row in distilled] for key in ("structural_gap", part))
        said.append(f"correlation of structural gap and {part}: {correlation(gaps, scores):+.2f} (claimed: negative)")
    return said


def correlation(one: list[float], other: list[float]) -> float:
    """Pearson's; 0 where one does not vary."""
    spread = statistics.pstdev(one) * statistics.pstdev(other)
    return statistics.correlation(one, other) if spread else 0.0


def recipes(
    prepared: str, evidence: str, name: str, seed: int, steps: int, ratio: float, run: str
) -> dict[str, Recipe]:
    """The trainings of a row by what they give; ``distilled`` is missing of random weights.

    Args:
        prepared: Shards and layers.
        evidence: ``features-…/pairs-…``.
        name: Of the loss.
        seed: Of weights, order and split.
        steps: Of each training.
        ratio: Share of labels of ``fine_tuned``.
        run: Folder of the pre-training.
    """
    rhythm = {"train.steps": steps, "train.evaluate_every": steps, "train.checkpoint_every": max(steps // 4, 1)}
    shared = {**NETWORK, **rhythm, "data.prepared": prepared, "seed": seed, "split.seed": seed}
    shared |= {"train.diagnose_frames": 0}
    distil = {
        **shared,
        "method.name": "distill",
        "data.evidence": evidence,
        "train.unlabelled_per_step": 4,
        **LOSSES[name],
    }
    made = {} if name == "random" else {"distilled": override(Recipe(), distil)}
    start = {"start.run": run, "start.part": "backbone"}
    for part, share in DOWNSTREAM.items():
        changes = {**shared, "method.name": "supervised", "train.unlabelled_per_step": 0, "split.ratio": share or ratio}
        if name != "random":
            changes |= {**start, "start.frozen": part == "linear_probe"}
        made[part] = _started(changes)
    return made


def _started(changes: dict[str, Any]) -> Recipe:
    start = {key.partition(".")[2]: value for key, value in changes.items() if key.startswith("start.")}
    plain = {key: value for key, value in changes.items() if not key.startswith("start.")}
    return override(Recipe(), {**plain, **({"start": start} if start else {})})


def measure(args: Any, name: str, seed: int) -> Row:
    """All figures of one row; what was trained before is not trained again."""
    prepared, evidence = _prepare(args)
    began = time.monotonic()
    folder = (args.folder / "distill" / f"{'oracle' if args.oracle else 'clip'}-{name}-{seed}-{args.steps}").resolve()
    wanted = recipes(prepared, evidence, name, seed, args.steps, args.ratio, str(folder / "distilled"))
    row: Row = {}
    if "distilled" in wanted:
        in_child(wanted["distilled"], folder / "distilled")
        row |= _structure(folder / "distilled")
    for part in DOWNSTREAM:
        suffix = f"-{args.ratio:g}" if part == "fine_tuned" else ""
        row[part] = in_child(wanted[part], folder / f"{part}{suffix}")["miou_ratio"]
    return {**row, "wall_s": round(time.monotonic() - began, 1)}


def _structure(run: Path) -> Row:
    """Structure and zero-shot of a run, read by a child once."""
    file = run / _MEASURED
    if not file.exists():
        subprocess.run([sys.executable, "-m", "tests.bench.distill", "--evaluate", str(run)], check=True)
    return json.loads(file.read_text())


def evaluate_run(run: Path) -> None:
    """Writes ``measured.json`` beside a run."""
    from ray_lidarseg.evaluate import evaluate

    found = evaluate(str(run))
    seen = found if found["structure"] else evaluate(str(run), split="train")
    row = {name: value for name, value in seen["structure"].items() if name != "counts"}
    scores = seen["zero_shot"]
    row |= {
        "zero_shot": found["models"]["student"]["point"]["miou_ratio"],
        "features": sum(seen["structure"]["counts"]),
    }
    row |= {f"zero_shot_{name}": scores[name]["miou_ratio"] for name in ("images", "ensemble")}
    (run / _MEASURED).write_text(json.dumps(row))


def plot(rows: list[Row], file: Path) -> None:
    """Structural gap across, zero-shot and fine-tuned mIoU up."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 4), layout="constrained")
    for place, part in enumerate(("zero_shot", "fine_tuned")):
        axes = figure.add_subplot(1, 2, place + 1)
        for name in LOSSES:
            mine = [row for row in rows if row["loss"] == name and "structural_gap" in row]
            axes.scatter([row["structural_gap"] for row in mine], [100 * row[part] for row in mine], label=name)
        axes.set(xlabel="structural gap", ylabel=f"{part.replace('_', ' ')} mIoU, %")
    figure.axes[0].legend(fontsize=7)
    figure.savefig(file, dpi=90)


def _prepare(args: Any) -> tuple[str, str]:
    """World, shards and layers as far as they are missing; the shards, and the layers the row reads."""
    from ray_lidarseg.prepare import prepare

    masks, pairs, features = args.layers
    prepared = prepared_folder(args.folder)
    if args.oracle:
        features = oracle_layer(masks.name, pairs.name, NUSCENES.num_classes)
    if not (Path(prepared) / "layers" / features.name / "catalog.parquet").exists():
        prepared_world(args.folder, args.world, args.world_seed)
        prepare(str(args.folder / "index.parquet"), prepared, teachers=args.teachers)
        if args.oracle:
            write_oracle(prepared, masks.name, pairs.name, NUSCENES.class_names)
    return prepared, f"{features.name}/{pairs.name}"


def _print(rows: list[Row]) -> None:
    names = [name for name in LOSSES if any(row["loss"] == name for row in rows)]
    lines = []
    if source := next((row for row in rows if "source_uniformity" in row), None):
        source_line = [f"{source['source_uniformity']:.2f}", f"{source['source_tolerance']:.2f}", "", ""]
        lines.append(["images", *source_line, f"{100 * source['zero_shot_images']:.1f}", "", ""])
    for name in names:
        mine = [row for row in rows if row["loss"] == name]
        cells = [f"{statistics.mean(row[part] for row in mine):.2f}" if part in mine[0] else "-" for part in STRUCTURE]
        scores = [
            mean_std([100 * row[part] for row in mine]) if part in mine[0] else "-"
            for part in ("zero_shot", *DOWNSTREAM)
        ]
        lines.append([name, *cells, *scores])
    print_table(["loss", "U", "T", "G", "alignment", "zero-shot", "linear probe", "fine-tuned"], lines)


def _sentence(row: Row) -> str:
    shown = [f"{part} {100 * row[part]:.1f}" for part in ("zero_shot", *DOWNSTREAM) if part in row]
    return f"{', '.join(shown)}, {row['wall_s']:.0f} s"


def _arguments() -> Any:
    flags = parser(__doc__.splitlines()[0])
    flags.add_argument("--world", default="bench", help="world preset")
    flags.add_argument("--world-seed", type=int, default=0)
    flags.add_argument("--rows", nargs="+", default=list(LOSSES), choices=LOSSES)
    flags.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    flags.add_argument("--ratio", type=float, default=0.01, help="share of labels to fine-tune on")
    flags.add_argument("--steps", type=int, default=DEFAULT_STEPS, help="of each training")
    flags.add_argument("--oracle", action="store_true", help="images seen by a teacher that is never wrong")
    flags.add_argument("--plot", type=Path, help="picture of structural gap against accuracy")
    flags.add_argument("--folder", type=Path, help="world and runs, kept (default: build/bench/WORLD-SEED)")
    flags.add_argument("--show", action="store_true", help="print what the file holds, train nothing")
    flags.add_argument("--evaluate", type=Path, help="a run to measure; used by the command itself")
    args = flags.parse_args()
    if args.evaluate:
        evaluate_run(args.evaluate)
        raise SystemExit(0)
    if args.quick:
        args.world, args.seeds, args.steps, args.ratio = "tiny", [0], 3, 0.2
        args.rows = ["random", "relational"]
    args.folder = args.folder or Path("build/bench") / f"{args.world}-{args.world_seed}"
    args.teachers = Teachers.of(MASKS, FEATURES, [])
    args.layers = args.teachers.layers()
    return args


if __name__ == "__main__":
    sys.exit(main())
