"""How fast the embedded sparse convolution is: ``python -m tests.bench.sparse_conv [--quick] [--json FILE]``.

Three variants of each layer, interleaved round by round, so that a busy machine hurts all alike:

``ours``   the torch backend;
``naive``  one gather, product and index_add per offset, fresh temporaries, torch's own backward, maps by 27 searches;
``mm``     the matrix products of the same shapes alone, no gathers, by the fastest library this machine has
           (``sparse.products``): what nothing built on torch.mm can beat. ``share`` is its time over ours.

Medians of process CPU time (what a free core would take) and of wall time. Exit code 1 when variants disagree.
"""

import math
import sys
import time
from collections.abc import Callable, Iterable
from statistics import median
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from ray_lidarseg.geometry.voxelize import FIELD_BITS, CartesianGrid, find_voxels
from ray_lidarseg.models.minkunet import MinkUNet, build_minkunet
from ray_lidarseg.recipe import schema
from ray_lidarseg.sample import PointBatch, SensorSpec
from ray_lidarseg.sparse.backend import Kind
from ray_lidarseg.sparse.geometry import Request, VoxelGeometry
from ray_lidarseg.sparse.kernel_map import Kernel, KernelMap, offsets_of
from ray_lidarseg.sparse.modules import SparseConv3d
from ray_lidarseg.sparse.pair_search import submanifold_map
from ray_lidarseg.sparse.products import fast, measured
from ray_lidarseg.sparse.torch_backend import convolve
from tests.bench.ledger import Ledger, Row, parser, print_table

TOLERANCE = 1e-3  # relative error of float32 sums of up to 27 x 256 products in another order
SCANS = {"32 beams, 0.1 m": (32, 1084, 0.1), "64 beams, 0.05 m": (64, 2000, 0.05)}
Timing = dict[str, tuple[float, float]]


def cast_scan(num_beams: int, num_columns: int, num_boxes: int = 60, range_m: float = 50.0) -> Tensor:
    """A scan of a flat ground with boxes of car to house size, one return per ray, 2 cm of noise; [P, 4]."""
    generator = torch.Generator().manual_seed(0)
    uniform = lambda *shape: torch.rand(*shape, generator=generator)  # noqa: E731
    inclination = torch.linspace(math.radians(-25), math.radians(5), num_beams).repeat_interleave(num_columns)
    azimuth = torch.linspace(-math.pi, math.pi, num_columns + 1)[:-1].repeat(num_beams)
    flat = inclination.cos()
    ray = torch.stack([flat * azimuth.cos(), flat * azimuth.sin(), inclination.sin()], 1)
    distance = torch.where(ray[:, 2] < 0, -1.8 / ray[:, 2], math.inf)
    bearing, far = uniform(num_boxes) * 2 * math.pi, 5 + 40 * uniform(num_boxes)
    center = torch.stack([far * bearing.cos(), far * bearing.sin(), torch.zeros(num_boxes)], 1)
    half = torch.stack([0.5 + 5 * uniform(num_boxes) ** 2, 0.5 + 5 * uniform(num_boxes) ** 2, torch.ones(num_boxes)], 1)
    half[:, 2] = 0.7 + 5 * uniform(num_boxes) ** 3
    center[:, 2] = half[:, 2] - 1.8
    for middle, size in zip(center, half, strict=True):
        faces = torch.stack([(middle - size) / ray, (middle + size) / ray])
        entry, leave = faces.amin(0).amax(1), faces.amax(0).amin(1)
        distance = torch.where((entry < leave) & (entry > 1) & (entry < distance), entry, distance)
    seen = (distance < range_m) & (uniform(len(distance)) < 0.95)
    points = ray[seen] * (distance[seen] + 0.02 * torch.randn(int(seen.sum()), generator=generator)).unsqueeze(1)
    return torch.cat([points, uniform(len(points), 1)], 1)


def interleaved(variants: dict[str, Callable[[], Any]], rounds: int) -> Timing:
    """Median (CPU ms, wall ms) of each variant; one round runs each once."""
    samples: dict[str, list[tuple[float, float]]] = {name: [] for name in variants}
    for index in range(rounds + 1):
        for name, run in variants.items():
            wall, cpu = time.perf_counter(), time.process_time()
            run()
            if index:  # the first round warms caches
                samples[name].append((1e3 * (time.process_time() - cpu), 1e3 * (time.perf_counter() - wall)))
    return {name: (median(s[0] for s in taken), median(s[1] for s in taken)) for name, taken in samples.items()}


def naive_map(keys: Tensor, outputs: Tensor, kernel: Kernel, stride: int) -> list[tuple[Tensor, Tensor]]:
    """(src, dst) of each offset by one binary search per offset."""
    mask = (1 << 3 * FIELD_BITS) - 1
    centers = (outputs & ~mask) | ((outputs & mask) * stride)
    pairs = []
    for dx, dy, dz in offsets_of(kernel):
        wanted = centers + ((dx << 2 * FIELD_BITS) + (dy << FIELD_BITS) + dz)
        place = torch.searchsorted(keys, wanted).clamp(max=len(keys) - 1)
        dst = (keys[place] == wanted).nonzero().flatten()
        pairs.append((place[dst], dst))
    return pairs


def naive_conv(x: Tensor, weight: Tensor, pairs: list[tuple[Tensor, Tensor]], num_out: int) -> Tensor:
    """The textbook form, backward by autograd."""
    out = x.new_zeros(num_out, weight.shape[2])
    for offset, (src, dst) in enumerate(pairs):
        out = out.index_add(0, dst, x[src] @ weight[offset])
    return out


class NaiveBackend:
    """The naive form as a backend, with its maps kept per batch, too."""

    name = "naive"

    def __init__(self) -> None:
        self.maps: WeakKeyDictionary[VoxelGeometry, dict[Any, Any]] = WeakKeyDictionary()

    def prepare(self, geometry: VoxelGeometry, wanted: Iterable[Request]) -> None:
        """Nothing: maps are searched when a layer first wants them."""

    def conv(
        self, x: Tensor, weight: Tensor, geometry: VoxelGeometry, kind: Kind, kernel: Kernel, level: int
    ) -> Tensor:
        known = self.maps.setdefault(geometry, {})
        key = (kind == "submanifold", kernel, level)
        fine = geometry.level_keys(level)
        coarse = fine if kind == "submanifold" else geometry.level_keys(level + 1)
        if key not in known:
            known[key] = naive_map(fine, coarse, kernel, 1 if kind == "submanifold" else 2)
        if kind == "up":
            return naive_conv(x, weight, [(dst, src) for src, dst in known[key]], len(fine))
        return naive_conv(x, weight, known[key], len(coarse))


def plain_products(pairs: KernelMap, channels: int) -> Callable[[], None]:
    """Forward, input-gradient and weight-gradient products of the same shapes, into buffers that exist already."""
    counts = [pairs.num_out, *(end - start for _, start, end in pairs.spans())]
    a, b, out = (torch.randn(max(counts), channels) for _ in range(3))
    weight, grad_weight = torch.randn(channels, channels), torch.empty(channels, channels)

    def run() -> None:
        with fast():
            for count in counts:
                torch.mm(a[:count], weight, out=out[:count])
                torch.mm(b[:count], weight.T, out=out[:count])
                torch.mm(a[:count].T, b[:count], out=grad_weight)

    return run


def relative_error(got: Tensor, expected: Tensor) -> float:
    """|got - expected| / |expected|, over the whole tensor."""
    return float((got - expected).norm() / expected.norm().clamp_min(1e-30))


def bench_layer(geometry: VoxelGeometry, channels: int, rounds: int) -> tuple[Timing, float, float]:
    """Timings, largest relative error, and GFLOP forward and backward of one 3 x 3 x 3 layer at level 0."""
    torch.manual_seed(0)
    pairs, keys = geometry.submanifold(0), geometry.keys
    searched = naive_map(keys, keys, (3, 3, 3), 1)
    x = torch.randn(len(keys), channels, requires_grad=True)
    weight = (torch.randn(27, channels, channels) / math.sqrt(27 * channels)).requires_grad_()
    grad = torch.randn(len(keys), channels)

    def step(forward: Callable[[], Tensor]) -> tuple[Tensor, ...]:
        out = forward()
        return (out.detach(), *torch.autograd.grad(out, (x, weight), grad))

    ours = lambda: step(lambda: convolve(x, weight, pairs))  # noqa: E731
    naive = lambda: step(lambda: naive_conv(x, weight, searched, len(keys)))  # noqa: E731
    error = max(relative_error(got, expected) for got, expected in zip(ours(), naive(), strict=True))
    timing = interleaved({"ours": ours, "naive": naive, "mm": plain_products(pairs, channels)}, rounds)
    return timing, error, 3 * 2 * pairs.num_products * channels**2 / 1e9


def bench_maps(keys: Tensor, rounds: int) -> tuple[Timing, float]:
    """Timings of the 3 x 3 x 3 map at level 0, and 0 where both find the same pairs."""
    ours = lambda: submanifold_map(keys, (3, 3, 3))  # noqa: E731
    naive = lambda: naive_map(keys, keys, (3, 3, 3), 1)  # noqa: E731
    built, searched = ours(), naive()
    del searched[built.num_offsets // 2]
    same = torch.equal(built.src, torch.cat([src for src, _ in searched])) and torch.equal(
        built.dst, torch.cat([dst for _, dst in searched])
    )
    return interleaved({"ours": ours, "naive": naive}, rounds), 0.0 if same else 1.0


def bench_network(points: Tensor, voxel_size_m: float, rounds: int) -> tuple[Timing, float]:
    """Timings of a MinkUNet18 step at half width (voxels, maps, forward, backward) and the largest relative error."""
    torch.manual_seed(0)
    sensor = SensorSpec(32, 0.1, -0.5, 1.0, 51.2, 1.0)
    section = schema.MinkUNet(depth=18, width_factor=0.5, voxel_size_m=voxel_size_m)
    ours = build_minkunet(section, sensor, 16, "torch")
    naive = build_minkunet(section, sensor, 16, "torch")
    naive.load_state_dict(ours.state_dict())
    backend = NaiveBackend()
    for layer in naive.modules():
        if isinstance(layer, SparseConv3d):
            layer.backend = backend
    batch = PointBatch.of_scan(points, (points[:, 2] * 4).long() % 16)

    def step(model: Any) -> tuple[Tensor, Tensor]:
        assert isinstance(model, MinkUNet)
        model.zero_grad()
        out = model(batch)
        torch.nn.functional.cross_entropy(out.cell_logits, out.cells.targets).backward()
        return out.cell_logits.detach(), model.head.weight.grad.clone()

    error = max(relative_error(got, expected) for got, expected in zip(step(ours), step(naive), strict=True))
    return interleaved({"ours": lambda: step(ours), "naive": lambda: step(naive)}, rounds), error


def row_of(timing: Timing, error: float, gflop: float = 0.0) -> Row:
    """Figures of one measurement: times and speeds by variant, and how many times faster than naive ours is."""
    row: Row = {"relative_error": float(f"{error:.1e}"), "threads": torch.get_num_threads(), "torch": torch.__version__}
    for variant, (cpu_ms, wall_ms) in timing.items():
        row |= {f"{variant}_cpu_ms": round(cpu_ms, 2), f"{variant}_wall_ms": round(wall_ms, 2)}
        if gflop:
            row[f"{variant}_gflop_per_cpu_s"] = round(1e3 * gflop / cpu_ms, 1)
    ours, naive = timing["ours"], timing["naive"]
    if "mm" in timing:
        row |= {"bound_share_ratio": round(timing["mm"][0] / ours[0], 3), "library": measured().float32}
    return row | {"cpu_speedup_ratio": round(naive[0] / ours[0], 2), "wall_speedup_ratio": round(naive[1] / ours[1], 2)}


def bench_scan(ledger: Ledger, name: str, quick: bool, note: str) -> list[Row]:
    """Everything on one scan."""
    beams, columns, voxel_size_m = SCANS[name]
    rounds = 3 if quick else 7
    points = cast_scan(beams, columns)
    grid = CartesianGrid.centred(51.2, voxel_size_m, 16)
    voxels = find_voxels(grid.cells(points), torch.zeros(len(points), dtype=torch.int64))
    geometry = VoxelGeometry(voxels.keys, grid.shape)
    parts: dict[str, Callable[[], Row]] = {"map 3x3x3": lambda: row_of(*bench_maps(voxels.keys, rounds))}
    for channels in (32, 64) if quick else (32, 64, 128):
        parts[f"layer 3x3x3 C{channels}"] = lambda width=channels: row_of(*bench_layer(geometry, width, rounds))
    parts["step MinkUNet18 x 0.5"] = lambda: row_of(*bench_network(points, voxel_size_m, rounds))
    facts = {"points": len(points), "voxels": len(voxels), "rounds": rounds, "note": note}
    key = {"scan": name, "quick": quick}
    return [ledger.measure({**key, "part": part}, lambda w=work: {**facts, **w()}) for part, work in parts.items()]


def show(rows: list[Row]) -> None:
    """The table: CPU milliseconds (wall), and GFLOP per CPU second."""
    cells = [[_cell(row, variant) for variant in ("ours", "naive", "mm")] for row in rows]
    ratios = [[_share(row), f"{row['cpu_speedup_ratio']}x", f"{row['relative_error']:.0e}"] for row in rows]
    lines = [[f"{row['scan']}, {row['part']}", *c, *r] for row, c, r in zip(rows, cells, ratios, strict=True)]
    print_table(["CPU ms (wall), GFLOP/CPU-s", "ours", "naive", "mm", "share", "ours vs naive", "error"], lines)


def _share(row: Row) -> str:
    return f"{row['bound_share_ratio']:.0%}" if "bound_share_ratio" in row else ""


def _cell(row: Row, variant: str) -> str:
    if f"{variant}_cpu_ms" not in row:
        return ""
    speed = row.get(f"{variant}_gflop_per_cpu_s")
    times = f"{row[f'{variant}_cpu_ms']:.1f} ({row[f'{variant}_wall_ms']:.1f})"
    return f"{times}, {speed:.0f}" if speed else times


def main() -> int:
    """Measures, prints, writes; 1 when variants disagree."""
    flags = parser(__doc__.splitlines()[0])
    flags.add_argument("--threads", type=int, default=1, help="torch threads")
    flags.add_argument("--note", default="", help="kept with the rows, for example what else the machine was doing")
    args = flags.parse_args()
    torch.set_num_threads(args.threads)
    ledger = Ledger(args.json)
    names = list(SCANS)[: 1 if args.quick else None]
    rows = [row for name in names for row in bench_scan(ledger, name, args.quick, args.note)]
    show(rows)
    wrong = [row for row in rows if not row["relative_error"] <= TOLERANCE]
    for row in wrong:
        print(f"DIFFER: {row['scan']}, {row['part']}: relative error {row['relative_error']}", file=sys.stderr)
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
