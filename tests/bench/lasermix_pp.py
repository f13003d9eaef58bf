"""What unlabelled scans and images are worth at how few labels: an ablation on the world `bench`, one switch a row.

`python -m tests.bench.lasermix_pp --json FILE [--jobs 2] [--rows …] [--ratios …] [--seeds …] [--tune] [--classes]
[--show] [--quick]`

One small network and the same labelled scans in every row; the seed changes the label split, the initial weights and
the order of the scans. The deployed model of the last checkpoint counts, by point (no selection on the validation
scenes). All rows of a ratio have the same number of steps, but for labels only, which also runs at half and at twice
of it and is compared at its best. Two rows are ceilings: all labels, and LaserMix with a teacher that is never wrong.
Images are seen by SLIC and the miniature CLIP; the worlds CLIP was trained on are others.

Multi-modal mixing carries evidence through the bands, so it acts on the terms that read evidence and has no row without
them: what it adds is `all` less `+ distillation + language`.

An ablation reports: it fails (rc 1) only where a figure is missing or not finite. Its last lines say which part gains
more than the larger standard deviation of both rows, and in how many seeds it gains at all.
"""

import statistics
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ray_lidarseg.datasets.catalog import CATALOG_NAME
from ray_lidarseg.datasets.nuscenes import CLASSES as NUSCENES
from ray_lidarseg.prepare.requested_layers import Teachers
from ray_lidarseg.recipe.load import override, with_method
from ray_lidarseg.recipe.schema import Recipe
from tests.bench.ladder import (
    Table,
    conclude,
    flags_of,
    part_sentences,
    print_ladder,
    table_of,
    text_of,
    with_overrides,
)
from tests.bench.ledger import Ledger, Row, commit
from tests.bench.oracle_evidence import oracle_layer, write_oracle
from tests.bench.runs import Job, measure_all, prepared_world, world_id

RECIPE: dict[str, object] = {
    "method.name": "lasermix_pp",
    "method.confidence": 0.9,
    "method.consistency_weight": 0.0,
    "method.ema_buffers": "own",
    "method.ema_memory_ratio": 0.0167,
    "method.language_balanced": True,  # chosen with --tune, as LANGUAGE
    "split.protocol": "uniform",  # LaserMix
    "model.name": "fidnet",
    "model.height_px": 32,
    "model.width_px": 256,
    "model.width_factor": 0.125,
    "optim.lr": 0.004,
    "train.labelled_per_step": 2,
    "train.unlabelled_per_step": 2,
    "train.amp": "bf16",
    "train.log_every": 50,
    "train.keep_checkpoints": 1,
    "workers.num_workers": 1,
    "workers.use_gpu": "no",
}
"""Network, rate, batch and teacher of the recipe ``demo`` when the rows were measured, chosen there on a world of
another seed, not again here. The demo of now has blocks (2, 2, 2, 2) and a teacher that remembers 20 updates; this
bench keeps (3, 4, 6, 3) and a memory of a sixtieth of the run."""
STEPS = {0.01: 2000, 0.1: 6000}
"""By label ratio: ten times the labels take longer to use up."""
DEFAULT_STEPS = 2000
PROTOCOL = 2
"""1: 1,000 steps in every row, LaserMix with a teacher of 100 steps' memory and a consistency weight of 10."""
DISTILLATION, LANGUAGE = 1.0, 3.0
"""Weights of the two terms: M3Net's, and chosen with ``--tune``. The method's defaults are 1 and 1."""
MASKS, FEATURES = "slic", "clip"
"""Both at their defaults. SLIC: 0.08 CPU s an image of 400 x 225, 12 CPU minutes for the 9,000 images of `bench`; the
miniature SAM, whose segments are no better, takes 0.9 s with its 32 x 32 grid, 2 h 15 min."""


@dataclass(frozen=True)
class Rung:
    """One row of the table.

    Attributes:
        title: As the table calls it.
        method: Name in the recipe.
        changes: Dotted keys on top of ``RECIPE``; keys the method lacks do not matter.
        is_oracle: Whether the images are seen by a teacher that knows the truth.
        is_never_wrong: Whether pseudo-labels are the truth.
        length: Steps, as a share of the other rows'.
    """

    title: str
    method: str
    changes: Mapping[str, Any]
    is_oracle: bool = False
    is_never_wrong: bool = False
    length: float = 1.0

    @property
    def reads_evidence(self) -> bool:
        """Whether the prepared layers matter to it."""
        return self.method == "lasermix_pp"


def _parts(distillation: float = 0.0, language: float = 0.0, mixing: float = 0.0, **others: Any) -> dict[str, Any]:
    weights = {"distillation_weight": distillation, "language_weight": language, "multimodal_mix_weight": mixing}
    return {f"method.{name}": value for name, value in {**weights, **others}.items()}


_AUTHORS = {  # of LaserMix, for their nuScenes FIDNet; theirs normalises by its own batches, too
    "method.confidence": 0.95,
    "method.consistency_weight": 500.0,
    "method.ema_memory_ratio": 0.0,
    "method.ema_decay": 0.99,
}
_LABELS_ONLY = {"train.unlabelled_per_step": 0}

RUNGS = {
    "sup-only": Rung("sup-only", "supervised", _LABELS_ONLY),
    "sup-half": Rung("sup-only, half as long", "supervised", _LABELS_ONLY, length=0.5),
    "sup-double": Rung("sup-only, twice as long", "supervised", _LABELS_ONLY, length=2.0),
    "all-labels": Rung("sup-only with all labels", "supervised", {**_LABELS_ONLY, "split.ratio": 1.0}),
    "lasermix": Rung("LaserMix (ours)", "lasermix", {}),
    "never-wrong": Rung("LaserMix, teacher never wrong", "lasermix", {}, is_never_wrong=True),
    "authors": Rung("LaserMix (authors' rules)", "lasermix", _AUTHORS),
    "mean-teacher": Rung("mean teacher", "mean_teacher", {"method.consistency_weight": 10.0}),
    "all": Rung("all: + both + multi-modal mixing", "lasermix_pp", _parts(DISTILLATION, LANGUAGE, 1.0)),
    "distillation": Rung("+ distillation", "lasermix_pp", _parts(distillation=DISTILLATION)),
    "language": Rung("+ language", "lasermix_pp", _parts(language=LANGUAGE)),
    "both": Rung("+ distillation + language", "lasermix_pp", _parts(DISTILLATION, LANGUAGE)),
    "oracle": Rung("all, with images never wrong", "lasermix_pp", _parts(DISTILLATION, LANGUAGE, 1.0), is_oracle=True),
    "softmax": Rung("+ language, softmax at 0.01", "lasermix_pp", _parts(language=LANGUAGE, language_temperature=0.01)),
    "uncentred": Rung("+ language, not centred", "lasermix_pp", _parts(language=LANGUAGE, language_centred=False)),
    "balanced": Rung("LaserMix, class-balanced pseudo-labels", "lasermix", {"method.pseudo_rule": "flexmatch"}),
}
"""Rows by their short names; those from the fourteenth on are for finding out why, run where ``--rows`` names them."""
LADDER = tuple(RUNGS)[:13]
LABELS_ONLY = ("sup-half", "sup-only", "sup-double")

PARTS = (
    ("mean teacher", "mean-teacher", "sup-only"),
    ("LaserMix (authors' rules)", "authors", "sup-only"),
    ("LaserMix", "lasermix", "sup-only"),
    ("a teacher never wrong", "never-wrong", "lasermix"),
    ("all labels", "all-labels", "sup-only"),
    ("distillation", "distillation", "lasermix"),
    ("language", "language", "lasermix"),
    ("distillation and language", "both", "lasermix"),
    ("multi-modal mixing", "all", "both"),
    ("LaserMix++", "all", "lasermix"),
    ("softmax at 0.01", "softmax", "language"),
    ("not centring", "uncentred", "language"),
    ("class-balanced pseudo-labels", "balanced", "lasermix"),
    ("LaserMix++ with images never wrong", "oracle", "lasermix"),
)
"""What is claimed to help, the row with it, and the row without; labels only count at their best length."""

_PART_KEYS = tuple(_parts(language_balanced=True, language_centred=True, language_temperature=0.0))
"""Keys that only LaserMix++ has: part of what tells its rows apart, and of no other's."""

RUNS = "runs"
"""Folder, beside the prepared one, of all runs, in one of each commit."""
TUNING = "tuning"
"""Folder, beside the prepared one, of what ``--tune`` trains and scores on."""
_EVERY = 6


def main() -> int:
    args = _arguments()
    jobs = [_job(args, name, ratio, seed) for ratio in args.ratios for seed in args.seeds for name in args.rows]
    ledger = Ledger(args.json)
    if not args.show:
        measure_all(ledger, jobs, args.jobs, partial(_prepare, args))
    rows = [row for job in jobs if (row := ledger.find(job.key))]
    table = table_of(rows)
    print_ladder(args, rows, table, {name: rung.title for name, rung in RUNGS.items()})
    return conclude(args, rows, table, partial(verdict, table))


def recipe(prepared: str, evidence: str, name: str, ratio: float, seed: int, overrides: Mapping[str, Any]) -> Recipe:
    """The recipe of one run: what all rows share, then the row's method and its switches.

    Args:
        prepared: Folder of the shards and layers.
        evidence: ``features-…/pairs-…`` below it, for the rows that read any.
        name: Of the row, a key of ``RUNGS``.
        ratio: Share of labelled training frames.
        seed: Of split, weights and order.
        overrides: Dotted keys for all rows that have them; a weight counts where the row has that part.
    """
    rung = RUNGS[name]
    switches = {key: overrides.get(key, value) if value else value for key, value in rung.changes.items()}
    changes = {"data.prepared": prepared, "split.ratio": ratio, "split.seed": seed, "seed": seed}
    changes |= {"train.steps": STEPS.get(ratio, DEFAULT_STEPS)}
    shared = override(Recipe(), {**RECIPE, **changes, **overrides})
    steps = round(rung.length * shared.train.steps)
    rhythm = {"train.steps": steps, "train.evaluate_every": steps, "train.checkpoint_every": max(steps // 4, 1)}
    layers = {"data.evidence": evidence} if rung.reads_evidence else {}
    return override(with_method(shared, rung.method), {**switches, **rhythm, **layers})


def verdict(table: Table, ratio: float) -> str:
    """What each part is worth at a ratio; labels only count at their best length."""
    of_row = lambda name: labels_only(table, ratio) if name == "sup-only" else table.get((name, ratio))  # noqa: E731
    return "; ".join(part_sentences(PARTS, of_row))


def labels_only(table: Table, ratio: float) -> Mapping[int, float] | None:
    """Labels only at the length with the best mean; few labels are soon learnt by heart."""
    lengths = [values for name in LABELS_ONLY if (values := table.get((name, ratio)))]
    return max(lengths, key=lambda values: statistics.mean(values.values()), default=None)


def _arguments() -> Any:
    flags = flags_of(__doc__.splitlines()[0], tuple(RUNGS), LADDER)
    flags.add_argument("--tune", action="store_true", help="score on held-out training scenes, to choose settings by")
    flags.add_argument("--masks", default=MASKS, choices=("slic", "sam"), help="segments of the images")
    flags.add_argument("--teacher", nargs="*", default=[], help="KIND.KEY=VALUE, as `prepare --set` takes it")
    args = with_overrides(flags.parse_args())
    if args.quick:
        args.world, args.ratios, args.seeds = "tiny", [0.2], [0]
        args.rows = ["lasermix", "all"] if args.rows is LADDER else args.rows  # of one method each
        args.overrides = {"train.steps": 3, "model.width_px": 128, **args.overrides}
    args.folder = args.folder or Path("build/bench") / f"{args.world}-{args.world_seed}"
    args.teachers = Teachers.of(args.masks, FEATURES, args.teacher)
    args.layers = args.teachers.layers()
    return args


def _job(args: Any, name: str, ratio: float, seed: int) -> Job:
    prepared = str((args.folder / (TUNING if args.tune else "prepared")).resolve())
    wanted = recipe(prepared, _evidence(args, name), name, ratio, seed, args.overrides)
    world = world_id(args.world, args.world_seed) + (", held-out training scenes" if args.tune else "")
    key = row_key(world, wanted, name, ratio, seed, args.overrides)
    folder = run_folder(args.folder / RUNS / commit(), name, ratio, seed, wanted)
    module = "tests.bench.never_wrong" if RUNGS[name].is_never_wrong else Job.module
    return Job(key, wanted, folder, module)


def row_key(world: str, wanted: Recipe, name: str, ratio: float, seed: int, overrides: Mapping[str, Any]) -> Row:
    """What tells a row of this table from all others: benchmarks that want the same runs find their figures by it."""
    model = f"{wanted.model.name} {wanted.model.height_px}x{wanted.model.width_px} width {wanted.model.width_factor:g}"
    key = {"protocol": PROTOCOL, "world": world, "model": model, "row": name, "ratio": ratio, "seed": seed}
    key |= {"steps": wanted.train.steps, "labelled_per_step": wanted.train.labelled_per_step, "lr": wanted.optim.lr}
    shared = {key: value for key, value in overrides.items() if key not in _PART_KEYS}
    key |= {"evidence": wanted.data.evidence, "overrides": text_of(shared)}
    return key | ({"parts": parts_of(wanted)} if RUNGS[name].reads_evidence else {})


def run_folder(runs: Path, name: str, ratio: float, seed: int, wanted: Recipe) -> Path:
    """Where the run of a row is, in the folder of a commit's runs: benchmarks that want the same runs share them."""
    return runs / f"{name}-{ratio:g}-{seed}-{wanted.fingerprint}"


def parts_of(wanted: Recipe) -> str:
    """What the parts of LaserMix++ are set to, those of language only where it has a weight."""
    names = [key.partition(".")[2] for key in _PART_KEYS]
    values = {name: getattr(wanted.method, name) for name in names}
    return text_of(
        {name: value for name, value in values.items() if values["language_weight"] or "language" not in name}
    )


def _evidence(args: Any, name: str) -> str:
    masks, pairs, features = args.layers
    if RUNGS[name].is_oracle:
        features = oracle_layer(masks.name, pairs.name, NUSCENES.num_classes)
    return f"{features.name}/{pairs.name}"


def _prepare(args: Any) -> None:
    """World, shards and, for rows that read them, layers, as far as they are missing."""
    from ray_lidarseg.prepare import prepare

    prepared = prepared_world(args.folder, args.world, args.world_seed)
    if any(RUNGS[name].reads_evidence for name in args.rows):
        prepare(str(args.folder / "index.parquet"), prepared, teachers=args.teachers)
    if any(RUNGS[name].is_oracle for name in args.rows):
        write_oracle(prepared, args.layers[0].name, args.layers[1].name, NUSCENES.class_names)
    if args.tune:
        hold_out(Path(prepared), args.folder / TUNING)


def hold_out(prepared: Path, folder: Path) -> None:
    """The same shards and layers under a catalog of training scenes alone, every sixth of them for validation."""
    folder.mkdir(exist_ok=True)
    for file in prepared.iterdir():
        if file.name != CATALOG_NAME and not (folder / file.name).exists():
            (folder / file.name).symlink_to(file)
    table = pq.read_table(prepared / CATALOG_NAME)
    is_train = pc.equal(table["split"], "train")
    held = sorted(set(table.filter(is_train)["scene"].to_pylist()))[::_EVERY]
    split = pc.if_else(pc.is_in(table["scene"], pa.array(held)), "val", pc.if_else(is_train, "train", "unused"))
    position = table.schema.get_field_index("split")
    pq.write_table(table.set_column(position, table.schema.field("split"), split), folder / CATALOG_NAME)


if __name__ == "__main__":
    sys.exit(main())
