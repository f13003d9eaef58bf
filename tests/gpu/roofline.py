"""The roof a device sets: the least time that a layer's bytes and products take at the rates this device was seen at.

    roof = max(bytes that must be moved / copy rate, floating-point operations / rate of a large product)

Bytes are those nobody can spare, whatever the algorithm: every operand read once, every result written once, each pair
of rows named once by two int32. Rates are measured, not read from a data sheet, so that what is left to the roof is the
layer's own. Source: Williams et al., "Roofline" (CACM 2009).
"""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from ray_lidarseg.sparse.kernel_map import KernelMap

_PAIR_BYTES = 8
_ROUNDS = 5


@dataclass(frozen=True)
class Roof:
    """Rates of a device.

    Attributes:
        bytes_per_s: Read and written by a copy of a tensor much larger than any cache.
        flops: Operations a second of a square product, by type.
    """

    bytes_per_s: float
    flops: dict[torch.dtype, float]

    def seconds(self, num_bytes: float, num_flops: float, dtype: torch.dtype) -> float:
        """The least time for so much."""
        return max(num_bytes / self.bytes_per_s, num_flops / self.flops[dtype])


def measure(device: torch.device, dtypes: tuple[torch.dtype, ...], is_small: bool) -> Roof:
    """Takes a second on a GPU; small is for CPUs."""
    num_numbers, side = (1 << 24, 1024) if is_small else (1 << 29, 8192)
    source = torch.zeros(num_numbers, device=device)
    target = torch.empty_like(source)
    copied = 2 * source.numel() * source.element_size() / seconds(lambda: target.copy_(source), device, _ROUNDS)
    flops = {}
    for dtype in dtypes:
        left = torch.randn(side, side, device=device, dtype=dtype)
        flops[dtype] = 2 * side**3 / seconds(lambda x=left: x @ x, device, _ROUNDS)
    return Roof(copied, flops)


def seconds(work: Callable[[], Any], device: torch.device, rounds: int) -> float:
    """Median wall time, after one round that warms up."""
    taken = []
    for _ in range(rounds + 1):
        began = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize()
        taken.append(time.perf_counter() - began)
    return statistics.median(taken[1:])


def cost(pairs: KernelMap, channels: tuple[int, int], dtype: torch.dtype, trains: bool) -> tuple[float, float]:
    """Bytes and operations of a sparse convolution.

    Forward reads x, weight and pairs and writes the output. Backward reads x, weight, the output's gradient and the
    pairs, and writes the gradients of x and weight, with twice the forward's products.

    Args:
        pairs: Of the layer.
        channels: In and out.
        dtype: Of all operands.
        trains: Whether the backward pass belongs to it.
    """
    width_in, width_out = channels
    x, out, weight = pairs.num_in * width_in, pairs.num_out * width_out, pairs.num_offsets * width_in * width_out
    listed = len(pairs.src) * _PAIR_BYTES
    num_bytes, num_flops = (x + out + weight) * dtype.itemsize + listed, 2 * pairs.num_products * width_in * width_out
    if trains:
        num_bytes += (2 * x + out + 2 * weight) * dtype.itemsize + listed
        num_flops *= 3
    return num_bytes, num_flops
