"""Throughput, memory and exactness of `predict`, beside a plain loop.

`python -m tests.bench.predict [--models fidnet minkunet spvcnn cylinder3d] [--json FILE] [--quick]`

Scans of the synthetic world (preset `demo`: 32 beams, 1,084 columns) are labelled by a plain loop and by the verb with
1 and 2 actors (`tests/bench/predicting.py`), by each backbone at a quarter of its width with random weights, one CPU
thread each, in groups as recipes have them. Scans/s are sustained: label files finished after each worker's first group
over the time they took.
`cpu_s` is CPU time of driver and actors for a scan in the same span, without Ray's services: the figure to compare on
a machine that others use as well, and the one that counts: `predict` must do at least 95 % of the loop's work a CPU
second.

Memory is that of all processes over many small scans: a line fitted to all but the first third. Killed: the driver of a
job gets SIGKILL after a third of its scans; the same command then labels the others, and every scan stands exactly once
in the list and has the labels the loop gives it.

Fails (rc 1) where labels differ from the loop's, a scan is labelled twice or not at all, memory grows by more than 5 %,
or the work a CPU second is below 95 % of the loop's; with --quick the last two do not count.
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

MIN_WORK_RATIO, MAX_GROWTH_RATIO = 0.95, 0.05  # the issue's, and as for `prepare`
MODELS = {
    "fidnet": {"width_factor": 0.25, "height_px": 32, "width_px": 1024},
    "minkunet": {"width_factor": 0.25, "voxel_size_m": 0.1},
    "spvcnn": {"width_factor": 0.25, "voxel_size_m": 0.1},
    "cylinder3d": {"width_factor": 0.25},
}
SMALL = {"name": "fidnet", "height_px": 16, "width_px": 128, "width_factor": 0.0625, "blocks": [1, 1, 1, 1]}
WAYS = (("loop", 1), ("verb", 1), ("verb", 2))
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
        index = scans_index(folder, args.world, args.frames)
        run = run_folder(folder / f"run-{model}", {"name": model, **MODELS[model]})
        for way, actors in args.ways:
            key = {
                "model": model,
                "way": way,
                "actors": actors,
                "frames": args.frames,
                "group": GROUP,
                "world": args.world,
            }
            rows.append(ledger.measure(key, partial(_throughput, way, actors, run, index, folder)))
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


def _arguments() -> argparse.Namespace:
    flags = parser(__doc__.splitlines()[0])
    flags.add_argument("--models", nargs="+", default=list(MODELS), choices=MODELS, help="backbones")
    flags.add_argument("--world", default="demo", help="preset of the scans for throughput")
    flags.add_argument("--frames", type=int, default=40, help="for throughput; 0: none")
    flags.add_argument("--many", type=int, default=2000, help="scans for memory; 0: none")
    flags.add_argument("--killed", type=int, default=60, help="scans of the job that is killed")
    flags.add_argument("--folder", type=Path, default=Path("build/bench/predict"), help="worlds (kept) and labels")
    args = flags.parse_args()
    args.ways = WAYS
    if args.quick:
        args.models, args.world, args.frames, args.many, args.ways = ["fidnet"], "tiny", 24, 0, WAYS[:2]
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
    command = [sys.executable, "-m", "tests.bench.predicting", way, str(actors), run, str(index), str(out)]
    with open(out.with_suffix(".log"), "w") as log:
        return subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)


def _run(
    way: str, actors: int, run: str, index: Path, out: Path, with_memory: bool
) -> tuple[list[tuple[float, int]], Watch]:
    """When each label file was finished, and what was seen of the process and its children."""
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    child = _start(way, actors, run, index, out)
    with watched(child.pid, MEMORY_INTERVAL_S if with_memory else CPU_INTERVAL_S, with_memory) as watch:
        code = child.wait()
    if code:
        end = "".join(out.with_suffix(".log").read_text().splitlines(keepends=True)[-_LOG_LINES:])
        raise RuntimeError(f"{way} with {actors} actor(s) ended with {code}:\n{end}")
    return sorted((file.stat().st_mtime, 1) for file in labels(out)), watch


def labels(out: Path) -> list[Path]:
    """The label files below a folder, by name."""
    return sorted(out.glob("lidarseg/*/*_lidarseg.bin"))


def _throughput(way: str, actors: int, run: str, index: Path, folder: Path) -> Row:
    out = folder / f"{Path(run).name}-{way}-{actors}"
    speed = speed_of(way, actors, run, index, out)
    return {**speed, "is_same": way == "loop" or same_labels(folder / f"{Path(run).name}-loop-1", out)}


def speed_of(way: str, actors: int, run: str, index: Path, out: Path) -> Row:
    """Scans/s and CPU seconds of a scan while all workers label, with their first groups left out."""
    ends, watch = _run(way, actors, run, index, out, with_memory=False)
    start, stop, count = sustained(ends, actors * GROUP)
    return {
        "scans_per_s": count / (stop - start),
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
    ends, watch = _run("verb", 1, run, index, out, with_memory=True)
    found = growth(watch.samples, ends)
    shutil.rmtree(out)
    return {**found, "peak_mib": max(sample.memory_mib for sample in watch.samples)}


def _killed(run: str, index: Path, folder: Path) -> Row:
    """The job is killed, given again, and compared with what the loop says."""
    out, plain = folder / "killed", folder / "killed-plain"
    for place in (out, plain):
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir(parents=True)
    child = _start("verb", 1, run, index, out)
    wanted = int(index.stem.rpartition("-")[2]) // 3
    while len(labels(out)) < wanted and child.poll() is None:
        time.sleep(0.02)
    child.send_signal(signal.SIGKILL)
    child.wait()
    listed = len(_listed(out))
    before = {file: file.stat().st_mtime_ns for file in labels(out)}
    for way, place in (("verb", out), ("loop", plain)):
        if (code := _start(way, 1, run, index, place).wait()) != 0:
            raise RuntimeError(f"{way} ended with {code}: see {place.with_suffix('.log')}")
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
        loop, verb = (
            next(row for row in rows if (row["model"], row["way"], row["actors"]) == (model, way, 1))
            for way in ("loop", "verb")
        )
        work = loop["cpu_s"] / verb["cpu_s"]
        is_good = is_good and (is_quick or work >= MIN_WORK_RATIO)
        parts.append(f"{model} {verb['scans_per_s']:.2f} scans/s, {work:.0%} of the loop's work a CPU second")
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


def _print(rows: Sequence[Row]) -> None:
    names = ("scans_per_s", "cpu_s", "load_average")
    print_table(
        ["model", "way", "actors", *names],
        [[row["model"], row["way"], row["actors"], *(f"{row[name]:.3f}" for name in names)] for row in rows],
    )


if __name__ == "__main__":
    sys.exit(main())
