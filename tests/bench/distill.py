"""What each distillation loss does to features, and what its network is worth: rows of the world `bench`.

`python -m tests.bench.distill --json FILE [--rows …] [--protocols …] [--seeds …] [--ratio 0.01] [--steps 1000]
[--oracle] [--rows-of FILE] [--set train.amp=off …] [--plot FILE.png] [--show] [--quick]`

One pre-training by each loss (or none: random weights), then what starts from it. Of the pre-training: uniformity,
tolerance and gaps beside the images' own (1,000 features a class of 60 frames), and zero-shot mIoU by text and by
prototypes from pictures of the same teacher. Of what follows (``--protocols``): a linear probe on all labels,
fine-tuning on ``--ratio`` of them in the same world and in another (the preset `kitti`: 64 beams, another field of
view, narrow streets, other classes), and LaserMix and LaserMix++ on them: ``--protocols lasermix lasermix_pp --rows
random relational``. All downstream recipes are rows of `tests.bench.lasermix_pp`; from random weights they are its
very runs, and ``--rows-of tests/bench/results/lasermix_pp.json`` takes the figures it has of them.

Images are seen by SLIC and the miniature CLIP, with ``--oracle`` by a teacher that is never wrong, which tells the loss
from the teacher (it sees training scenes only, so the structure is measured there). The deployed model of the last
checkpoint counts, by point; nothing is tuned on these seeds. Lengths: 1,000 steps of four scans of pre-training and
1,000 of a linear probe and of the other world, chosen so that three seeds of all losses take two hours of one core; the
others as long as in `lasermix_pp`.

It fails (rc 1) where a figure is missing or not finite. Its last lines say which of the paper's claims the rows bear
out (relational is closest to the images in structure and best zero-shot, and the structural gap goes with low accuracy:
Pearson's correlation over rows, plotted with ``--plot``), and what pre-training and prototypes are worth.
"""

import json
import math
import statistics
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ray_lidarseg.datasets.nuscenes import CLASSES as NUSCENES
from ray_lidarseg.prepare.requested_layers import Teachers
from ray_lidarseg.recipe.schema import Recipe
from tests.bench.distill_run import DISTILLED, LOSSES, MEASURED, PROTOCOLS, RANDOM, Places, downstream, pre_training
from tests.bench.ladder import part_sentences, with_overrides
from tests.bench.lasermix_pp import FEATURES, MASKS, row_key
from tests.bench.ledger import Ledger, Row, parser, print_table
from tests.bench.oracle_evidence import oracle_layer, write_oracle
from tests.bench.runs import MIN_SEEDS, child, figures_of, mean_std, prepared_folder, prepared_world, std, world_id

DEFAULT_PROTOCOLS = ("linear_probe", "fine_tuned", "other_sensor")
STRUCTURE = ("uniformity", "tolerance", "modality_gap", "alignment_gap", "structural_gap")
QUICK = {"train.steps": 3, "model.width_px": 128}
ELSEWHERE, ELSEWHERE_OPTIONS = "kitti", {"image_width_px": 64}
"""The other world; nobody looks at its images."""


def main() -> int:
    args = _arguments()
    ledger, rows = Ledger(args.json), []
    for seed in args.seeds:
        for name in args.rows:
            if not args.show:
                measure(args, ledger, name, seed)
            row = row_of(ledger, {part: _key(args, name, seed, part) for part in _parts(args, name)})
            if len(row) > 0:
                rows.append({**row, "loss": name, "seed": seed})
                print(f"{name}, seed {seed}: {_sentence(rows[-1])}", flush=True)
    _print(rows, args.protocols)
    if args.plot:
        plot(rows, args.plot)
    for sentence in [*claims(rows), *part_sentences(_questions(args), lambda name: values_of(rows, name))]:
        print(sentence)
    wanted = [(name, seed) for name in args.rows for seed in args.seeds]
    if problems := missing_figures(rows, wanted, args.protocols):
        print(f"FAILED: no finite figure of {', '.join(problems)}")
        return 1
    print(f"{len(rows)} rows, {len(args.seeds)} seeds, all finite: ok")
    return 0


def row_of(ledger: Ledger, keys: Mapping[str, Row]) -> Row:
    """The figures of a loss and seed, from what the file has of its parts: those of the distilled network, and mIoU."""
    row: Row = {}
    for part, key in keys.items():
        if found := ledger.find(key):
            row |= found if part == DISTILLED else {part: found["miou_ratio"]}
    if DISTILLED in keys and "words" in row:
        row["zero_shot"] = row["miou_ratio"]
    return row


def missing_figures(rows: list[Row], wanted: list[tuple[str, int]], protocols: list[str]) -> list[str]:
    """Runs asked for that have no row, or a figure that is not finite, in words."""
    found = {(row["loss"], row["seed"]): row for row in rows}
    problems = []
    for name, seed in wanted:
        names = [*protocols, *(() if name == RANDOM else ("zero_shot", *STRUCTURE))]
        row = found.get((name, seed), {})
        problems += [f"{part} of {name}, seed {seed}" for part in names if not math.isfinite(row.get(part, math.nan))]
    return problems


def claims(rows: list[Row]) -> list[str]:
    """The paper's claims, each with what the rows say of it; none where fewer than three losses are there."""
    distilled = [row for row in rows if row["loss"] != RANDOM and "structural_gap" in row]
    names = list(dict.fromkeys(row["loss"] for row in distilled))
    if len(names) < 3 or "relational" not in names:
        return []
    said = [
        _ranked("closest in structure", distilled, "structural_gap", sign=-1),
        _ranked("best zero-shot", distilled, "zero_shot", sign=1),
    ]
    for part in ("zero_shot", "fine_tuned"):
        known = [row for row in distilled if part in row]
        gaps, scores = ([row[key] for row in known] for key in ("structural_gap", part))
        said.append(f"correlation of structural gap and {part}: {correlation(gaps, scores):+.2f} (claimed: negative)")
    return said


def _ranked(what: str, rows: list[Row], part: str, sign: int) -> str:
    """Which loss is the best, and whether the paper's relational one beats all of another family beyond the spread."""
    values: dict[str, list[float]] = {}
    for row in rows:
        values.setdefault(row["loss"], []).append(sign * row[part])
    means = {name: statistics.mean(own) for name, own in values.items()}
    best, other = (
        max(names, key=means.__getitem__)
        for names in (means, [name for name in means if not name.startswith("relational")])
    )
    lead, spread = means["relational"] - means[other], max(std(values["relational"]), std(values[other]))
    meaning = "holds" if lead > spread else "does not hold" if lead < -spread else "neither holds nor fails: the spread"
    if min(len(values["relational"]), len(values[other])) < MIN_SEEDS:
        meaning = "has too few seeds"
    return f"{what}: {best}; relational leads {other} by {lead:+.3f} (spread {spread:.3f}): claim {meaning}"


def correlation(one: list[float], other: list[float]) -> float:
    """Pearson's; 0 where one does not vary."""
    spread = statistics.pstdev(one) * statistics.pstdev(other)
    return statistics.correlation(one, other) if spread else 0.0


def values_of(rows: list[Row], name: str) -> Mapping[int, float] | None:
    """mIoU in percent by seed of ``LOSS/PART``, where PART is a protocol, ``text`` or ``prototypes`` (zero-shot)."""
    loss, _, part = name.partition("/")
    mine = [row for row in rows if row["loss"] == loss]
    if part in ("text", "prototypes"):
        return {row["seed"]: 100 * row["words"][part]["points"] for row in mine if part in row.get("words", {})} or None
    return {row["seed"]: 100 * row[part] for row in mine if part in row} or None


def _questions(args: Any) -> list[tuple[str, str, str]]:
    """What may help, with which row and beside which; see ``ladder.part_sentences``."""
    losses = [name for name in args.rows if name != RANDOM]
    asked = [
        (f"{PROTOCOLS[part].title} after {name}", f"{name}/{part}", f"{RANDOM}/{part}")
        for part in args.protocols
        for name in losses
    ]
    return asked + [(f"prototypes for text, {name}", f"{name}/prototypes", f"{name}/text") for name in losses]


def measure(args: Any, ledger: Ledger, name: str, seed: int) -> None:
    """Puts what the ledger lacks of a loss and seed into it: one child trains, in turn, what is not trained yet."""
    keys = {part: _key(args, name, seed, part) for part in _parts(args, name)}
    missing = [part for part, key in keys.items() if ledger.find(key) is None]
    if not missing:
        return
    places, began = _prepare(args), time.monotonic()
    folder = (args.folder / "distill" / _run_name(args, name, seed)).resolve()
    wanted = recipes(args, places, name, seed, folder)
    taken = {part: row for part in missing if (row := _taken(args, name, part, seed, wanted[part]))}
    needed = {DISTILLED, *missing} - set(taken)  # on another machine the pre-training is, though its row is there
    trained = {part: recipe.to_yaml() for part, recipe in wanted.items() if part in needed}
    folder.mkdir(parents=True, exist_ok=True)
    content = {"recipes": trained, "frames": args.frames, "prototypes": places.prototypes}
    (folder / "wanted.json").write_text(json.dumps(content))
    if trained:
        child("tests.bench.distill_run", folder / "wanted.json", folder)
    for part in missing:
        row = taken.get(part) or figures_of(folder / part, wanted[part]) or {}
        row |= json.loads((folder / part / MEASURED).read_text()) if part == DISTILLED else {}
        ledger.measure(keys[part], lambda row=row: row)
    print(f"{name}, seed {seed}: {time.monotonic() - began:.0f} s", flush=True)


def _run_name(args: Any, name: str, seed: int) -> str:
    changes = "".join(f"-{key}={value}" for key, value in args.overrides.items())
    return f"{args.teacher}-{name}-{seed}-{args.steps}{changes}"


def recipes(args: Any, places: Places, name: str, seed: int, folder: Path) -> dict[str, Recipe]:
    """The trainings of a loss and seed, in their order."""
    made = {} if name == RANDOM else {DISTILLED: pre_training(places, name, seed, args.steps, args.overrides)}
    for part in args.protocols:
        made[part] = downstream(places, name, part, args.ratio, seed, folder, args.overrides)
    return made


def _taken(args: Any, name: str, part: str, seed: int, recipe: Recipe) -> Row | None:
    """The figures that `lasermix_pp` has of this run, with the commit and the machine it was trained on."""
    if not args.rows_of or name != RANDOM or PROTOCOLS[part].is_frozen or PROTOCOLS[part].is_elsewhere:
        return None
    world, rung = world_id(args.world, args.world_seed), PROTOCOLS[part].rung
    key = row_key(world, recipe, rung, args.ratio, seed, args.overrides)
    if (row := Ledger(args.rows_of).find(key)) is None:
        return None
    figures = {name: value for name, value in row.items() if name not in key}
    return {**figures, "trained_commit": row["commit"], "trained_hardware": row["hardware"]}


def _parts(args: Any, name: str) -> list[str]:
    return [*([] if name == RANDOM else [DISTILLED]), *args.protocols]


def _key(args: Any, name: str, seed: int, part: str) -> Row:
    key = {"world": world_id(args.world, args.world_seed), "loss": name, "seed": seed, "part": part}
    if name != RANDOM:
        key |= {"steps": args.steps}
    if name != RANDOM or part == "lasermix_pp":  # what reads image features
        key |= {"teacher": args.teacher}
    if part == DISTILLED:
        return {**key, "frames": args.frames, "overrides": str(args.overrides) if args.overrides else None}
    other = {"elsewhere": world_id(*_elsewhere(args))} if PROTOCOLS[part].is_elsewhere else {}
    return {**key, **other, "ratio": args.ratio, "overrides": str(args.overrides)}


def plot(rows: list[Row], file: Path) -> None:
    """Structural gap across, zero-shot and fine-tuned mIoU up."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 4), layout="constrained")
    for place, part in enumerate(("zero_shot", "fine_tuned")):
        axes = figure.add_subplot(1, 2, place + 1)
        for name in dict.fromkeys(row["loss"] for row in rows if "structural_gap" in row):
            mine = [row for row in rows if row["loss"] == name and {"structural_gap", part} <= row.keys()]
            axes.scatter([row["structural_gap"] for row in mine], [100 * row[part] for row in mine], label=name)
        axes.set(xlabel="structural gap", ylabel=f"{part.replace('_', ' ')} mIoU, %")
    figure.axes[0].legend(fontsize=7)
    figure.savefig(file, dpi=90)


def _prepare(args: Any) -> Places:
    """World, shards, layers and prototypes as far as they are missing."""
    from ray_lidarseg.prepare import prepare
    from ray_lidarseg.prototypes import prototypes
    from ray_lidarseg.runtime.cluster import connect

    masks, pairs, features = args.layers
    prepared = prepared_folder(args.folder)
    if args.oracle:
        features = oracle_layer(masks.name, pairs.name, NUSCENES.num_classes)
    if not (Path(prepared) / "layers" / features.name / "catalog.parquet").exists():
        with connect():  # once for all
            prepared_world(args.folder, args.world, args.world_seed)
            prepare(str(args.folder / "index.parquet"), prepared, teachers=args.teachers)
        if args.oracle:
            write_oracle(prepared, masks.name, pairs.name, NUSCENES.class_names)
    elsewhere = ""
    if any(PROTOCOLS[part].is_elsewhere for part in args.protocols):
        world, seed, options = _elsewhere(args)
        elsewhere = prepared_world(args.folder.parent / f"{world}-{seed}-narrow", world, seed, options)
    pictures = (args.folder / "prototypes.npz").resolve()
    if not args.oracle and not pictures.exists():
        prototypes(str(pictures), FEATURES, scenes=1 if args.quick else 6)
    return Places(prepared, f"{features.name}/{pairs.name}", elsewhere, "" if args.oracle else str(pictures))


def _elsewhere(args: Any) -> tuple[str, int, dict[str, object]]:
    return ELSEWHERE, args.world_seed, ELSEWHERE_OPTIONS


def _print(rows: list[Row], protocols: list[str]) -> None:
    lines = []
    if source := next((row for row in rows if "source_uniformity" in row), None):
        cells = [f"{source['source_uniformity']:.2f}", f"{source['source_tolerance']:.2f}", "", "", ""]
        words = [_percent([source["words"].get(name, {}).get("images")]) for name in ("text", "prototypes")]
        lines.append(["images", "", *cells, "", *words, *("" for _ in protocols)])
    for name in dict.fromkeys(row["loss"] for row in rows):
        mine = [row for row in rows if row["loss"] == name]
        known = [row for row in mine if "uniformity" in row]
        cells = [f"{statistics.mean(row[part] for row in known):.2f}" if known else "-" for part in STRUCTURE]
        scores = [_percent([row.get(part) for row in mine]) for part in ("zero_shot", *protocols)]
        said = [[row["words"].get(part, {}).get("points") for row in known] for part in ("text", "prototypes")]
        lines.append([name, len(mine), *cells, scores[0], *map(_percent, said), *scores[1:]])
    titles = [PROTOCOLS[part].title for part in protocols]
    structure = ["U", "T", "G", "alignment", "structural gap"]
    heads = ["loss", "seeds", *structure, "zero-shot", "by text", "by prototypes", *titles]
    print_table(heads, lines)


def _percent(values: list[float | None]) -> str:
    known = [100 * value for value in values if value is not None]
    return (mean_std(known) if len(known) > 1 else f"{known[0]:.1f}") if known else "-"


def _sentence(row: Row) -> str:
    return ", ".join(f"{part} {100 * row[part]:.1f}" for part in ("zero_shot", *PROTOCOLS) if part in row)


def _arguments() -> Any:
    flags = parser(__doc__.splitlines()[0])
    flags.add_argument("--world", default="bench", help="world preset")
    flags.add_argument("--world-seed", type=int, default=0)
    flags.add_argument("--rows", nargs="+", default=list(LOSSES), choices=LOSSES)
    flags.add_argument("--protocols", nargs="*", default=list(DEFAULT_PROTOCOLS), choices=PROTOCOLS)
    flags.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    flags.add_argument("--ratio", type=float, default=0.01, help="share of labels, but of the linear probe")
    flags.add_argument("--steps", type=int, default=1000, help="of a pre-training")
    flags.add_argument("--frames", type=int, default=60, help="evenly spread, for structure, text and prototypes")
    flags.add_argument("--oracle", action="store_true", help="images seen by a teacher that is never wrong")
    flags.add_argument("--rows-of", type=Path, help="rows of lasermix_pp, whose runs from random weights are these")
    flags.add_argument("--set", nargs="*", default=[], dest="overrides", help="KEY=VALUE of every recipe")
    flags.add_argument("--plot", type=Path, help="picture of structural gap against accuracy")
    flags.add_argument("--folder", type=Path, help="world and runs, kept (default: build/bench/WORLD-SEED)")
    flags.add_argument("--show", action="store_true", help="print what the file holds, train nothing")
    args = with_overrides(flags.parse_args())
    if args.quick:
        args.world, args.seeds, args.steps, args.frames, args.ratio = "tiny", [0], 3, 2, 0.2
        args.rows, args.protocols, args.overrides = (
            [RANDOM, "relational"],
            ["linear_probe", "fine_tuned"],
            {**QUICK, **args.overrides},
        )
    args.folder = args.folder or Path("build/bench") / f"{args.world}-{args.world_seed}"
    args.teacher = "oracle" if args.oracle else "clip"
    args.teachers = Teachers.of(MASKS, FEATURES, [])
    args.layers = args.teachers.layers()
    return args


if __name__ == "__main__":
    sys.exit(main())
