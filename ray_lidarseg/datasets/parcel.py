"""Micro-batches on their way out of a loader process: whole numbers in the smallest type that holds them.

Labels, scans and segments are int64 where models compute, and few bits of them say anything: a point of a scan travels
in 18 bytes instead of 32.
"""

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from ray_lidarseg.sample import PointBatch, RayBatch

_SMALL = (torch.uint8, torch.int16, torch.int32)


@dataclass(frozen=True)
class _Narrow:
    """An int64 tensor in a smaller type."""

    values: Tensor


@dataclass(frozen=True)
class _Fields:
    """A batch, field by field."""

    kind: Callable[..., Any]
    values: dict[str, Any]


def packed(content: Any) -> Any:
    """Lists, tuples and dictionaries of batches, each int64 tensor in them as small as its values allow."""
    if isinstance(content, Tensor):
        return _narrow(content) if content.dtype == torch.int64 else content
    if isinstance(content, PointBatch | RayBatch):
        return _Fields(type(content), {one.name: packed(getattr(content, one.name)) for one in fields(content)})
    return _each(content, packed)


def unpacked(content: Any) -> Any:
    """The inverse of ``packed``."""
    if isinstance(content, _Narrow):
        return content.values.long()
    if isinstance(content, _Fields):
        return content.kind(**{name: unpacked(value) for name, value in content.values.items()})
    return _each(content, unpacked)


def _each(content: Any, change: Callable[[Any], Any]) -> Any:
    if isinstance(content, dict):
        return {name: change(value) for name, value in content.items()}
    return type(content)(change(value) for value in content) if isinstance(content, list | tuple) else content


def _narrow(tensor: Tensor) -> Tensor | _Narrow:
    low, high = (int(end) for end in torch.aminmax(tensor)) if tensor.numel() else (0, 0)
    for kind in _SMALL:
        if torch.iinfo(kind).min <= low and high <= torch.iinfo(kind).max:
            return _Narrow(tensor.to(kind))
    return tensor
