"""A step on an A100, an H100 and an H200, on paper: counted launches and waits, and published times of kernels.

Part of `tests.bench.scaling`. A step takes what its kernels or the host that starts them take, whichever is more; at
every wait the device runs empty and the host starts anew:

    step = max(kernels, launches x launch_us) + waits x wait_us

Kernels: forward and backward of MinkUNet18 in float16, 420,000 voxels on an RTX 6000 Ada, published by WarpConvNet
beside spconv. Sparse layers of 32 to 256 channels read and write memory more than they multiply, so a time goes to
another GPU by the ratio of bandwidths, never below what the products take at the published peak. A forward alone is a
third. Bandwidths and peaks are the makers' (SXM modules, dense, float32 sums). Losses, mixing and augmentation are in
the launches and not in the kernels: their tensors are small beside 40 layers.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from tests.bench.cost import FORWARDS
from tests.bench.ledger import Row

PUBLISHED_S = {"spconv": 0.667, "warpconvnet": 0.289}
"""Forward and backward of MinkUNet18 over ``PUBLISHED_VOXELS`` on ``PUBLISHED_ON`` (WarpConvNet's repository)."""
PUBLISHED_VOXELS = 420_000
FORWARD_SHARE = 1 / 3
NOW, BEFORE = "now", "6209cd2"
"""Whose launches and waits."""


@dataclass(frozen=True)
class Gpu:
    """What its maker says.

    Attributes:
        tb_per_s: Memory bandwidth.
        tflops: Dense float16 products with float32 sums.
    """

    tb_per_s: float
    tflops: float


PUBLISHED_ON = Gpu(0.96, 182.0)  # RTX 6000 Ada
GPUS = {"A100": Gpu(2.04, 312.0), "H100": Gpu(3.35, 989.0), "H200": Gpu(4.8, 989.0)}


@dataclass(frozen=True)
class Host:
    """What nobody measured here.

    Attributes:
        launch_us: Of the host for one kernel: eager torch with its graph for the backward pass.
        wait_us: From the end of the device's queue to the next kernel, at each wait.
        pairs: Pairs of scans, labelled and unlabelled, of a step on one GPU: the authors' 2 + 2.
        voxels: Of a scan: those of the world's at 0.1 m.
    """

    launch_us: float = 6.0
    wait_us: float = 20.0
    pairs: int = 2
    voxels: int = 17_600


def passes(method: str) -> float:
    """Forwards with their backward pass that a pair of scans takes; the teacher's are ``FORWARD_SHARE`` each."""
    students, teachers = FORWARDS[method]
    return students + FORWARD_SHARE * teachers


def predicted(counted: Row, gpu: Gpu, engine: str, host: Host, gflop: float = 0.0) -> Row:
    """Seconds of a step.

    Args:
        counted: Its ``method``, ``waits`` and ``launches``; they hardly grow with the number of scans.
        gpu: Where.
        engine: Whose kernels, of ``PUBLISHED_S``.
        host: What is assumed.
        gflop: Forward and backward of one scan, for the least time its products take.
    """
    scans = host.pairs * passes(counted["method"])
    a_voxel_s = PUBLISHED_S[engine] / PUBLISHED_VOXELS * PUBLISHED_ON.tb_per_s / gpu.tb_per_s
    kernels_s = scans * max(host.voxels * a_voxel_s, gflop / (1e3 * gpu.tflops))
    host_s = 1e-6 * counted["launches"] * host.launch_us
    step_s = max(kernels_s, host_s) + 1e-6 * counted["waits"] * host.wait_us
    held_up_by = "kernels" if kernels_s >= host_s else "launches"
    return {"kernels_ms": 1e3 * kernels_s, "host_ms": 1e3 * host_s, "step_ms": 1e3 * step_s, "held_up_by": held_up_by}


def table(counted: Sequence[tuple[str, Row]], host: Host, gflop: float) -> list[Row]:
    """Every GPU and engine for every count.

    Args:
        counted: Which code, and its row of `tests.bench.launches`.
        host: What is assumed.
        gflop: As in ``predicted``.
    """
    return [
        {"method": row["method"], "code": code, "gpu": name, "engine": engine}
        | predicted(row, gpu, engine, host, gflop)
        for code, row in counted
        for name, gpu in GPUS.items()
        for engine in PUBLISHED_S
    ]


def slower_than_before(rows: Sequence[Row]) -> list[str]:
    """Predictions in which the code of today loses to that of before, in words."""
    known = {tuple(row[key] for key in ("method", "gpu", "engine", "code")): row["step_ms"] for row in rows}
    pairs = [(key, value, known.get((*key[:3], BEFORE))) for key, value in known.items() if key[3] == NOW]
    return [
        f"{method} on {gpu} with {engine}: {now:.0f} ms, before {before:.0f} ms"
        for (method, gpu, engine, _), now, before in pairs
        if before is not None and now > before
    ]
