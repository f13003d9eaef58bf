"""Throughput, memory and exactness of `predict`, beside a plain loop.

`python -m tests.bench.predict [--models fidnet minkunet spvcnn cylinder3d] [--json FILE] [--quick]`

Scans of the synthetic world (preset `demo`: 32 beams, 1,084 columns) are labelled by a plain loop and by the verb with
1 and 2 actors (`tests/bench/predicting.py`), by each backbone at a quarter of its width with random weights, one CPU
thread each, in groups as recipes have them; beside 2 actors there are 2 loops. Scans/s are sustained: label files
finished after each worker's first group over the time they took. Loops and verb run side by side and take turns of half
a second (`tests/bench/turns.py`): what else the machine does hurts both alike, and neither the other; time spent
waiting for the other's turn does not count.

With actors on all cores, which is what the verb takes unless it is told otherwise, it must label at least 95 % of the
loops' scans a second of its turns. `cpu_s` is CPU time of driver and actors for a scan in the same span, without Ray's
services; it does not see an actor that waits, so it decides nothing. One driver serves all actors, so with one actor
alone its share is larger.

Memory is that of all processes over many small scans: a line fitted to all but the first third. Killed: the driver of a
job gets SIGKILL after a third of its scans; the same command then labels the others, and every scan stands exactly once
in the list and has the labels the loop gives it.

Fails (rc 1) where labels differ from the loops', a scan is labelled twice or not at all, memory grows by more than 5 %,
or the scans a second are below 95 % of the loops'; with --quick the last two do not count.
"""

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import torch

from ray_lidarseg.datasets.sensor import resolve_sensor
from ray_lidarseg.methods.build import build_method
from ray_lidarseg.recipe.load import override
from ray_lidarseg.recipe.schema import Recipe
from ray_lidarseg.training import checkpoints
from ray_lidarseg.training.run_folder import RunFolder
from tests.bench.ledger import Ledger, Row, parser, print_table
from tests.bench.predicting import SPLIT
from tests.bench.prepare import growth, repeated, sustained, world_index
from tests.bench.process_tree import Sample, Watch, watched
from tests.bench.turns import Tree, taking_turns

MIN_SPEED_RATIO, MAX_GROWTH_RATIO = 0.95, 0.05  # the issue's, and as for `prepare`
MODELS = {
    "fidnet": {"width_factor": 0.25, "height_px": 32, "width_px": 1024},
    "minkunet": {"width_factor": 0.25, "voxel_size_m": 0.1},
    "spvcnn": {"width_factor": 0.25, "voxel_size_m": 0.1},
    "cylinder3d": {"width_factor": 0.25},
}
SMALL = {"name": "fidnet", "height_px": 16, "width_px": 128, "width_factor": 0.0625, "blocks": [1, 1, 1, 1]}
PAIR, ACTORS = ("loop", "verb"), (1, 2)
GROUP = Recipe().train.evaluate_batch
CPU_INTERVAL_S, MEMORY_INTERVAL_S = 0.2, 0.5
ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "OMP_WAIT_POLICY": "passive",
    "PYTHONPATH": str(Path(__file__).parents[2]),  # Ray's workers, too, import the checkout that is measured
    "RAY_worker_niceness": "0",  # Ray's workers give way to others by default; the loop does not
}
_LOG_LINES = 15


def main() -> int:
    args = _arguments()
    os.environ.update(ENVIRONMENT)
    ledger, folder = Ledger(args.json), args.folder.resolve()
    rows, others = [], []
    for model in args.models if args.frames else ():
        rows += _rows(args, ledger, model, folder)
    if rows:
        _print(rows)
    run = run_folder(folder / "run-small", SMALL)
    for way, count, work in (("memory", args.many, _memory), ("killed", args.killed, _killed)):
        if count:
            index = scans_index(folder, "tiny", count)
            others.append(ledger.measure({"way": way, "frames": count}, partial(work, run, index, folder)))
    is_good, sentence = verdict(rows, others, args.quick)
    print(f"{sentence}: {'ok' if is_good else 'FAILED'}")
    return int(not is_good)


def _rows(args: argparse.Namespace, ledger: Ledger, model: str, folder: Path) -> list[Row]:
    """Of a backbone: loops and the verb in turn, by each number of actors."""
    index = scans_index(folder, args.world, args.frames)
    run = run_folder(folder / f"run-{model}", {"name": model, **MODELS[model]})
    rows = []
    for actors in args.actors:
        shared = {"model": model, "frames": args.frames, "group": GROUP, "world": args.world, "actors": actors}
        keys = {way: {**shared, "way": way, "in_turn": True} for way in PAIR}
        is_known = all(ledger.find(key) for key in keys.values())
        measured = {} if is_known else _in_turn(actors, run, index, folder)
        rows += [ledger.measure(key, lambda way=way, found=measured: found[way]) for way, key in keys.items()]
    return rows


def _arguments() -> argparse.Namespace:
    flags = parser(__doc__.splitlines()[0])
    flags.add_argument("--models", nargs="+", default=list(MODELS), choices=MODELS, help="backbones")
    flags.add_argument(
        "--actors", nargs="+", type=int, default=list(ACTORS), help="numbers of them; the largest decides"
    )
    flags.add_argument("--world", default="demo", help="preset of the scans for throughput")
    flags.add_argument("--frames", type=int, default=160, help="for throughput; 0: none; few are noise")
    flags.add_argument("--many", type=int, default=2000, help="scans for memory; 0: none")
    flags.add_argument("--killed", type=int, default=60, help="scans of the job that is killed")
    flags.add_argument("--folder", type=Path, default=Path("build/bench/predict"), help="worlds (kept) and labels")
    args = flags.parse_args()
    if args.quick:
        args.models, args.world, args.frames, args.many, args.actors = ["fidnet"], "tiny", 24, 0, [1]
    return args


def scans_index(folder: Path, world: str, count: int) -> Path:
    """So many rows of a world that is made where it is absent, its scans over and over."""
    return repeated(world_index(folder, world), folder / f"{world}-{count}.parquet", count, cameras=1, split=SPLIT)


def run_folder(folder: Path, model: dict[str, object], backend: str = "torch") -> str:
    """A run whose model has random weights, always the same."""
    shutil.rmtree(folder, ignore_errors=True)
    changes = {"data.dataset": "nuscenes", "model": model, "method.name": "supervised", "sparse.backend": backend}
    recipe, run = override(Recipe(), changes), RunFolder(str(folder))
    torch.manual_seed(0)
    method = build_method(recipe, resolve_sensor(recipe.data), 16)
    run.write("recipe.yaml", recipe.to_yaml().encode())
    state = checkpoints.pack({"step": 1, "method": method.state_dict(), "metrics": ""})
    run.write(f"checkpoints/{checkpoints.folder_name(1)}/{checkpoints.FILE}", state)
    return run.uri


def _start(way: str, actors: int, run: str, index: Path, out: Path) -> subprocess.Popen:
    """Begins to label into a folder, which is emptied first."""
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    return _resume(way, actors, run, index, out)


def _resume(way: str, actors: int, run: str, index: Path, out: Path) -> subprocess.Popen:
    command = [sys.executable, "-m", "tests.bench.predicting", way, str(actors), run, str(index), str(out)]
    with open(out.with_suffix(".log"), "w") as log:
        return subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)


def _run(way: str, actors: int, run: str, index: Path, out: Path, with_memory: bool) -> Watch:
    """What was seen of the process and its children."""
    child = _start(way, actors, run, index, out)
    with watched(child.pid, MEMORY_INTERVAL_S if with_memory else CPU_INTERVAL_S, with_memory) as watch:
        _check(child.wait(), out)
    return watch


def _check(code: int, out: Path) -> None:
    if code:
        end = "".join(out.with_suffix(".log").read_text().splitlines(keepends=True)[-_LOG_LINES:])
        raise RuntimeError(f"what labels into {out} ended with {code}:\n{end}")


def _ends(out: Path) -> list[tuple[float, int]]:
    """When each label file was finished."""
    return sorted((file.stat().st_mtime, 1) for file in labels(out))


def labels(out: Path) -> list[Path]:
    """The label files below a folder, by name."""
    return sorted(out.glob("lidarseg/*/*_lidarseg.bin"))


def _in_turn(actors: int, run: str, index: Path, folder: Path) -> dict[str, Row]:
    """The rows of loops and of the verb, which take turns."""
    outs = {way: _out(folder, run, way, actors) for way in PAIR}
    children = {way: _start(way, actors, run, index, out) for way, out in outs.items()}
    trees = {way: Tree(children[way].pid, partial(_has_begun, actors, out)) for way, out in outs.items()}
    with ExitStack() as stack:
        watches = {
            way: stack.enter_context(watched(child.pid, CPU_INTERVAL_S, False)) for way, child in children.items()
        }
        stack.enter_context(taking_turns(list(trees.values())))
        for way, child in children.items():
            _check(child.wait(), outs[way])
    is_same = same_labels(*outs.values())
    return {way: _speed(outs[way], actors, watches[way], trees[way]) | {"is_same": is_same} for way in PAIR}


def _has_begun(actors: int, out: Path) -> bool:
    return len(labels(out)) >= actors * GROUP


def speed_of(way: str, actors: int, run: str, index: Path, out: Path) -> Row:
    """Scans/s and CPU seconds of a scan while all workers label, with their first groups left out."""
    return _speed(out, actors, _run(way, actors, run, index, out, with_memory=False))


def _out(folder: Path, run: str, way: str, actors: int) -> Path:
    return folder / f"{Path(run).name}-{way}-{actors}"


def _speed(out: Path, actors: int, watch: Watch, tree: Tree | None = None) -> Row:
    start, stop, count = sustained(_ends(out), actors * GROUP)
    return {
        "scans_per_s": count / (tree.working_s(start, stop) if tree else stop - start),
        "cpu_s": working_cpu_s(watch.samples, start, stop) / count,
        "load_average": os.getloadavg()[0],
    }


def working_cpu_s(samples: Sequence[Sample], start: float, stop: float) -> float:
    """CPU seconds of driver and actors between two moments, between samples in proportion."""
    used = []
    for moment in (start, stop):
        before = max((each for each in samples if each.time_s <= moment), key=lambda each: each.time_s)
        after = min((each for each in samples if each.time_s >= moment), key=lambda each: each.time_s)
        share = (moment - before.time_s) / max(after.time_s - before.time_s, 1e-9)
        first, last = (each.cpu_s - each.services_cpu_s for each in (before, after))
        used.append(first + share * (last - first))
    return used[1] - used[0]


def same_labels(one: Path, other: Path) -> bool:
    """Whether two folders hold the same label files."""
    return [(file.name, file.read_bytes()) for file in labels(one)] == [
        (file.name, file.read_bytes()) for file in labels(other)
    ]


def _memory(run: str, index: Path, folder: Path) -> Row:
    out = folder / "memory"
    watch = _run("verb", 1, run, index, out, with_memory=True)
    found = growth(watch.samples, _ends(out))
    shutil.rmtree(out)
    return {**found, "peak_mib": max(sample.memory_mib for sample in watch.samples)}


def _killed(run: str, index: Path, folder: Path) -> Row:
    """The job is killed, given again, and compared with what the loop says."""
    out, plain = folder / "killed", folder / "killed-plain"
    child = _start("verb", 1, run, index, out)
    wanted = int(index.stem.rpartition("-")[2]) // 3
    while len(labels(out)) < wanted and child.poll() is None:
        time.sleep(0.02)
    child.send_signal(signal.SIGKILL)
    child.wait()
    listed = len(_listed(out))
    before = {file: file.stat().st_mtime_ns for file in labels(out)}
    for begin, way, place in ((_resume, "verb", out), (_start, "loop", plain)):
        _check(begin(way, 1, run, index, place).wait(), place)
    names = _listed(out)
    return {
        "before": listed,
        "untouched": sum(file.stat().st_mtime_ns == at for file, at in before.items()),
        "scans": len(names),
        "is_once": len(names) == len(set(names)) == len(labels(out)) == len(labels(plain)),
        "is_same": same_labels(plain, out),
    }


def _listed(out: Path) -> list[str]:
    lines = (out / "scans.jsonl").read_text().splitlines() if (out / "scans.jsonl").exists() else []
    return [json.loads(line)["frame_id"] for line in lines if line.endswith("}")]


def verdict(rows: Sequence[Row], others: Sequence[Row], is_quick: bool = False) -> tuple[bool, str]:
    """Whether all is well, and a sentence with the figures."""
    parts, is_good = [], all(row.get("is_same", True) for row in (*rows, *others))
    if not is_good:
        parts.append("OTHER labels than the loop's")
    for model in dict.fromkeys(row["model"] for row in rows):
        shares = _shares([row for row in rows if row["model"] == model])
        is_good = is_good and (is_quick or list(shares.values())[-1] >= MIN_SPEED_RATIO)
        said = ", ".join(f"{share:.1%} with {actors}" for actors, share in shares.items())
        parts.append(f"{model} labels {said} of the loops' scans/s")
    for row in others:
        if row["way"] == "memory":
            is_good = is_good and (is_quick or row["growth_ratio"] <= MAX_GROWTH_RATIO)
            parts.append(
                f"memory over {row['frames']:,} scans grows by {row['growth_ratio']:.1%} (≤ {MAX_GROWTH_RATIO:.0%}), "
                f"peak {row['peak_mib']:,.0f} MiB"
            )
        else:
            is_good = is_good and row["is_once"] and 0 < row["before"] < row["scans"] == row["frames"]
            parts.append(
                f"killed after {row['before']} of {row['frames']} scans and given again: each "
                f"{'once' if row['is_once'] else 'NOT ONCE'}"
            )
    return is_good, "; ".join(parts)


def _shares(rows: Sequence[Row]) -> dict[int, float]:
    """Of one backbone: the verb's scans/s over the loops', by the number of actors, ascending."""
    speed = {(row["actors"], row["way"]): row["scans_per_s"] for row in rows}
    return {count: speed[count, "verb"] / speed[count, "loop"] for count in sorted({count for count, _ in speed})}


def _print(rows: Sequence[Row]) -> None:
    names = ("scans_per_s", "cpu_s", "load_average")
    print_table(
        ["model", "way", "actors", *names],
        [[row["model"], row["way"], row["actors"], *(f"{row[name]:.3f}" for name in names)] for row in rows],
    )


if __name__ == "__main__":
    sys.exit(main())
