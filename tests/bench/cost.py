"""What a step of each method costs on each backbone: forwards, seconds and memory, side by side with sup-only.

`python -m tests.bench.cost [--backbones …] [--width 1] [--scans 1] [--amp bf16] [--rounds 3] [--json FILE] [--quick]`

Whole optimiser steps of the real step loop on scans of the synthetic world at their real size (32 x 1084 rays), with
the networks of the built-in nuScenes recipes; on a CPU at half their width unless ``--width`` says otherwise. Methods
take turns round by round, so a busy machine hurts all alike; the first round warms up; medians. Seconds are CPU seconds
of one thread, or wall seconds of a CUDA device. Memory is what a step needs beyond what rests in memory between steps.
Forwards are counted by hooks on the networks, in scans over B labelled and B unlabelled ones.

Fails (rc 1) where sup-only asks a teacher, or a method runs other forwards than its algorithm has: student on labelled,
unlabelled and 2 B mixed scans, teacher on labelled and unlabelled ones, and no more of them for image evidence.
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import argparse
import ctypes
import math
import statistics
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from ray_lidarseg.datasets.nuscenes import CLASSES as NUSCENES
from ray_lidarseg.datasets.points import to_batch
from ray_lidarseg.datasets.sensor import resolve_sensor
from ray_lidarseg.methods.build import build_method
from ray_lidarseg.methods.method import Method
from ray_lidarseg.models.segmentor import Segmentor
from ray_lidarseg.recipe.load import load_recipe, override, with_method
from ray_lidarseg.recipe.schema import Data, Recipe
from ray_lidarseg.sample import Keyframe, PointBatch
from ray_lidarseg.synthetic.lidar import Scan, scan
from ray_lidarseg.synthetic.presets import PRESETS
from ray_lidarseg.synthetic.scene import Scene
from ray_lidarseg.training.loop import MicroBatches, Ranks, StepLoop
from ray_lidarseg.types import IMAGE_FEATURES, IMAGE_SEGMENT, LANGUAGE_LOGITS
from tests.bench.ledger import Ledger, Row, parser, print_table

BACKBONES = ("fidnet", "minkunet", "spvcnn", "cylinder3d")
FORWARDS = {"supervised": (1, 0), "mean_teacher": (2, 2), "lasermix": (4, 2), "lasermix_pp": (4, 2)}
"""By method: forwards of student and teacher in one step, in units of B scans."""
EVIDENCE_DIM = 512  # CLIP ViT-B/16; random rows, which cost as much as true ones
NUM_SEGMENTS = 300  # of six cameras, those that points fall on
PAIRED_RATIO = 0.6  # about the share of nuScenes' points that a camera sees
SEED = 4242  # a scene no training uses


def main() -> int:
    args = _arguments()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.set_num_threads(1)
    ledger, rows = Ledger(args.json), []
    scans = _scans(args.preset, 2 * args.scans)
    for backbone in args.backbones:
        rows += _rows(ledger, args, backbone, scans, device)
        _print(rows[-len(FORWARDS) :])
    problems = disagreements(rows)
    for problem in problems:
        print(problem)
    figures = "; ".join(f"{backbone} {_ratios(rows, backbone)}" for backbone in args.backbones)
    print(f"LaserMix and LaserMix++ over sup-only, in time: {figures}: {'FAILED' if problems else 'ok'}")
    return int(bool(problems))


@dataclass
class Count:
    """Forwards of a method's networks, in scans, since the last ``clear``; one with gradients is a student's."""

    scans: dict[str, int] = field(default_factory=lambda: {"student": 0, "teacher": 0})
    calls: dict[str, int] = field(default_factory=lambda: {"student": 0, "teacher": 0})

    def watch(self, method: Method) -> None:
        """Counts every forward of the method's networks from now on."""
        for module in method.modules():
            if isinstance(module, Segmentor):
                module.register_forward_hook(self._seen)

    def clear(self) -> None:
        """Begins again at none."""
        self.__init__()

    def _seen(self, module: nn.Module, arguments: tuple[Any, ...], _: Any) -> None:
        role = "student" if any(parameter.requires_grad for parameter in module.parameters()) else "teacher"
        self.scans[role] += arguments[0].num_scans
        self.calls[role] += 1


def disagreements(rows: Sequence[Row]) -> list[str]:
    """What is wrong with the figures, in words."""
    found = []
    for row in rows:
        wanted = tuple(times * row["scans"] for times in FORWARDS[row["method"]])
        counted = row["student_scans"], row["teacher_scans"]
        if counted != wanted:
            found.append(f"{row['backbone']}, {row['method']}: forwards of {counted} scans, expected {wanted}")
        if not (math.isfinite(row["step_s"]) and math.isfinite(row["loss"])):
            found.append(f"{row['backbone']}, {row['method']}: {row['step_s']} s, loss {row['loss']}")
    return found


def recipe(backbone: str, method: str, width: float, amp: str = "auto") -> Recipe:
    """The built-in nuScenes recipe of a backbone with another method, and no wider than ``width`` of its network."""
    pp = load_recipe(f"{backbone}-nuscenes", method="lasermix_pp")
    changes = {"model.width_factor": width * pp.model.width_factor, "data.evidence_dim": EVIDENCE_DIM, "train.amp": amp}
    return with_method(override(pp, changes), method)


def step_flags(
    about: str, methods: Sequence[str], width: float, backbones: Sequence[str] = BACKBONES
) -> argparse.ArgumentParser:
    """The flags of benchmarks of steps.

    Args:
        about: First line of the help.
        methods: All there are, and the default.
        width: Default of the part of the recipes' full width.
        backbones: All there are, and the default.
    """
    flags = parser(about)
    flags.add_argument("--backbones", nargs="+", default=backbones, choices=backbones)
    flags.add_argument("--methods", nargs="+", default=methods, choices=methods)
    flags.add_argument("--width", type=float, default=width, help="of the recipes' full width")
    flags.add_argument("--preset", default="demo", choices=("tiny", "demo"), help="sensor of the world")
    return flags


def name_of(row: Row) -> str:
    """What a row is of, for people."""
    return f"{row['backbone']} {row['method']}"


def _arguments() -> Any:
    flags = parser(__doc__.splitlines()[0])
    flags.add_argument("--backbones", nargs="+", default=BACKBONES, choices=BACKBONES)
    flags.add_argument("--width", type=float, default=1.0 if torch.cuda.is_available() else 0.5, help="of full width")
    flags.add_argument("--scans", type=int, default=1, help="labelled scans a step, and as many unlabelled ones")
    flags.add_argument("--amp", default="auto", choices=("auto", "bf16", "off"), help="precision, as train.amp")
    flags.add_argument("--rounds", type=int, default=3)
    flags.add_argument("--preset", default="demo", choices=("tiny", "demo"), help="sensor of the world")
    args = flags.parse_args()
    if args.quick:
        args.preset, args.width, args.rounds = "tiny", 0.125, 1
    return args


def _rows(ledger: Ledger, args: Any, backbone: str, scans: Sequence[PointBatch], device: torch.device) -> list[Row]:
    key = {"backbone": backbone, "width": args.width, "scans": args.scans, "rays": PRESETS[args.preset].num_firings}
    key |= {"device": device.type, "amp": args.amp, "rounds": args.rounds}
    keys = {method: {**key, "method": method} for method in FORWARDS}
    measured: dict[str, Row] = {}
    if any(ledger.find(wanted) is None for wanted in keys.values()):
        measured = _measure(args, backbone, scans, device)
    return [ledger.measure(keys[method], lambda m=method: measured[m]) for method in FORWARDS]


def _measure(args: Any, backbone: str, scans: Sequence[PointBatch], device: torch.device) -> dict[str, Row]:
    """All methods on one backbone, one step each in turn."""
    loops = {method: _loop(recipe(backbone, method, args.width, args.amp), device) for method in FORWARDS}
    counts = {method: Count() for method in FORWARDS}
    taken: dict[str, list[tuple[float, float]]] = {method: [] for method in FORWARDS}
    losses: dict[str, float] = {}
    for method, loop in loops.items():
        counts[method].watch(loop.method)
    for number in range(args.rounds + 1):
        for method, loop in loops.items():
            counts[method].clear()
            cost, values = _step(loop, _micro_batch(loop.method, scans), device)
            losses[method] = float(values["loss_total"])
            if number:  # the first round warms up
                taken[method].append(cost)
    return {
        method: {
            "step_s": statistics.median(seconds for seconds, _ in costs),
            "step_gib": statistics.median(gib for _, gib in costs),
            "student_scans": counts[method].scans["student"],
            "teacher_scans": counts[method].scans["teacher"],
            "student_forwards": counts[method].calls["student"],
            "teacher_forwards": counts[method].calls["teacher"],
            "parameters": sum(parameter.numel() for parameter in loops[method].method.student.parameters()),
            "points": sum(len(batch) for batch in scans),
            "loss": losses[method],
        }
        for method, costs in taken.items()
    }


def _loop(wanted: Recipe, device: torch.device) -> StepLoop:
    torch.manual_seed(0)
    method = build_method(wanted, resolve_sensor(wanted.data), NUSCENES.num_classes).to(device).train()
    return StepLoop(method, wanted, device, Ranks())


def _step(
    loop: StepLoop, micro_batches: MicroBatches, device: torch.device
) -> tuple[tuple[float, float], Mapping[str, torch.Tensor]]:
    clock = time.process_time if device.type == "cpu" else time.perf_counter
    with peak_memory(device) as peak_gib:
        began = clock()
        values = loop.one_step(micro_batches)
        if device.type == "cuda":
            torch.cuda.synchronize()
        seconds = clock() - began
    return (seconds, peak_gib[0]), values


@contextmanager
def peak_memory(device: torch.device) -> Iterator[list[float]]:
    """A list of one number when the block ends: GiB needed at most inside it, beyond what was held at its start.

    On a CPU from Linux' high-water mark of the process, which is reset first; NaN on other systems.
    """
    found: list[float] = []
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        resting = torch.cuda.memory_allocated(device)
        yield found
        found.append((torch.cuda.max_memory_allocated(device) - resting) / 2**30)
    elif sys.platform != "linux":
        yield found
        found.append(math.nan)
    else:
        ctypes.CDLL("libc.so.6").malloc_trim(0)  # or freed pages would hide what the step takes again
        Path("/proc/self/clear_refs").write_text("5")
        resting_kib = _status_kib("VmRSS")
        yield found
        found.append((_status_kib("VmHWM") - resting_kib) / 2**20)


def _status_kib(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))


def _scans(preset: str, count: int) -> list[PointBatch]:
    """Sweeps of one scene, some frames apart, as batches of one with labels."""
    chosen = replace(PRESETS[preset], num_frames=20)
    scene = Scene(chosen, SEED, 0)
    sweeps = (scan(scene, number % chosen.num_frames) for number in range(0, 5 * count, 5))
    sensor = resolve_sensor(Data(dataset="nuscenes"))
    return [to_batch(_keyframe(sweep), sensor)[0] for sweep in sweeps]


def _keyframe(sweep: Scan) -> Keyframe:
    labels = NUSCENES.to_train(sweep.labels).astype(np.uint8)
    points = sweep.points[:, :4] / np.array([1, 1, 1, 255], np.float32)
    return Keyframe("f", "nuscenes", "s", "train", 0, "p", points=points, labels=labels)


def _micro_batch(method: Method, scans: Sequence[PointBatch]) -> MicroBatches:
    half = len(scans) // 2
    labelled, unlabelled = (PointBatch.pack(part) for part in (scans[:half], scans[half:]))
    if not method.uses_unlabelled:
        return [(labelled, unlabelled.unlabelled().select(torch.zeros(len(unlabelled), dtype=torch.bool)))]
    return [(_seen(labelled, method), _seen(unlabelled.unlabelled(), method))]


def _seen(batch: PointBatch, method: Method) -> PointBatch:
    """With random evidence, of the names the method reads."""
    generator = torch.Generator().manual_seed(0)
    number = torch.randint(1, 1 + NUM_SEGMENTS, (len(batch),), generator=generator)
    number *= torch.rand(len(batch), generator=generator) < PAIRED_RATIO
    features = functional.normalize(torch.randn(NUM_SEGMENTS, EVIDENCE_DIM, generator=generator))
    cosines = torch.rand(NUM_SEGMENTS, NUSCENES.num_classes, generator=generator)
    rows = {IMAGE_FEATURES: features, LANGUAGE_LOGITS: cosines}
    segments = {name: functional.pad(rows[name], (0, 0, 1, 0)).half() for name in method.extras & rows.keys()}
    return replace(batch, extras={IMAGE_SEGMENT: number} if method.extras else {}, segments=segments)


def _print(rows: Sequence[Row]) -> None:
    base = rows[0]
    title = f"{base['backbone']}, width {base['width']:g}, amp {base['amp']}"
    print_table(
        [title, "student", "teacher", "s", "x sup-only", "GiB", "x sup-only"],
        [
            [row["method"], _forwards(row, "student"), _forwards(row, "teacher")]
            + [text for name in ("step_s", "step_gib") for text in (f"{row[name]:.2f}", _times(row, base, name))]
            for row in rows
        ],
    )
    print(
        f"{base['parameters']} parameters, {base['scans']} + {base['scans']} scans a step, {base['points']} points, "
        f"{base['hardware']}\n"
    )


def _forwards(row: Row, role: str) -> str:
    return f"{row[f'{role}_forwards']} ({row[f'{role}_scans']} scans)"


def _times(row: Row, base: Row, name: str) -> str:
    return f"{row[name] / base[name]:.2f}" if base[name] else "-"


def _ratios(rows: Sequence[Row], backbone: str) -> str:
    seconds = {row["method"]: row["step_s"] for row in rows if row["backbone"] == backbone}
    return " and ".join(f"{seconds[name] / seconds['supervised']:.1f}" for name in ("lasermix", "lasermix_pp"))


if __name__ == "__main__":
    sys.exit(main())
