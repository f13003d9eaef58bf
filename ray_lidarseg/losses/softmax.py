"""Softmax that never loses bits to mixed precision."""

import torch
from jaxtyping import Float
from torch import Tensor


def class_probabilities(logits: Float[Tensor, "... C"]) -> Float[Tensor, "... C"]:
    """Softmax over the last axis, in float32 at least: bfloat16 cannot tell a confidence of 0.997 from 1."""
    return logits.softmax(dim=-1, dtype=torch.promote_types(logits.dtype, torch.float32))
