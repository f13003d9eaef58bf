"""CPU seconds of a training step by backbone and method, beside an older commit and what plain products would take.

`python -m tests.bench.step [--against COMMIT] [--backbones …] [--methods …] [--amp off auto] [--json FILE] [--quick]`

The steps of ``tests.bench.cost``: the real step loop on scans of the synthetic world at their real size, networks of
the built-in nuScenes recipes at a part of their width, with the method's rules of 6209cd2. Each commit and precision
runs in a process of its own, as a training has one of each (two in one process slow sparse networks down), the older
commit out of a checkout that git makes in a temporary folder; the processes take turns step by step, so a busy machine
hurts all alike. CPU seconds of one thread, medians, the first round warms up. ``bound`` is
what the products of the step take at the speed of a product of 4096 rows of 64 channels in the fastest library
(``sparse.products``), and nothing else.

Fails (rc 1) where the loss of the first step in float32 is not the older commit's to 1e-3, where a loss in bfloat16 is
not float32's to 3 %, or where one is not finite.
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import json
import math
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch.utils import flop_counter

from tests.bench import cost
from tests.bench.ledger import Ledger, Row, print_table

PINNED = "6209cd2"  # what issue 12 was measured on
METHODS = ("supervised", "lasermix", "lasermix_pp")
TOLERANCES = {"against": 1e-3, "bf16": 3e-2}  # relative, of the loss of a first step
RULES = {"ema_buffers": "average", "cross_entropy_over": "known"}
"""Of the methods at 6209cd2; recipes have the authors' since, whose first loss is another one."""
SERVE = "--serve"
NUM_SEGMENTS = 300  # that points of a scan fall on, of six cameras


@dataclass
class Worker:
    """A process that runs steps of one commit when asked."""

    process: subprocess.Popen[str]
    seconds: list[float] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)

    def ask(self, wanted: Row) -> Row:
        """What ``serve`` answers."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(wanted) + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        if not answer:
            raise RuntimeError(
                f"the process for {wanted} ended with status {self.process.wait()}: see its messages above"
            )
        return json.loads(answer)


def serve() -> None:
    """Answers each line of standard input, a JSON object, with the seconds and the loss of one step."""
    torch.set_num_threads(1)
    answers, sys.stdout = sys.stdout, sys.stderr
    device, loops, scans = torch.device("cpu"), {}, {}
    for line in sys.stdin:
        wanted = json.loads(line)
        key = tuple(wanted[name] for name in ("backbone", "method", "width", "amp"))
        if key not in loops:
            loops = {other: loop for other, loop in loops.items() if other[:3] == key[:3]}  # no others beside: memory
            loops[key] = cost._loop(_as_of_pinned(cost.recipe(*key[:3], key[3])), device)
        if wanted["preset"] not in scans:
            scans[wanted["preset"]] = cost._scans(wanted["preset"], 2)
        loop = loops[key]
        batches = [
            tuple(_with_segments(batch, loop.method) for batch in pair)
            for pair in cost._micro_batch(loop.method, scans[wanted["preset"]])
        ]
        counter = flop_counter.FlopCounterMode(display=False, custom_mapping=COUNTED)
        with counter if wanted["count"] else ExitStack():
            began = time.process_time()
            values = loop.one_step(batches)
            seconds = time.process_time() - began
        answer = {"seconds": seconds, "loss": float(values["loss_total"])}
        answer |= {"gflop": counter.get_total_flops() / 1e9} if wanted["count"] else {}
        answer |= {"precision": str(loop.precision or torch.float32).removeprefix("torch.")}
        print(json.dumps(answer), file=answers, flush=True)


def _as_of_pinned(recipe: Any) -> Any:
    """The recipe by the rules of 6209cd2, which computed the same whatever its recipes are called today."""
    known = {name: value for name, value in RULES.items() if hasattr(recipe.method, name)}
    return recipe.model_copy(update={"method": recipe.method.model_copy(update=known)})


def _with_segments(batch: Any, method: Any) -> Any:
    """Random evidence of a few hundred image segments, alike in every commit: older ones want a row a point."""
    if not method.extras:
        return batch
    generator = torch.Generator().manual_seed(0)
    number = torch.randint(1, 1 + NUM_SEGMENTS, (len(batch),), generator=generator)
    number *= torch.rand(len(batch), generator=generator) < cost.PAIRED_RATIO
    sizes = {"image_features": cost.EVIDENCE_DIM, "language_logits": cost.NUSCENES.num_classes}
    rows = {name: torch.rand(1 + NUM_SEGMENTS, size, generator=generator) for name, size in sizes.items()}
    rows["image_features"] = torch.nn.functional.normalize(rows["image_features"] - 0.5)
    rows = {name: (row * (torch.arange(1 + NUM_SEGMENTS) > 0)[:, None]).half() for name, row in rows.items()}
    if hasattr(batch, "segments"):
        return replace(batch, extras={"image_segment": number}, segments=rows)
    return replace(batch, extras={name: row[number] for name, row in rows.items()} | {"is_paired": number > 0})


def _addmm_flop(_: Any, left: torch.Size, right: torch.Size, out_shape: Any = None, **__: Any) -> int:
    return 2 * left[0] * left[1] * right[1]


COUNTED = {torch.ops.aten.addmm_: _addmm_flop}
"""What torch's counter of operations leaves out."""


@contextmanager
def checkout(commit: str) -> Iterator[Path]:
    """The files of a commit in a folder that goes away."""
    root = Path(__file__).resolve().parents[2]
    with tempfile.TemporaryDirectory() as folder:
        archive = subprocess.run(["git", "-C", str(root), "archive", commit], check=True, capture_output=True).stdout
        subprocess.run(["tar", "-x", "-C", folder], input=archive, check=True)
        yield Path(folder)


@contextmanager
def worker(tree: Path) -> Iterator[Worker]:
    """A process that imports package and benchmark from a tree."""
    script = shutil.copy(__file__, tree / "step_of_this_commit.py") if tree != _own_tree() else __file__
    environment = os.environ | {"PYTHONPATH": str(tree), "OMP_WAIT_POLICY": "passive"}
    command = [sys.executable, str(script), SERVE]
    process = subprocess.Popen(
        command, cwd=tree, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        yield Worker(process)
    finally:
        assert process.stdin is not None
        process.stdin.close()
        process.wait()


def _own_tree() -> Path:
    return Path(__file__).resolve().parents[2]


def measure(workers: dict[tuple[str, str], Worker], wanted: Row, rounds: int) -> list[Row]:
    """Rows of one backbone and method, one for each process: the older commit's, and this one's in every precision."""
    taken: dict[tuple[str, str], list[Row]] = {variant: [] for variant in workers}
    for number in range(rounds + 1):
        for (commit, amp), process in workers.items():
            taken[commit, amp].append(process.ask({**wanted, "amp": amp, "count": not number}))
    bounds = {"float32": _products().float32_gflops, "bfloat16": _products().bf16_gflops}
    rows = []
    for (commit, amp), answers in taken.items():
        precision, gflop = answers[0]["precision"], answers[0]["gflop"]
        rows.append(
            {
                "of": commit,
                "amp": amp,
                "precision": precision,
                "step_s": round(statistics.median(answer["seconds"] for answer in answers[1:]), 4),
                "bound_s": round(gflop / bounds[precision], 4),
                "gflop": round(gflop, 2),
                "bound_gflops": round(bounds[precision], 1),
                "first_loss": answers[0]["loss"],
                "last_loss": answers[-1]["loss"],
            }
        )
    return rows


def _products() -> Any:
    from ray_lidarseg.sparse import products  # this commit's; the older one has none

    return products.measured()


def disagreements(rows: Sequence[Row]) -> list[str]:
    """What is wrong with the figures, in words."""
    found = []
    for row in rows:
        name = f"{row['backbone']}, {row['method']}, {row['of']} {row['amp']}"
        if not (math.isfinite(row["first_loss"]) and math.isfinite(row["last_loss"]) and row["step_s"] > 0):
            found.append(f"{name}: {row['step_s']} s, losses {row['first_loss']} and {row['last_loss']}")
        exact = _row(rows, row, of="against" if row["precision"] == "float32" else "now", amp="off")
        if exact is None:
            continue
        limit = TOLERANCES["against" if row["precision"] == "float32" else "bf16"]
        difference = abs(row["first_loss"] / exact["first_loss"] - 1)
        if not difference <= limit:
            found.append(f"{name}: loss {row['first_loss']} is {difference:.1e} from {exact['first_loss']}")
    return found


def _row(rows: Sequence[Row], like: Row, **wanted: str) -> Row | None:
    wanted |= {name: like[name] for name in ("backbone", "method")}
    return next((row for row in rows if all(row[name] == value for name, value in wanted.items())), None)


def show(rows: Sequence[Row]) -> None:
    """The table."""
    lines = []
    for row in rows:
        before = _row(rows, row, of="against", amp="off")
        gain = f"{before['step_s'] / row['step_s']:.2f}x" if before else ""
        bound = f"{row['bound_s']:.2f} ({row['bound_s'] / row['step_s']:.0%})"
        commit = row["against"] if row["of"] == "against" else row["commit"]
        name = f"{row['backbone']}, {row['method']}, {commit}, amp {row['amp']}"
        lines.append([name, row["precision"], f"{row['step_s']:.3f}", gain, bound, f"{row['first_loss']:.4f}"])
    print_table(["CPU seconds of a step", "computes in", "s", "faster", "products alone", "first loss"], lines)


def main() -> int:
    """Measures, prints, writes; 1 where losses disagree."""
    args = _arguments()
    torch.set_num_threads(1)
    ledger = Ledger(args.json)
    rows: list[Row] = []
    with ExitStack() as stack:
        workers: dict[tuple[str, str], Worker] = {}
        for backbone in args.backbones:
            for method in args.methods:
                wanted = {"backbone": backbone, "method": method, "width": args.width, "preset": args.preset}
                key = {**wanted, "rounds": args.rounds, "against": args.against}
                names = ([("against", "off")] if args.against else []) + [("now", amp) for amp in args.amp]
                keys = [{**key, "of": of, "amp": amp} for of, amp in names]
                fresh: list[Row] = []
                if any(ledger.find(known) is None for known in keys):
                    workers = workers or _workers(stack, names, args.against)
                    fresh = measure(workers, wanted, args.rounds)
                for known in keys:
                    rows.append(ledger.measure(known, lambda k=known, f=fresh: _of(f, k)))
    show(rows)
    problems = disagreements(rows)
    for problem in problems:
        print(problem)
    print(f"{_figure(rows)}: {'FAILED' if problems else 'ok'}")
    return int(bool(problems))


def _workers(
    stack: ExitStack, variants: Sequence[tuple[str, str]], against: str | None
) -> dict[tuple[str, str], Worker]:
    """A process of each commit and precision."""
    trees = {"now": _own_tree()}
    if against:
        trees["against"] = stack.enter_context(checkout(against))
    return {(of, amp): stack.enter_context(worker(trees[of])) for of, amp in variants}


def _of(fresh: Sequence[Row], key: Row) -> Row:
    return next(row for row in fresh if (row["of"], row["amp"]) == (key["of"], key["amp"]))


def _figure(rows: Sequence[Row]) -> str:
    """Of LaserMix, or of what was measured instead: seconds, and how many times faster than the older commit."""
    found = []
    for row in rows:
        before = _row(rows, row, of="against", amp="off")
        if row["of"] == "now" and row["method"] == ("lasermix" if _has_lasermix(rows) else row["method"]):
            gain = f" ({before['step_s'] / row['step_s']:.1f}x)" if before else ""
            found.append(f"{row['backbone']} {row['amp']} {row['step_s']:.2f} s{gain}")
    return "LaserMix step: " + ", ".join(found)


def _has_lasermix(rows: Sequence[Row]) -> bool:
    return any(row["method"] == "lasermix" for row in rows)


def _arguments() -> Any:
    flags = cost.step_flags(__doc__.splitlines()[0], METHODS, 0.5)
    flags.add_argument("--against", default=None, metavar="COMMIT", help=f"also measure this one, for example {PINNED}")
    flags.add_argument("--amp", nargs="+", default=("off", "auto"), choices=("off", "bf16", "auto"), help="train.amp")
    flags.add_argument("--rounds", type=int, default=5)
    args = flags.parse_args()
    if args.quick:
        args.preset, args.width, args.rounds, args.methods = "tiny", 0.125, 1, ("lasermix",)
    return args


if __name__ == "__main__":
    sys.exit(serve() if SERVE in sys.argv else main())
