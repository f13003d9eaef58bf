"""Images as network input: squashed to one size on the device, normalised; and the precision networks run in."""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.nn import functional

from ray_lidarseg.errors import DataError

_MODES = ("bicubic", "bilinear")
_CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)  # OpenAI's, and open_clip's default
_CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


@dataclass(frozen=True)
class Preprocess:
    """What the image tower expects.

    Attributes:
        mean: Of each channel, in [0, 1].
        std: Of each channel.
        interpolation: ``bicubic`` or ``bilinear``.
    """

    mean: tuple[float, ...] = _CLIP_MEAN
    std: tuple[float, ...] = _CLIP_STD
    interpolation: str = "bicubic"


def image_tensor(
    images: Sequence[np.ndarray],
    size_px: tuple[int, int],
    preprocess: Preprocess,
    device: torch.device,
) -> Float[Tensor, "B 3 h w"]:
    """Images of any sizes as one batch.

    Resizing filters against aliasing and rounds to whole grey levels, as Pillow does, whose result it meets within one
    level; on a CUDA device it happens there, so that a CPU core feeds a GPU fast enough.

    Args:
        images: uint8 [H, W, 3] RGB.
        size_px: h, w.
        preprocess: Of the checkpoint; a resizing other than bilinear means bicubic.
        device: Where the batch shall be.

    Raises:
        DataError: An image is not uint8 [H, W, 3].
    """
    mode = preprocess.interpolation if preprocess.interpolation in _MODES else _MODES[0]
    batch = torch.cat([_resized(_checked(image), size_px, mode, device) for image in images])
    mean = torch.tensor(preprocess.mean, device=device).reshape(1, 3, 1, 1)
    std = torch.tensor(preprocess.std, device=device).reshape(1, 3, 1, 1)
    return (batch / 255 - mean) / std


def precision_of(precision: str, device: torch.device) -> AbstractContextManager[object]:
    """Automatic bfloat16 where the settings want it: ``auto`` means on a CUDA device."""
    if precision == "bf16" or (precision == "auto" and device.type == "cuda"):
        return torch.autocast(device.type, torch.bfloat16)
    return nullcontext()


def _resized(
    image: UInt8[np.ndarray, "H W 3"], size_px: tuple[int, int], mode: str, device: torch.device
) -> Float[Tensor, "1 3 h w"]:
    pixels = torch.from_numpy(np.require(image, requirements=["C", "W"])).to(device).permute(2, 0, 1)[None]
    if device.type != "cpu":  # resizing of uint8 exists on CPUs only
        pixels = pixels.float()
    resized = functional.interpolate(pixels, size=size_px, mode=mode, antialias=True, align_corners=False)
    return resized.float().round().clamp(0, 255)


def _checked(image: np.ndarray) -> UInt8[np.ndarray, "H W 3"]:
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
        raise DataError(f"expected an RGB image, uint8 [H, W, 3], got {image.dtype} {list(image.shape)}")
    return image
