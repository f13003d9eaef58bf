"""A GPU to pretend with: whole training steps as if on ``cuda`` on a machine without one, and what would stall it.

A tensor that says it lives on ``cuda:0`` holds a CPU tensor, which every operator computes with. Operators are refused
as CUDA refuses them where tensors of two devices meet, and counted by the line of the package they come from:

*waits*: the host waits for all that the device was given. ``item``, ``tolist``, copies to the host and copies from it
that may not run behind (``torch.tensor(…, device="cuda")`` is one), and operators whose result has as many rows as the
device found: ``nonzero``, boolean indexing, ``unique``, ``bincount``, ``repeat_interleave`` without a size, checks
inside ``segment_reduce``.
*launches*: operators that start a kernel; views and fresh memory start none. One with several kernels counts once.

To the C++ half of torch the tensors are on ``meta``, a device whose backward pass runs in the calling thread and asks
for no stream, so gradients and optimisers work. Autocast knows no such device: precision stays float32.
"""

import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch.optim import optimizer
from torch.utils import _foreach_utils
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

import ray_lidarseg

_PACKAGE = f"{Path(ray_lidarseg.__file__).parent}/"
_DEVICE = torch.device("cuda", 0)
_WAIT = {"_local_scalar_dense", "nonzero", "equal", "is_nonzero", "masked_select", "bincount"}
_WAIT |= {"_unique2", "unique_consecutive", "unique_dim"}
_WAIT_UNLESS = {"repeat_interleave": "output_size", "segment_reduce": "unsafe"}
_COPIES = {"_to_copy", "copy_"}
_INDEXED = {"index", "index_put", "index_put_", "_index_put_impl_"}
_NO_KERNEL = {"empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided", "lift_fresh", "_unsafe_view"}
_NO_KERNEL |= {"_local_scalar_dense", "detach", "detach_", "set_"}


@dataclass
class Counts:
    """Waits and launches by ``file:line`` of the package; what no line of it caused is under ``elsewhere``."""

    waits: Counter[str] = field(default_factory=Counter)
    launches: Counter[str] = field(default_factory=Counter)

    def table(self, rows: int = 12) -> str:
        """Totals, and the lines with the most of each."""
        lines = [f"{self.waits.total()} waits, {self.launches.total()} launches"]
        for name in ("waits", "launches"):
            lines += [f"  {name:9}{count:6}  {place}" for place, count in getattr(self, name).most_common(rows)]
        return "\n".join(lines)


class OnDevice(torch.Tensor):
    """Says that it is on the device; its numbers are in ``inside``."""

    inside: torch.Tensor

    @staticmethod
    def __new__(cls, inside: torch.Tensor) -> "OnDevice":
        form = {"strides": inside.stride(), "storage_offset": inside.storage_offset(), "dtype": inside.dtype}
        self = torch.Tensor._make_wrapper_subclass(cls, inside.shape, device="meta", **form)
        self.inside = inside
        return self

    device = property(lambda self: _DEVICE)
    is_cuda = property(lambda self: True)
    is_cpu = is_meta = property(lambda self: False)

    def __repr__(self, **_: Any) -> str:
        return f"OnDevice({self.inside!r})"

    def __format__(self, spec: str) -> str:
        return format(self.item(), spec)

    def tolist(self) -> Any:
        return self.cpu().tolist()

    def numpy(self, **_: Any) -> Any:
        raise TypeError("can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() first.")

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(Counts(), func, args, kwargs or {})


class _Mode(TorchDispatchMode):
    def __init__(self, seen: Counts) -> None:
        super().__init__()
        self.seen = seen

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(self.seen, func, args, kwargs or {})


@contextmanager
def pretending() -> Iterator[Counts]:
    """Inside, ``cuda`` is a device that ``.to``, factories, steps and optimisers can use; yields what was counted."""
    seen = Counts()
    torch._C._ensureCUDADeviceGuardSet()
    replaced: list[tuple[Any, str, Any]] = [
        (torch.cuda, "_lazy_init", lambda: None),
        (torch, "tensor", partial(_tensor, torch.tensor)),
        (torch.Tensor, "new_tensor", _new_tensor),
        (torch._C, "_InferenceMode", lambda mode: torch.no_grad()),  # of tensors with another inside torch has no views
        # optimisers and clipping do all tensors at once on a GPU
        *((module, "_foreach_supported_types", [OnDevice]) for module in (_foreach_utils, optimizer)),
        *(
            (module, "_get_foreach_kernels_supported_devices", lambda: ["cuda", "meta"])
            for module in (_foreach_utils, optimizer)
        ),
    ]
    with ExitStack() as stack:
        for owner, name, value in replaced:
            stack.enter_context(mock.patch.object(owner, name, value))
        stack.enter_context(_Mode(seen))
        yield seen


def _tensor(make: Callable[..., torch.Tensor], data: Any, *, device: Any = None, **rest: Any) -> torch.Tensor:
    made = make(data, **rest)
    return made.to(device) if _is_here(device) else made


def _new_tensor(self: torch.Tensor, data: Any, *, dtype: Any = None, device: Any = None) -> torch.Tensor:
    return torch.tensor(data, dtype=dtype or self.dtype, device=device or self.device)


def _is_here(device: Any) -> bool:
    return device is not None and torch.device(device).type in ("cuda", "meta")


def _run(seen: Counts, func: Any, args: Any, kwargs: Any) -> Any:
    """Checks, counts and computes one operator."""
    name = func._schema.name.removeprefix("aten::")
    tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
    mine = [tensor for tensor in tensors if isinstance(tensor, OnDevice)]
    away = [tensor for tensor in tensors if not isinstance(tensor, OnDevice) and tensor.dim()]
    if mine and away and name not in _COPIES and not (name in _INDEXED and isinstance(args[0], OnDevice)):
        kinds = ", ".join(f"{tensor.device}{list(tensor.shape)}" for tensor in tensors)
        raise RuntimeError(f"Expected all tensors to be on the same device, got {name} of {kinds}")
    stays = _is_here(kwargs["device"]) if kwargs.get("device") is not None else bool(mine)
    if name == "_to_copy" and mine and stays and kwargs.get("dtype") in (None, args[0].dtype):
        return args[0]  # the C++ half asks for a copy from meta to cuda, which are one device here
    if mine or stays:
        _count(seen, func, name, args, kwargs, tensors, stays)
    kwargs = {
        key: torch.device("cpu") if key == "device" and value is not None else value for key, value in kwargs.items()
    }
    outside = {id(tensor.inside): tensor for tensor in mine}
    result = func(*tree_map(_inside, args), **tree_map(_inside, kwargs))

    def wrapped(value: Any) -> Any:
        if not isinstance(value, torch.Tensor) or id(value) in outside:
            return outside.get(id(value), value)
        return OnDevice(value) if stays else value

    return tree_map(wrapped, result)


def _inside(value: Any) -> Any:
    return value.inside if isinstance(value, OnDevice) else value


def _count(seen: Counts, func: Any, name: str, args: Any, kwargs: Any, tensors: list[Any], stays: bool) -> None:
    place, is_copy = _place(), name in _COPIES and any(isinstance(t, OnDevice) != stays for t in tensors)
    waits = name in _WAIT or (name in _WAIT_UNLESS and not kwargs.get(_WAIT_UNLESS[name]))
    if is_copy:
        waits = not (stays and (kwargs.get("non_blocking") or (name == "copy_" and True in args[2:])))
    if name in _INDEXED:
        indices = [leaf for leaf in tree_leaves(args[1]) if isinstance(leaf, torch.Tensor)]
        waits = any(index.dtype in (torch.bool, torch.uint8) or not isinstance(index, OnDevice) for index in indices)
    if waits:
        seen.waits[place] += 1
    if not func.is_view and name not in _NO_KERNEL:
        seen.launches[place] += 1


def _place() -> str:
    frame = sys._getframe(1)
    while frame is not None:
        if frame.f_code.co_filename.startswith(_PACKAGE):
            return f"{frame.f_code.co_filename.removeprefix(_PACKAGE)}:{frame.f_lineno}"
        frame = frame.f_back
    return "elsewhere"
