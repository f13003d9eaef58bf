"""Throughput and memory of `prepare` with masks and features, beside a plain loop and a torch DataLoader.

`python -m tests.bench.prepare [--masks sam] [--features clip] [--set KIND.KEY=VALUE] [--json FILE] [--quick]`

Frames of the synthetic world (six cameras) are decoded, segmented, paired and pooled three ways
(`tests/bench/preparing.py`): by the pipeline with pools of 1 and 2 actors, by a single-process loop, by a DataLoader of
1 and 2 workers with the teachers in the workers. One CPU thread for the models of each. The miniature models are the
hard case: the less a teacher computes, the more all else counts.

Frames/s are sustained: shards finished after each worker's first over the time they took, the pipeline's four stages
added up. `start_s` is the rest: workers that start, imports, models that load; before it comes Ray's start, `ray_s`.
`cpu_s` is CPU time of driver and workers for a frame in the same span: the figure to compare on a machine that others
use as well; Ray's services cost by the second: `services_cores`. `outside` is the share of the workers' time outside
the teachers while they hold frames.

Memory is that of all processes of a job over many frames (the same files under other ids, one camera, coarse SLIC):
sums of proportional set sizes, and for each stage a line fitted to all but its first third.

Fails (rc 1) where the ways do not write the same layers, where the pipeline with one actor needs more than 1.5 times
the loop's CPU time a frame, or where the memory of a stage grows by more than 5 % over its last two thirds. With
--quick the first of these alone counts.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from ray_lidarseg import storage
from ray_lidarseg.datasets.layers import cameras_of, layer_entries
from ray_lidarseg.datasets.parquet_files import parquet_bytes
from ray_lidarseg.datasets.prepared_frames import OpenShards
from ray_lidarseg.datasets.shards import keyframe_table
from ray_lidarseg.prepare import Teachers
from ray_lidarseg.prepare.stages import layer_uri
from ray_lidarseg.sample import Keyframe
from ray_lidarseg.synthetic.presets import preset_named
from tests.bench.ledger import Ledger, Row, parser, print_table
from tests.bench.process_tree import Sample, Watch, watched

MAX_CPU_RATIO = 1.5  # ours: an image is decoded once for each teacher, masks are read back, Ray does its part
MAX_GROWTH_RATIO = 0.05  # ours
MIN_COSINE = 0.99  # batches of other sizes round otherwise
WAYS = (("loop", 1), ("loader", 1), ("pipeline", 1), ("loader", 2), ("pipeline", 2))
CHEAP = ("slic", "masks.num_segments=20", "masks.max_iterations=3")
SEED = 0
FEW_FRAMES_OF_A_SCENE = 5
CPU_INTERVAL_S, MEMORY_INTERVAL_S = 0.2, 0.5
_ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "OMP_WAIT_POLICY": "passive",
    "PYTHONPATH": str(Path(__file__).parents[2]),  # Ray's workers, too, import the checkout that is measured
    "RAY_worker_niceness": "0",  # Ray's workers give way to others by default; the other ways do not
}
_LOG_LINES = 15


def main() -> int:
    args = _arguments()
    os.environ.update(_ENVIRONMENT)
    ledger = Ledger(args.json)
    folder = args.folder.resolve()
    rows = []
    if args.frames:
        index = world_index(folder, args.world)
        few = repeated(index, folder / f"few-{args.world}-{args.frames}.parquet", args.frames)
        rows = [ledger.measure(_key(args, *way), lambda w=way: _throughput(args, few, folder, *w)) for way in args.ways]
        _print_throughput(rows)
    memory = []
    if args.memory_frames:
        many = repeated(world_index(folder, "tiny"), folder / "many.parquet", args.memory_frames, cameras=1)
        key = {"way": "memory", "workers": 2, "frames": args.memory_frames, "features": args.features}
        memory = [ledger.measure(key, lambda: _memory(args, many, folder))]
        _print_memory(memory[0])
    is_good, sentence = verdict(rows, memory, is_quick=args.quick)
    print(f"{sentence}: {'ok' if is_good else 'FAILED'}")
    return int(not is_good)


def _arguments() -> argparse.Namespace:
    flags = parser(__doc__.splitlines()[0])
    flags.add_argument("--masks", default="sam", help="teacher, as for `prepare`")
    flags.add_argument("--features", default="clip", help="teacher, as for `prepare`")
    flags.add_argument("--set", action="append", default=[], dest="sets", metavar="KIND.KEY=VALUE")
    flags.add_argument("--world", default="demo", help="preset of the frames for throughput")
    flags.add_argument("--frames", type=int, default=48, help="for throughput; 0: none")
    flags.add_argument("--memory-frames", type=int, default=2000, help="0: none")
    flags.add_argument("--folder", type=Path, default=Path("build/bench/prepare"), help="worlds (kept) and shards")
    args = flags.parse_args()
    args.ways = WAYS
    if args.quick:
        args.world, args.frames, args.memory_frames, args.ways = "tiny", 12, 0, (("loop", 1), ("pipeline", 1))
    return args


def world_index(folder: Path, preset: str) -> Path:
    """The index of a small world below the folder, made where it is missing (this part runs on Ray)."""
    file = folder / preset / "index.parquet"
    if not file.exists():
        from ray_lidarseg.index import index
        from ray_lidarseg.runtime.cluster import connect
        from ray_lidarseg.world import generate

        with connect():
            world = str(folder / preset / "world")
            frames = min(FEW_FRAMES_OF_A_SCENE, preset_named(preset).num_frames)
            generate(preset, world, SEED, {"frames": frames})
            index("nuscenes", world, str(file), version=preset_named(preset).version)
    return file


def repeated(index: Path, file: Path, count: int, cameras: int = 0, split: str = "") -> Path:
    """Writes an index of ``count`` frames: those of another, again and again under other ids.

    Args:
        index: The other one.
        file: Where to.
        count: Frames.
        cameras: How many of each frame are kept; 0: all.
        split: Of all of them; empty: their own.
    """
    frames = [Keyframe.from_row(row) for row in pq.read_table(index).to_pylist()]
    rows = []
    for number in range(count):
        frame = frames[number % len(frames)]
        name = f"{frame.frame_id}-{number // len(frames):04d}"
        kept = frame.cameras[: cameras or None]
        rows.append(replace(frame, frame_id=name, cameras=kept, split=split or frame.split))
    file.write_bytes(parquet_bytes(keyframe_table(rows), rows_per_group=1024))
    return file


def _key(args: argparse.Namespace, way: str, workers: int) -> Row:
    width, height = preset_named(args.world).image_size
    teachers = {"masks": args.masks, "features": args.features, "sets": sorted(_checkpoint_free(args.sets))}
    return {"way": way, "workers": workers, "frames": args.frames, "image": f"{width}x{height}", **teachers}


def _checkpoint_free(sets: Sequence[str]) -> list[str]:
    return [pair for pair in sets if ".checkpoint=" not in pair]


def _run(
    way: str, workers: int, index: Path, out: Path, teachers: Sequence[str], with_memory: bool
) -> tuple[Row, Watch]:
    """Figures of one way in a process of its own, and what was seen of it and its children."""
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    figures = out.with_suffix(".json")
    command = [sys.executable, "-m", "tests.bench.preparing", way, str(workers), str(index), str(out), str(figures)]
    with open(out.with_suffix(".log"), "w+") as log:
        child = subprocess.Popen([*command, *teachers], stdout=log, stderr=subprocess.STDOUT, cwd=Path.cwd())
        with watched(child.pid, MEMORY_INTERVAL_S if with_memory else CPU_INTERVAL_S, with_memory) as watch:
            code = child.wait()
        log.seek(0)
        end = "".join(log.readlines()[-_LOG_LINES:])
    if code:
        raise RuntimeError(f"{way} with {workers} worker(s) ended with {code}:\n{end}")
    return json.loads(figures.read_text()), watch


def _throughput(args: argparse.Namespace, index: Path, folder: Path, way: str, workers: int) -> Row:
    out = folder / f"{way}-{workers}"
    teachers = [args.masks, args.features, *args.sets]
    figures, watch = _run(way, workers, index, out, teachers, with_memory=False)
    spans = [sustained(ends, workers) for ends in figures["stages"].values()]
    used = [_cpu_s(watch.samples, start, stop) for start, stop, _ in spans]
    cpu_s = [one / count for (one, _), (*_, count) in zip(used, spans, strict=True)]
    stage_s = [(stop - start) / count for start, stop, count in spans]
    wall_s = sum(stage_s)
    of = Teachers.of(args.masks, args.features, args.sets)
    return {
        "frames_per_s": 1 / wall_s,
        "cpu_s": sum(cpu_s),
        "services_cores": sum(services for _, services in used) / sum(stop - start for start, stop, _ in spans),
        "start_s": figures["wall_s"] - args.frames * wall_s,
        "ray_s": figures["cluster_start_s"],
        "outside_ratio": 1 - figures["model_s"] / figures["busy_s"],
        "model_s": figures["model_s"] / args.frames,
        "stage_s": dict(zip(figures["stages"], stage_s, strict=True)),
        "stage_cpu_s": dict(zip(figures["stages"], cpu_s, strict=True)),
        "is_same": way == "loop" or same_layers(of, str(folder / "loop-1"), str(out)),
        "load_average": os.getloadavg()[1],
    }


def sustained(ends: Sequence[tuple[float, int]], workers: int) -> tuple[float, float, int]:
    """From the end of the workers' first shards to that of the last: start, stop and frames in between.

    Args:
        ends: When each shard was finished, and its frames; ascending.
        workers: How many worked at once.

    Raises:
        ValueError: So few shards that no time passed.
    """
    if len(ends) <= workers:
        raise ValueError(f"{len(ends)} shards of {workers} worker(s) say nothing about their speed: give more frames")
    return ends[workers - 1][0], ends[-1][0], sum(frames for _, frames in ends[workers:])


def _cpu_s(samples: Sequence[Sample], start: float, stop: float) -> tuple[float, float]:
    """CPU seconds between two moments: of driver and workers, and of Ray's services."""
    moments = [sample.time_s for sample in samples]
    services = np.diff(np.interp([start, stop], moments, [sample.services_cpu_s for sample in samples]))
    everything = np.diff(np.interp([start, stop], moments, [sample.cpu_s for sample in samples]))
    return float((everything - services)[0]), float(services[0])


def same_layers(teachers: Teachers, one: str, other: str) -> bool:
    """Whether two prepared folders say the same about the same frames, features up to rounding."""
    for layer in teachers.layers():
        first, second = (_rows(layer_uri(storage.absolute(out), layer.name)) for out in (one, other))
        if first.keys() != second.keys():
            return False
        is_same = _are_close if layer.kind == "features" else dict.__eq__
        if not all(is_same(first[frame_id], second[frame_id]) for frame_id in first):
            return False
    return True


def _rows(uri: str) -> dict[str, dict[str, Any]]:
    filesystem, folder = storage.resolve(uri)
    shards = OpenShards(filesystem, folder)
    rows = {e["frame_id"]: shards.row(e["shard"], e["row"]) for e in layer_entries(filesystem, folder)}
    return {frame_id: {**row, "origin": ""} for frame_id, row in rows.items()}  # the loop notes no files


def _are_close(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    if cameras_of(one) != cameras_of(other):
        return False
    for camera in cameras_of(one):
        first, second = (np.frombuffer(row[f"{camera}.segment_features"], np.float16) for row in (one, other))
        count = one[f"{camera}.num_segments"]
        if first.shape != second.shape or count != other[f"{camera}.num_segments"]:
            return False
        if count and (first.reshape(count, -1).astype(float) * second.reshape(count, -1)).sum(1).min() < MIN_COSINE:
            return False
    return True


def _memory(args: argparse.Namespace, index: Path, folder: Path) -> Row:
    checkpoint = [pair for pair in args.sets if pair.startswith("features.checkpoint=")]
    out = folder / "memory"
    teachers = [CHEAP[0], args.features, *CHEAP[1:], *checkpoint]
    figures, watch = _run("pipeline", 2, index, out, teachers, with_memory=True)
    stages = {name: growth(watch.samples, ends) for name, ends in figures["stages"].items()}
    shutil.rmtree(out)
    return {
        "stages": stages,
        "max_growth_ratio": max(stage["growth_ratio"] for stage in stages.values()),
        "peak_mib": max(sample.memory_mib for sample in watch.samples),
        "wall_s": figures["wall_s"],
        "load_average": os.getloadavg()[1],
    }


def growth(samples: Sequence[Sample], ends: Sequence[tuple[float, int]]) -> Row:
    """A line through the memory of one stage, without its first third.

    Args:
        samples: Of the whole job.
        ends: When the stage's shards were finished, and the frames of each; ascending.

    Returns:
        ``mean_mib``, ``mib_per_1000_frames``, ``growth_ratio`` (the line's rise over the rest of the stage in shares of
        the mean; 0 where it falls), ``range_mib`` (largest less smallest sample) and ``samples``.
    """
    first, last = ends[0][0], ends[-1][0]
    start = first + (last - first) / 3
    chosen = [sample for sample in samples if start <= sample.time_s <= last]
    if len(chosen) < 3:
        raise ValueError(f"{len(chosen)} samples of a stage of {last - first:.1f} s: give more frames")
    memory = np.array([sample.memory_mib for sample in chosen])
    slope, _ = np.polyfit([sample.time_s - start for sample in chosen], memory, 1)
    rise_mib = slope * (last - start)
    frames = sum(count for time_s, count in ends if time_s > start)
    return {
        "mean_mib": float(memory.mean()),
        "mib_per_1000_frames": float(1000 * rise_mib / frames),
        "growth_ratio": max(0.0, float(rise_mib / memory.mean())),
        "range_mib": float(np.ptp(memory)),
        "samples": len(chosen),
    }


def verdict(rows: Sequence[Row], memory: Sequence[Row], is_quick: bool = False) -> tuple[bool, str]:
    """Whether all is well, and a sentence with the figures; a quick run is too short for a word on cost."""
    parts, is_good = [], True
    if rows:
        loop, pipeline = (next(r for r in rows if (r["way"], r["workers"]) == (way, 1)) for way in ("loop", "pipeline"))
        cost = pipeline["cpu_s"] / loop["cpu_s"]
        is_same = all(row["is_same"] for row in rows)
        is_good = is_same and (is_quick or cost <= MAX_CPU_RATIO)
        parts.append(
            f"pipeline with one actor {pipeline['frames_per_s']:.2f} frames/s, plain loop {loop['frames_per_s']:.2f}; "
            f"{cost:.2f} x its CPU time (≤ {MAX_CPU_RATIO:g}), {'the same' if is_same else 'OTHER'} layers"
        )
    for row in memory:
        is_good = is_good and row["max_growth_ratio"] <= MAX_GROWTH_RATIO
        parts.append(
            f"memory over {row['frames']:,} frames grows by {row['max_growth_ratio']:.1%} at most in a stage "
            f"(≤ {MAX_GROWTH_RATIO:.0%}), peak {row['peak_mib']:,.0f} MiB"
        )
    return is_good, "; ".join(parts)


def _print_throughput(rows: Sequence[Row]) -> None:
    names = ("frames_per_s", "cpu_s", "model_s", "services_cores", "start_s", "ray_s")
    lines = []
    for row in rows:
        stages = ", ".join(f"{name} {seconds:.3f}" for name, seconds in row["stage_s"].items())
        figures = [f"{row[name]:.2f}" for name in names]
        lines.append([row["way"], row["workers"], *figures, f"{row['outside_ratio']:.0%}", stages])
    print_table(["way", "workers", *names, "outside", "s a frame, by stage"], lines)
    print(f"load average {min(r['load_average'] for r in rows):.0f} to {max(r['load_average'] for r in rows):.0f}\n")


def _print_memory(row: Row) -> None:
    names = ("mean_mib", "range_mib", "mib_per_1000_frames")
    print_table(
        ["stage", *names, "growth", "samples"],
        [
            [stage, *(f"{found[name]:,.1f}" for name in names), f"{found['growth_ratio']:.1%}", found["samples"]]
            for stage, found in row["stages"].items()
        ],
    )
    print(f"{row['frames']} frames in {row['wall_s']:.0f} s, load {row['load_average']:.0f}\n")


if __name__ == "__main__":
    sys.exit(main())
