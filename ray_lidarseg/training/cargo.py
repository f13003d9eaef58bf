"""Nested objects with all their tensors in one buffer a type: few to hand from process to process, one copy to a GPU.

A batch's geometry is some fifty tensors. One by one each would take a file of its own on its way out of a loader
process, and a copy and a launch on its way to a device.
"""

from collections import defaultdict
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

import torch
from torch import Tensor

from ray_lidarseg.sparse.geometry import VoxelGeometry


@dataclass(frozen=True)
class _Slot:
    """Where a tensor lies in the buffer of its type."""

    dtype: torch.dtype
    start: int
    shape: tuple[int, ...]


@dataclass(frozen=True)
class _Made:
    """An object of a class that is made of its parts."""

    kind: type
    parts: dict[str, Any]


@dataclass(frozen=True)
class Cargo:
    """See the module.

    Attributes:
        buffers: By type, all tensors one after the other.
        plan: The object, with slots in place of tensors.
    """

    buffers: dict[torch.dtype, Tensor]
    plan: Any

    @property
    def num_bytes(self) -> int:
        """What travels."""
        return sum(buffer.nbytes for buffer in self.buffers.values())

    def pin_memory(self) -> "Cargo":
        """In memory that a GPU reads by itself; ``DataLoader`` calls it in a thread of its own."""
        return Cargo({dtype: buffer.pin_memory() for dtype, buffer in self.buffers.items()}, self.plan)

    def to(self, device: torch.device) -> "Cargo":
        """One copy a type; from pinned memory it runs behind."""
        moved = {dtype: buffer.to(device, non_blocking=True) for dtype, buffer in self.buffers.items()}
        return Cargo(moved, self.plan)

    def opened(self) -> Any:
        """The object; its tensors are views of the buffers."""
        return _opened(self.plan, self.buffers)


def stowed(content: Any) -> Cargo:
    """Tensors in lists, tuples, dictionaries, data classes and voxel geometries; what occurs twice is stowed once.

    What a data class has computed and kept beside its fields is left behind.
    """
    found: dict[torch.dtype, list[Tensor]] = defaultdict(list)
    known: dict[int, Any] = {}
    plan = _stowed(content, found, known, defaultdict(int))
    return Cargo({dtype: torch.cat(tensors) for dtype, tensors in found.items()}, plan)


def _stowed(content: Any, found: dict[torch.dtype, list[Tensor]], known: dict[int, Any], ends: dict[Any, int]) -> Any:
    if id(content) in known:
        return known[id(content)]
    more = lambda part: _stowed(part, found, known, ends)  # noqa: E731
    if isinstance(content, Tensor):
        made: Any = _Slot(content.dtype, ends[content.dtype], tuple(content.shape))
        found[content.dtype].append(content.reshape(-1))
        ends[content.dtype] += content.numel()
    elif isinstance(content, VoxelGeometry):
        made = _Made(VoxelGeometry, {name: more(part) for name, part in vars(content).items()})
    elif is_dataclass(content) and not isinstance(content, type):
        made = _Made(type(content), {one.name: more(getattr(content, one.name)) for one in fields(content)})
    elif isinstance(content, dict):
        made = {key: more(part) for key, part in content.items()}
    elif isinstance(content, list | tuple):
        made = type(content)(more(part) for part in content)
    else:
        return content
    known[id(content)] = made
    return made


def _opened(plan: Any, buffers: dict[torch.dtype, Tensor]) -> Any:
    more = lambda part: _opened(part, buffers)  # noqa: E731
    if isinstance(plan, _Slot):
        size = torch.Size(plan.shape).numel()
        return buffers[plan.dtype][plan.start : plan.start + size].view(plan.shape)
    if isinstance(plan, _Made):
        made: Any = object.__new__(plan.kind)
        for name, part in plan.parts.items():
            object.__setattr__(made, name, more(part))  # checked when they were made; data classes are frozen
        return made
    if isinstance(plan, dict):
        return {key: more(part) for key, part in plan.items()}
    return type(plan)(more(part) for part in plan) if isinstance(plan, list | tuple) else plan
