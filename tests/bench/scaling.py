"""How long and how dear: full nuScenes on 1 to 64 GPUs, and 28 million frames on a fleet, from measured costs.

`python -m tests.bench.scaling [--method lasermix] [--backbone minkunet] [--results FOLDER] [--json FILE] [--quick]`

Seconds of a step and of a frame are those of the rows in `results/` (one CPU core of this machine); what was not
measured here (a GPU's rate, prices, a store's limits) is an assumption, printed with its value, and a flag. Training is
a formula: steps x (slowest worker's scans + all-reduce + what data make it wait) + start. The fleet is simulated minute
by minute: nodes come late, are taken away, and share one object store.

For MinkUNet a step on an A100, an H100 and an H200 is predicted from the counts of `launches` and published times of
kernels, beside the counts of 6209cd2 (`tests.bench.gpu_step` says how).

Fails (rc 1) where that prediction is worse than with the older counts, where more GPUs would take longer, where the
simulation loses or invents frames, or where it is faster than its narrowest limit allows. `--quick` computes the same
with fewer fleet sizes.
"""

import argparse
import itertools
import json
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from tests.bench import gpu_step
from tests.bench.gpu_step import BEFORE, NOW, Host
from tests.bench.ledger import Ledger, Row, parser, print_table

RESULTS = Path(__file__).with_name("results")
GPUS = (1, 2, 4, 8, 16, 32, 64)
NUSCENES_TRAIN, NUSCENES_FRAMES, CAMERAS = 28_130, 34_149, 6
STEPS, SCANS = 60_000, 16  # the authors' schedule, and scans of each stream in a step: recipes/*-nuscenes.yaml
FLEET_FRAMES = 28_000_000


@dataclass(frozen=True)
class Measured:
    """From the committed results; seconds of one core of this machine.

    Attributes:
        step_s: A step of one labelled and one unlabelled scan of real size, the network at ``width`` of its own.
        width: See above.
        gflops: What a step of the same kind computed a second.
        parameters: Of the network at that width.
        prepare_s: A frame of the pipeline, masks and features by the miniatures included.
        decode_s: A frame read and decoded.
        rows_per_s: Frames a core reads for training.
        ray_s: From the command to the first frame, beyond the work.
    """

    step_s: float
    width: float
    gflops: float
    parameters: int
    prepare_s: float
    decode_s: float
    rows_per_s: float
    ray_s: float


@dataclass(frozen=True)
class Assumed:
    """What nobody measured here; each is a flag.

    Attributes:
        gpu_tflops: Peak of one GPU in bf16.
        gpu_share: Of the peak that sparse networks reach.
        sam_s: GPU seconds an image for masks of a large teacher.
        clip_s: GPU seconds an image for features.
        link_gb_s: All-reduce bandwidth between workers.
        cores: CPU cores beside each GPU.
        price: Of a GPU's share of a node, per hour.
        spot_price: The same, where it may be taken away.
        boot_s: From asking for a node to its first frame.
        wave: Nodes that are asked for at once, at least; else as many again as there are.
        losses: Of a node an hour.
        redo_frames: What a lost node has to do again.
        store_gb_s: What the object store gives to one account.
        store_puts: Requests a second to write, of one prefix.
        frame_mb: Read of one frame: scan and images.
    """

    gpu_tflops: float = 790.0
    gpu_share: float = 0.05
    sam_s: float = 2.0
    clip_s: float = 0.02
    link_gb_s: float = 10.0
    cores: int = 12
    price: float = 4.0
    spot_price: float = 1.6
    boot_s: float = 240.0
    wave: int = 8
    losses: float = 0.02
    redo_frames: int = 32
    store_gb_s: float = 12.5
    store_puts: float = 3500.0
    frame_mb: float = 3.0


def main() -> int:
    args = _arguments()
    found = measured(args.results, args.backbone, args.method)
    assumed = Assumed(**{name: getattr(args, name) for name in vars(Assumed())})
    _print_inputs(found, assumed)
    faults = _print_gpu_steps(args, found)
    ledger = Ledger(args.json)
    key = {"backbone": args.backbone, "method": args.method, **{f"assumed_{k}": v for k, v in vars(assumed).items()}}
    rows = [ledger.measure({**key, "what": "train", "gpus": n}, lambda n=n: training(found, assumed, n)) for n in GPUS]
    print(f"\ntraining {args.method} on {args.backbone}: {STEPS} steps of {SCANS} + {SCANS} scans")
    _table(rows, ("gpus", "used", "step_s", "wall_h", "cost"))
    prepared = [
        ledger.measure({**key, "what": "prepare", "gpus": n}, lambda n=n: preparing(found, assumed, n)) for n in GPUS
    ]
    print(f"\nprepare of {NUSCENES_FRAMES} frames of {CAMERAS} images, on nodes that are there")
    _table(prepared, ("gpus", "wall_h", "cost", "limit"))
    sizes = (64, 512) if args.quick else (64, 128, 256, 512, 1024, 2048)
    fleet = [
        ledger.measure({**key, "what": "fleet", "gpus": n}, lambda n=n: fleet_of(found, assumed, n)) for n in sizes
    ]
    print(f"\nprepare of {FLEET_FRAMES} frames on spot nodes, simulated")
    _table(fleet, ("gpus", "wall_h", "cost", "lost_nodes", "redone", "limit"))
    faults += [
        *_slower(rows),
        *_slower(prepared),
        *(f"{row['gpus']} nodes: {row['fault']}" for row in fleet if row["fault"]),
    ]
    for fault in faults:
        print(f"FAILED: {fault}")
    best = min(fleet, key=lambda row: row["wall_h"])
    print(
        f"full nuScenes: {rows[3]['wall_h']:.1f} h and {rows[3]['cost']:.0f} on 8 GPUs; {FLEET_FRAMES / 1e6:.0f} M "
        f"frames: {best['wall_h']:.1f} h and {best['cost']:.0f} on {best['gpus']} nodes, held up by {best['limit']}"
    )
    return 1 if faults else 0


def measured(folder: Path, backbone: str, method: str) -> Measured:
    """The figures of the committed results.

    Raises:
        LookupError: A file holds no row of this kind.
    """

    def rows(name: str, **wanted: object) -> list[Row]:
        found = [
            r
            for r in json.loads((folder / f"{name}.json").read_text())
            if all(r.get(k) == v for k, v in wanted.items())
        ]
        if not found:
            raise LookupError(f"{folder}/{name}.json holds no row with {wanted}: run python -m tests.bench.{name}")
        return found

    cost = rows("cost", backbone=backbone, method=method)[0]
    rates = [row["gflop"] / row["step_s"] for row in rows("step", backbone=backbone, of="now")]
    pipeline = rows("prepare", way="pipeline", workers=1)
    (decode,), (steps,) = rows("ingest", what="decode"), rows("ingest", what="steps")
    return Measured(
        step_s=cost["step_s"],
        width=cost["width"],
        gflops=median(rates),
        parameters=cost["parameters"],
        prepare_s=median(row["cpu_s"] for row in pipeline),
        decode_s=decode["ours"] / 1e3,
        rows_per_s=steps["ours"],
        ray_s=median(row["ray_s"] for row in pipeline),
    )


def gpu_steps(folder: Path, found: Measured, method: str, host: Host) -> list[Row]:
    """Predicted steps of MinkUNet at full width with the launches of today and of 6209cd2, as far as counted."""
    gflop = found.step_s * found.gflops / found.width**2 / gpu_step.passes(method)
    counted = []
    for code, file in ((BEFORE, "launches_before.json"), (NOW, "launches.json")):
        rows = json.loads((folder / file).read_text())
        counted += [(code, row) for row in rows if row["backbone"] == "minkunet" and row["width"] == 1]
    return gpu_step.table(counted, host, gflop)


def training(found: Measured, assumed: Assumed, gpus: int) -> Row:
    """Wall time and cost of the whole schedule; the global batch is fixed, so no more GPUs than scans are of use."""
    used = min(gpus, SCANS)
    growth = 1 / found.width**2  # channels count twice in a convolution
    gflop = found.step_s * found.gflops * growth
    compute_s = math.ceil(SCANS / used) * gflop / (1e3 * assumed.gpu_tflops * assumed.gpu_share)
    reduce_s = 2 * (used - 1) / used * 4 * found.parameters * growth / (assumed.link_gb_s * 1e9)
    read_s = 2 * math.ceil(SCANS / used) / (found.rows_per_s * assumed.cores)
    step_s = max(compute_s + reduce_s, read_s)
    wall_h = (STEPS * step_s + found.ray_s) / 3600
    return {"used": used, "step_s": step_s, "wall_h": wall_h, "cost": wall_h * used * assumed.price}


def preparing(found: Measured, assumed: Assumed, gpus: int) -> Row:
    """Masks and features of all images on nodes that are there, without losses."""
    limits = _rates(found, assumed, gpus)
    limit = min(limits, key=lambda name: limits[name])
    wall_h = (NUSCENES_FRAMES / limits[limit] + found.ray_s) / 3600
    return {"wall_h": wall_h, "cost": wall_h * gpus * assumed.price, "limit": limit}


def _rates(found: Measured, assumed: Assumed, nodes: float) -> dict[str, float]:
    """Frames a second that each part lets through."""
    return {
        "the teachers' GPUs": nodes / (CAMERAS * (assumed.sam_s + assumed.clip_s)),
        "cores beside them": nodes * assumed.cores / (found.decode_s + found.prepare_s),
        "the store's bandwidth": assumed.store_gb_s * 1e3 / assumed.frame_mb,
        "the store's requests": assumed.store_puts,
    }


def fleet_of(found: Measured, assumed: Assumed, nodes: int) -> Row:
    """Minute by minute: an autoscaler that asks in waves, nodes that come late and go, one store for all."""
    done, redone, lost, computed, running, node_h, minute = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0
    coming: list[tuple[int, float]] = []
    held_up: dict[str, int] = {}
    while done < FLEET_FRAMES:
        asked = running + sum(count for _, count in coming)
        if asked < nodes:
            coming.append((minute + math.ceil(assumed.boot_s / 60), min(nodes - asked, max(assumed.wave, running))))
        running += sum(count for at, count in coming if at <= minute)
        coming = [(at, count) for at, count in coming if at > minute]
        limits = _rates(found, assumed, running)
        limit = min(limits, key=lambda name: limits[name]) if running >= nodes * 0.9 else "nodes that are to come"
        held_up[limit] = held_up.get(limit, 0) + 1
        gone, made = running * assumed.losses / 60, min(limits.values()) * 60
        again = min(gone * assumed.redo_frames, done)
        done, computed, redone, lost = done + made - again, computed + made, redone + again, lost + gone
        node_h, running, minute = node_h + running / 60, running - gone, minute + 1
    wall_h, bound_h = minute / 60, FLEET_FRAMES / min(_rates(found, assumed, nodes).values()) / 3600
    is_whole = math.isclose(computed, done + redone, rel_tol=1e-9) and wall_h >= bound_h - 1 / 60
    fault = "" if is_whole else "frames were lost or invented"
    figures = {"wall_h": wall_h, "bound_h": bound_h, "cost": node_h * assumed.spot_price, "lost_nodes": round(lost)}
    return {**figures, "redone": round(redone), "limit": max(held_up, key=lambda name: held_up[name]), "fault": fault}


def _slower(rows: Sequence[Row]) -> list[str]:
    pairs = itertools.pairwise(rows)
    return [
        f"{b['what']} on {b['gpus']} GPUs is slower than on {a['gpus']}" for a, b in pairs if b["wall_h"] > a["wall_h"]
    ]


def _print_gpu_steps(args: argparse.Namespace, found: Measured) -> list[str]:
    if args.backbone != "minkunet":
        return []
    host = Host(**{name: getattr(args, name) for name in vars(Host())})
    rows = gpu_steps(args.results, found, args.method, host)
    print("\na step of MinkUNet18 on one GPU, predicted; assumed (flags): ", end="")
    print(", ".join(f"{name} {value:g}" for name, value in vars(host).items()))
    _table(rows, ("method", "code", "gpu", "engine", "kernels_ms", "host_ms", "step_ms", "held_up_by"))
    return gpu_step.slower_than_before(rows)


def _table(rows: Sequence[Row], names: Sequence[str]) -> None:
    print_table(names, [[_shown(row[name]) for name in names] for row in rows])


def _shown(value: object) -> object:
    if not isinstance(value, float):
        return value
    return f"{value:.3g}" if value < 100 else f"{value:,.0f}"


def _print_inputs(found: Measured, assumed: Assumed) -> None:
    print("measured (results/, one core of this machine): " + ", ".join(f"{k} {v:.4g}" for k, v in vars(found).items()))
    print("assumed (flags): " + ", ".join(f"{k} {v:g}" for k, v in vars(assumed).items()))


def _arguments() -> argparse.Namespace:
    flags = parser(__doc__.splitlines()[0])
    flags.add_argument("--method", default="lasermix")
    flags.add_argument("--backbone", default="minkunet")
    flags.add_argument("--results", type=Path, default=RESULTS)
    for name, value in (vars(Assumed()) | vars(Host())).items():
        flags.add_argument(f"--{name.replace('_', '-')}", type=type(value), default=value, help="assumed")
    return flags.parse_args()


if __name__ == "__main__":
    sys.exit(main())
