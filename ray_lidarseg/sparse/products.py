"""Matrix products on CPUs: which library computes them, decided in one place, by the processor and not by a clock.

Torch gives float32 products to MKL, which takes its slow path on processors that are not Intel's (about 40 % of what
the other library in torch, oneDNN, reaches on an AMD EPYC; tests/bench/results/step.json). Torch's own switch,
``torch.backends.mkldnn.matmul.fp32_precision``, hands them to oneDNN. Its value ``bf16`` allows oneDNN to round inside,
which it does on processors with AMX only; elsewhere the products are plain float32. So the error is looked at, and the
switch is only ever on inside ``fast()``. Speeds are measured for `doctor`, and decide nothing: the libraries differ in
the last bit, and two processes of a loaded machine, or a worker and the one that replaces it, took different ones.

oneDNN compiles a kernel for every shape it meets (about half a millisecond, as long as the product itself), and no two
scans have as many voxels. So rows are multiplied a fixed number at a time, in the few sizes ``padded_rows`` gives.
"""

import math
import platform
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ray_lidarseg.sparse import mkl_switch

Library = Literal["MKL", "oneDNN"]

BLOCK_ROWS = 4096
"""Rows multiplied at a time: 1 MiB at 64 float32 channels (ours, measured with tests/bench/sparse_conv.py)."""

_STEP_ROWS = 256  # sizes of blocks are multiples of this, so there are 16; ours
_SMALL_STEP_ROWS = 64  # of blocks of up to 256 rows
_LARGEST_ERROR = 1e-6  # relative, of float32 sums of 64 to 4096 products; rounding to bfloat16 inside gives 2e-3
_ROUNDS = 5

_state = threading.Lock()
_depth = 0
_before = "none"
_thread = threading.local()


@dataclass(frozen=True)
class Products:
    """How this process multiplies matrices on the CPU.

    Attributes:
        float32: The library that computes float32 products inside ``fast()``.
        mkl_gflops: Speed of torch's own choice: 10⁹ float32 operations a CPU second of one thread, for 4096 rows of 64
            channels in the three products of a training step.
        onednn_gflops: The same with torch's switch set; 0 where this torch has no such switch.
        onednn_error: Relative error of the products with the switch set; float32 has about 1e-7.
        bf16_gflops: The same in bfloat16, which oneDNN always computes.
    """

    float32: Library
    mkl_gflops: float
    onednn_gflops: float
    onednn_error: float
    bf16_gflops: float

    @property
    def float32_gflops(self) -> float:
        """Speed of the library taken."""
        return self.onednn_gflops if self.float32 == "oneDNN" else self.mkl_gflops


@cache
def measured() -> Products:
    """Chooses, and measures, on the first call, about 50 ms; every process of a machine chooses the same library."""
    mkl = onednn = 0.0
    error = math.inf
    for _ in range(2):  # in turn: the machine is shared
        mkl = max(mkl, _gflops(torch.float32))
        if torch.backends.mkldnn.is_available() and hasattr(_switch(), "fp32_precision"):
            with _switched():
                onednn, error = max(onednn, _gflops(torch.float32)), _error()
    is_better = error <= _LARGEST_ERROR and _mkl_is_slow()
    return Products("oneDNN" if is_better else "MKL", mkl, onednn, error, _gflops(torch.bfloat16))


def _mkl_is_slow() -> bool:
    """Whether MKL is what torch computes with and takes its slow path: the processor is not Intel's, and it knows."""
    return torch.backends.mkl.is_available() and not mkl_switch.is_on and not is_intel()


@cache
def is_intel() -> bool:
    """Whether the processor is Intel's, as far as the system says."""
    try:
        return "GenuineIntel" in Path("/proc/cpuinfo").read_text()
    except OSError:  # not Linux
        return "intel" in f"{platform.processor()} {platform.machine()}".lower()


@cache
def bf16_gain(channels: int) -> float:
    """How many times faster bfloat16 products of this many channels are than float32 ones; measured once a process."""
    with fast():
        return _gflops(torch.bfloat16, channels) / _gflops(torch.float32, channels)


@contextmanager
def fast() -> Iterator[None]:
    """Products inside the block are computed by the library that ``measured`` chose; outside nothing changes."""
    if measured().float32 == "MKL":
        yield
        return
    with _switched():
        yield


@contextmanager
def _switched() -> Iterator[None]:
    """Torch's switch, which is one for the whole process: counted, as backward passes run in threads of their own."""
    global _depth, _before
    matmul = _switch()
    with _state:
        if not _depth:
            _before = matmul.fp32_precision
            matmul.fp32_precision = "bf16"
        _depth += 1
    try:
        yield
    finally:
        with _state:
            _depth -= 1
            if not _depth:
                matmul.fp32_precision = _before


def _switch() -> Any:
    """What holds torch's switch; older versions have None, or something without ``fp32_precision``."""
    return getattr(torch.backends.mkldnn, "matmul", None)


def _operands(dtype: torch.dtype, rows: int, channels: int) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    sizes = (rows, channels), (channels, channels), (rows, channels)
    x, weight, error = (torch.randn(size, generator=generator).to(dtype) for size in sizes)
    return x, weight, error


@torch.no_grad()
def _gflops(dtype: torch.dtype, channels: int = 64) -> float:
    """Forward, input-gradient and weight-gradient product together; the best of a few rounds, the machine is shared."""
    x, weight, error = _operands(dtype, BLOCK_ROWS, channels)
    buffers = torch.empty_like(x), torch.empty_like(x), torch.empty_like(weight)

    def products() -> None:
        torch.mm(x, weight, out=buffers[0])
        torch.mm(error, weight.mT, out=buffers[1])
        torch.mm(x.mT, error, out=buffers[2])

    products()  # compiles
    return 3 * 2 * x.numel() * weight.shape[1] / _least_seconds(products) / 1e9


def _least_seconds(run: Callable[[], None]) -> float:
    taken = []
    for _ in range(_ROUNDS):
        began = time.thread_time()
        run()
        taken.append(time.thread_time() - began)
    return max(min(taken), 1e-9)


@torch.no_grad()
def _error() -> float:
    """The largest relative error of the three products at a small and at a usual size."""
    found = [0.0]
    for rows, channels in ((_STEP_ROWS, 32), (BLOCK_ROWS, 64), (1024, 256)):
        x, weight, error = _operands(torch.float32, rows, channels)
        for left, right in ((x, weight), (error, weight.mT), (x.mT, error)):
            exact = left.double() @ right.double()
            found.append(float((left @ right - exact).norm() / exact.norm()))
    return max(found)


def padded_rows(count: int) -> int:
    """The least of the few sizes blocks have that holds ``count`` rows, at most ``BLOCK_ROWS``."""
    step = _SMALL_STEP_ROWS if count <= _STEP_ROWS else _STEP_ROWS
    return -(-count // step) * step


def scratch(slot: str, like: Tensor, rows: int, columns: int) -> Tensor:
    """[rows, columns] of a buffer for use inside one call, of the type of ``like``; whatever was in it is there still.

    It grows, belongs to this thread, and no result may share its memory. On a CPU fresh temporaries cost more than the
    arithmetic.
    """
    buffers: dict[Any, Tensor] = _thread.__dict__.setdefault("buffers", {})
    key, size = (slot, like.dtype, like.device), rows * columns
    if key not in buffers or len(buffers[key]) < size:
        with torch.inference_mode(False):  # an inference tensor could not be written to in training
            buffers[key] = torch.empty(size, dtype=like.dtype, device=like.device)
    return buffers[key][:size].view(rows, columns)


def times(rows: Float[Tensor, "V C_in"], matrix: Float[Tensor, "C_in C_out"]) -> Float[Tensor, "V C_out"]:
    """``rows @ matrix``: whole blocks of rows, then the rest in a block of its own."""
    out = rows.new_empty(len(rows), matrix.shape[1])
    whole = len(rows) - len(rows) % BLOCK_ROWS
    if whole:
        torch.mm(rows[:whole], matrix, out=out[:whole])
    if rest := len(rows) - whole:
        size = padded_rows(rest)
        block = scratch("block", rows, size, rows.shape[1])
        block[:rest] = rows[whole:]  # what lies behind them makes rows nobody reads
        out[whole:] = torch.mm(block, matrix, out=scratch("product", rows, size, matrix.shape[1]))[:rest]
    return out


def add_transposed_times(
    out: Float[Tensor, "C_in C_out"], rows: Float[Tensor, "V C_in"], errors: Float[Tensor, "V C_out"]
) -> None:
    """Adds ``rowsᵀ @ errors`` to ``out``: whole blocks of rows, then the rest in a block of its own."""
    whole = len(rows) - len(rows) % BLOCK_ROWS
    if whole:
        out.addmm_(rows[:whole].mT, errors[:whole])
    if rest := len(rows) - whole:
        size = padded_rows(rest)
        parts = [scratch(slot, part, size, part.shape[1]) for slot, part in (("block", rows), ("product", errors))]
        for block, part in zip(parts, (rows, errors), strict=True):
            block[:rest] = part[whole:]
            block[rest:] = 0
        out.addmm_(parts[0].mT, parts[1])


def linear(
    rows: Float[Tensor, "V C_in"], weight: Float[Tensor, "C_out C_in"], bias: Float[Tensor, "C_out"] | None = None
) -> Float[Tensor, "V C_out"]:
    """``torch.nn.functional.linear`` of rows whose number differs from scan to scan.

    On a CPU in blocks of rows, by the fastest library, in autocast's type where that is on; compiled, by torch's.
    """
    if rows.device.type != "cpu" or torch.compiler.is_compiling():
        return nn.functional.linear(rows, weight, bias)
    dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else rows.dtype
    result: Tensor = _RowProduct.apply(rows.to(dtype).contiguous(), weight.to(dtype))
    return result if bias is None else result + bias.to(dtype)


class RowLinear(nn.Linear):
    """``torch.nn.Linear`` with ``linear``; same parameters, same result."""

    def forward(self, input: Float[Tensor, "V C_in"]) -> Float[Tensor, "V C_out"]:
        """``input @ weightᵀ + bias``."""
        return linear(input, self.weight, self.bias)


class _RowProduct(torch.autograd.Function):
    """``x @ weightᵀ``."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        with fast():
            return times(x, weight.mT)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None]:
        (x, weight), grad = ctx.saved_tensors, grads[0].contiguous()
        grad_x = grad_weight = None
        with fast():
            if ctx.needs_input_grad[0]:
                grad_x = times(grad, weight)
            if ctx.needs_input_grad[1]:
                grad_weight = torch.zeros_like(weight)
                add_transposed_times(grad_weight, grad, x)
        return grad_x, grad_weight
