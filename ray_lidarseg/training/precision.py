"""Which type a step computes in: float32, or bfloat16 or float16 under autocast with parameters in float32."""

import torch
from torch import nn

from ray_lidarseg.recipe.schema import Recipe
from ray_lidarseg.sparse.build import computes_bfloat16
from ray_lidarseg.sparse.products import bf16_gain

AS_ACCURATE = ("fidnet", "minkunet", "spvcnn", "cylinder3d")
"""Models whose loss in bfloat16 is float32's to 3 % (tests/bench/results/step.json)."""

_LEAST_GAIN = 1.4  # of the products alone; casts and passes over memory take their share of it (ours)
_LEAST_CHANNELS = 48  # in narrower networks those passes, not the products, are the step (ours, tests/bench/step.py)


def precision(recipe: Recipe, device: torch.device, method: nn.Module) -> torch.dtype | None:
    """The type autocast computes in; None is float32, as with ``train.amp`` off.

    ``bf16`` is that on any device. ``auto`` is bf16 on CUDA, or fp16 where the GPU or the sparse backend has no bf16.
    On a CPU it is bf16 where this process measures products as wide as the model's to be clearly faster in it and the
    model is known to be as accurate in it.

    Args:
        recipe: Its ``train.amp`` and ``model``.
        device: Where the step computes.
        method: Its weights say how wide the products are.
    """
    amp = recipe.train.amp
    if amp == "off":
        return None
    if amp == "bf16":
        return torch.bfloat16
    if device.type == "cuda":
        is_sparse = recipe.model.name in ("minkunet", "spvcnn", "cylinder3d")
        if is_sparse and not computes_bfloat16(recipe.sparse.backend):
            return torch.float16
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
    if device.type != "cpu" or recipe.model.name not in AS_ACCURATE:
        return None
    channels = usual_channels(method)
    return torch.bfloat16 if channels >= _LEAST_CHANNELS and bf16_gain(channels) >= _LEAST_GAIN else None


def computes_bf16_natively() -> bool:
    """Whether the processor has instructions for bfloat16 products; without them it is slower than float32."""
    return bool(torch.cpu._is_avx512_bf16_supported())


def slowness(precision: torch.dtype | None, device: torch.device) -> str:
    """A warning in words where a device only imitates the type; empty where it computes in it."""
    if precision != torch.bfloat16 or device.type != "cpu" or computes_bf16_natively():
        return ""
    return (
        "train.amp=bf16 on a processor without bfloat16 products: it imitates them, far slower than it computes in "
        "float32; train.amp=auto or off is faster here"
    )


def usual_channels(module: nn.Module) -> int:
    """Channels of the products most parameters take part in, rounded to a multiple of 16, at most 128.

    The mean over weights, each as often as it has numbers, of the smaller of channels in and channels out.
    """
    shapes = [_channels(weight.shape) for weight in module.parameters() if weight.dim() > 1]
    sizes = [weight.numel() for weight in module.parameters() if weight.dim() > 1]
    mean = sum(size * min(shape) for size, shape in zip(sizes, shapes, strict=True)) / max(sum(sizes), 1)
    return min(128, 16 * round(mean / 16))


def _channels(shape: torch.Size) -> tuple[int, int]:
    """Of a sparse convolution [K, C_in, C_out], a linear layer [C_out, C_in] or a convolution [C_out, C_in, h, w]."""
    return (shape[1], shape[2]) if len(shape) == 3 else (shape[0], shape[1])
