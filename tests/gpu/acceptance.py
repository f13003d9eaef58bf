"""What is to be measured on the day there is a GPU, in one command: parity, speed, memory, teachers, a short training.

`python -m tests.gpu.acceptance [--device cuda] [--json FILE] [--quick]`

On a GPU in full. Without one the same with smaller sizes on the CPU, so that the command itself is tested everywhere.

rates     what this device copies and multiplies: the roof (``tests.gpu.roofline``) that the rows below are held against
parity    every backend and form that is present against float64 on the CPU: output and, where it trains, both
          gradients; milliseconds of forward and backward together, of the roof, and which share of it is reached
steps     whole optimiser steps: seconds, those of their products alone at the device's rate, memory, waits and launches
          (those on the pretended device)
teachers  images/s of the shipped SAM and CLIP
ingest    scans/s that 8 loader processes hand to a step, as `train` runs them
training  losses of LaserMix on MinkUNet against those of a CPU

`tests.bench.ingest` measures one loader's CPU seconds, `tests.bench.cost` all methods. Fails (rc 1) where a parity is
beyond its tolerance, a loss is not the CPU's, or a number is not finite.
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import math
import sys
import tempfile
import time
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from ray_lidarseg.errors import ResourceError
from ray_lidarseg.foundation.build import build_features, build_masks
from ray_lidarseg.foundation.settings import ClipFeatures, SamMasks
from ray_lidarseg.foundation.teachers import as_objects
from ray_lidarseg.geometry.voxelize import CartesianGrid, find_voxels
from ray_lidarseg.sparse.backend import Kind, SparseBackend
from ray_lidarseg.sparse.build import load_backend
from ray_lidarseg.sparse.geometry import VoxelGeometry
from ray_lidarseg.sparse.kernel_map import Kernel
from ray_lidarseg.sparse.torch_backend import TorchBackend
from ray_lidarseg.training.loading import loaded
from tests.bench import cost, ingest, launches, step
from tests.bench.ledger import Ledger, Row, parser, print_table
from tests.bench.sparse_conv import cast_scan
from tests.gpu import roofline

CASES: tuple[tuple[Kind, Kernel], ...] = (
    ("submanifold", (3, 3, 3)),
    ("submanifold", (1, 3, 3)),
    ("down", (2, 2, 2)),
    ("up", (2, 2, 2)),
)
TOLERANCES = {torch.float32: 1e-4, torch.float16: 1e-2, torch.bfloat16: 2e-2}
"""Relative, of a whole tensor. Float32 sums of up to 27 x 64 products in another order; TF32 is off."""
LOSS_TOLERANCE = 2e-2
ROUNDS = {"cpu": 1, "cuda": 5}


def backends(device: torch.device) -> dict[str, SparseBackend]:
    """What is present, by name; the embedded one in each of its forms."""
    forms = ("gathered", "unfolded", "blocked" if device.type == "cpu" else "grouped")
    found: dict[str, SparseBackend] = {f"torch {form}": TorchBackend(form) for form in forms}
    for name in ("spconv", "spconv-triton", "torchsparse"):
        try:
            found[name] = load_backend(name)
        except ResourceError as error:
            print(f"not measured: {error}")
    return found


def _keys(is_small: bool) -> Tensor:
    points = cast_scan(16, 200) if is_small else cast_scan(64, 2000)
    grid = CartesianGrid.centred(51.2, 0.4 if is_small else 0.1, 16)
    return find_voxels(grid.cells(points), torch.zeros(len(points), dtype=torch.int64)).keys


def _geometry(keys: Tensor, device: torch.device) -> VoxelGeometry:
    return VoxelGeometry(keys.to(device), (1024, 1024, 1024))


def _run(
    backend: SparseBackend, geometry: VoxelGeometry, case: Any, operands: list[Tensor], trains: bool
) -> list[Tensor]:
    kind, kernel = case
    if not trains:
        with torch.no_grad():
            return [backend.conv(operands[0], operands[1], geometry, kind, kernel, 0)]
    x, weight = (operand.requires_grad_() for operand in operands[:2])
    out = backend.conv(x, weight, geometry, kind, kernel, 0)
    return [out.detach(), *torch.autograd.grad(out, (x, weight), operands[2])]


def _operands(geometry: VoxelGeometry, case: Any, channels: int) -> list[Tensor]:
    (kind, kernel), generator = case, torch.Generator().manual_seed(0)
    rows = [geometry.num_voxels(int(kind == "up")), geometry.num_voxels(int(kind == "down"))]
    shapes = [(rows[0], channels), (math.prod(kernel), channels, channels), (rows[1], channels)]
    return [torch.randn(shape, generator=generator, dtype=torch.float64) / math.sqrt(channels) for shape in shapes]


def _types(device: torch.device) -> tuple[torch.dtype, ...]:
    return (torch.float32,) if device.type == "cpu" else tuple(TOLERANCES)


@cache
def _roof(device: torch.device, is_small: bool) -> roofline.Roof:
    return roofline.measure(device, (*_types(device), torch.bfloat16), is_small)


def rates(device: torch.device, is_small: bool) -> Iterator[Row]:
    """What the device copies and multiplies."""
    roof = _roof(device, is_small)
    yield {"part": "rates", "rate": "copy", "gb_per_s": roof.bytes_per_s / 1e9}
    for dtype, flops in roof.flops.items():
        yield {"part": "rates", "rate": "mm", "type": str(dtype)[6:], "gflops": flops / 1e9}


def compare(device: torch.device, is_small: bool) -> Iterator[Row]:
    """Parity and time of every backend, kind and type."""
    keys, channels = _keys(is_small), 16 if is_small else 64
    on_host, here = _geometry(keys, torch.device("cpu")), _geometry(keys, device)
    types, roof = _types(device), _roof(device, is_small)
    for case in CASES:
        operands = _operands(on_host, case, channels)
        exact = _run(TorchBackend("gathered"), on_host, case, operands, True)
        for name, backend in backends(device).items():
            trains = device.type == "cuda" or name.startswith("torch ")
            for dtype in types:
                given = [operand.detach().to(device, dtype) for operand in operands]
                row = {"part": "parity", "backend": name, "case": f"{case[0]} {case[1]}", "type": str(dtype)[6:]}
                try:
                    found = _run(backend, here, case, given, trains)
                except (ResourceError, RuntimeError) as error:
                    yield {
                        **row,
                        "refused": str(error).splitlines()[0][:200],
                        "is_known": isinstance(error, ResourceError),
                    }
                    continue
                errors = [float((a.cpu().double() - b).norm() / b.norm()) for a, b in zip(found, exact, strict=False)]
                work = lambda b=backend, c=case, g=given, t=trains: _run(b, here, c, g, t)  # noqa: E731
                pairs = getattr(on_host, case[0])(0, case[1])
                least = 1e3 * roof.seconds(*roofline.cost(pairs, (channels, channels), dtype, trains), dtype)
                found_ms = 1e3 * roofline.seconds(work, device, ROUNDS[device.type])
                times = {"ms": found_ms, "roof_ms": least, "roof_ratio": least / found_ms}
                yield {**row, "error": max(errors), "limit": TOLERANCES[dtype], **times}


def steps(device: torch.device, is_small: bool) -> Iterator[Row]:
    """Whole steps of LaserMix; waits and launches are counted on the pretended device."""
    width, preset = (0.125, "tiny") if is_small else (1.0, "demo")
    for backbone in ("fidnet", "minkunet") if is_small else cost.BACKBONES:
        loop = cost._loop(cost.recipe(backbone, "lasermix", width, "auto"), device)
        batches = cost._micro_batch(loop.method, cost._scans(preset, 2))
        precision = loop.precision or torch.float32
        with FlopCounterMode(display=False, custom_mapping=step.COUNTED) as counter:  # and it warms up
            cost._step(loop, batches, device)
        products = counter.get_total_flops() / _roof(device, is_small).flops[precision]
        (seconds, gib), values = cost._step(loop, batches, device)
        seen = launches.count(backbone, "lasermix", 0.125, "tiny")
        counts = {"waits": seen.waits.total(), "launches": seen.launches.total()}
        loss = {"loss": float(values["loss_total"]), "type": str(precision)[6:]}
        times = {"step_s": seconds, "products_s": products, "gib": gib}
        yield {"part": "steps", "backbone": backbone, **times, **loss, **counts}


def teachers(device: torch.device, is_small: bool) -> Iterator[Row]:
    """Images/s of the shipped SAM and CLIP on noise."""
    size, count = ((60, 90), 1) if is_small else ((450, 800), 16)
    images = np.random.default_rng(0).integers(0, 256, (count, *size, 3)).astype(np.uint8)
    batch = {"image": as_objects(list(images))}
    masks = SamMasks(points_per_side=4 if is_small else 16)
    for name, teacher in (
        ("sam", build_masks(masks, device.type)),
        ("clip", build_features(ClipFeatures(), device.type)),
    ):
        yield {
            "part": "teachers",
            "teacher": name,
            "images_per_s": count / roofline.seconds(lambda t=teacher: t(batch), device, 1 + 4 * (not is_small)),
        }


def loading(device: torch.device, is_small: bool) -> Iterator[Row]:
    """Scans/s of the training stream by one loader process and by several; the first steps fill what is read ahead."""
    with tempfile.TemporaryDirectory() as folder:
        stream = ingest.stream_of(Path(folder, "prepared"), 16 if is_small else 96)
        for processes in (1, 2) if is_small else (1, 8):
            first, last = 4 * processes, (4 if is_small else 40) * processes
            reading = loaded(stream, range(first + last), processes, device, True)
            for _ in range(first):
                next(reading)
            began, scans = time.perf_counter(), 0
            for micro_batches in reading:
                scans += sum(batch.num_scans for pair in micro_batches for batch in pair)
            rate = scans / (time.perf_counter() - began)
            yield {"part": "ingest", "processes": processes, "scans": scans, "scans_per_s": rate}


def training(device: torch.device, is_small: bool) -> Iterator[Row]:
    """Losses of a few steps on the device beside those on a CPU: same data, weights and draws, float32."""
    backbone, count = ("fidnet", 2) if is_small else ("minkunet", 40)
    series = []
    for place in (torch.device("cpu"), device):
        loop = cost._loop(cost.recipe(backbone, "lasermix", 0.125, "off"), place)
        batches = cost._micro_batch(loop.method, cost._scans("tiny", 2))
        series.append([float(loop.one_step(batches)["loss_total"]) for _ in range(count)])
    apart = max(abs(found / wanted - 1) for wanted, found in zip(*series, strict=True))
    yield {"part": "training", "backbone": backbone, "steps": count, "error": apart, "limit": LOSS_TOLERANCE}


def problems(rows: list[Row]) -> list[str]:
    """What does not hold, in words."""
    found = []
    for row in rows:
        name = ", ".join(str(row[key]) for key in ("part", "backend", "backbone", "case", "type") if key in row)
        if "refused" in row and not row["is_known"]:
            found.append(f"{name}: {row['refused']}")
        if "limit" in row and not row["error"] <= row["limit"]:
            found.append(f"{name}: error {row['error']:.1e}, at most {row['limit']:.0e}")
        found += [
            f"{name}: {key} is {value}"
            for key, value in row.items()
            if isinstance(value, float) and not math.isfinite(value)
        ]
    return found


def main() -> int:
    """Measures, prints, writes; 1 where something does not hold."""
    flags = parser(__doc__.splitlines()[0])
    flags.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", choices=("cpu", "cuda"))
    args = flags.parse_args()
    device = torch.device(args.device)
    is_small = args.quick or device.type == "cpu"
    torch.backends.cuda.matmul.allow_tf32 = False
    ledger, rows = Ledger(args.json), []
    for measure in (rates, compare, steps, teachers, loading, training):
        for number, row in enumerate(measure(device, is_small)):
            key = {"of": measure.__name__, "number": number, "device": device.type, "small": is_small}
            rows.append(ledger.measure(key, lambda r=row: r))
        _show([row for row in rows if row["of"] == measure.__name__])
    wrong = problems(rows)
    for problem in wrong:
        print(problem)
    print(f"{len(rows)} measurements on {rows[0]['hardware']}: {'FAILED' if wrong else 'ok'}")
    return int(bool(wrong))


def _show(rows: list[Row]) -> None:
    hidden = {"of", "number", "device", "small", "commit", "hardware", "limit", "is_known", "part"}
    names = list(dict.fromkeys(name for row in rows for name in row if name not in hidden))
    form = lambda value: f"{value:.3g}" if isinstance(value, float) else str(value)  # noqa: E731
    print_table(names, [[form(row.get(name, "")) for name in names] for row in rows])


if __name__ == "__main__":
    sys.exit(main())
