"""Parts of a model that are dense networks, which ``torch.compile`` may take over (``workers.compile_dense``).

What is sparse stays as it is: voxels, pairs and blocks of rows differ in number from scan to scan, and their products
are library calls that a compiler only hands on. A compiled part sees sizes that change (images in a batch, occupied
pixels) as symbols from the second size on, so it is compiled a few times and not for every batch.
"""

import shutil
import warnings
from collections.abc import Callable
from functools import cache, wraps
from importlib.util import find_spec
from typing import Any, TypeVar, cast

import torch
from torch import nn

from ray_lidarseg.errors import ResourceError
from ray_lidarseg.models.segmentor import Segmentor

F = TypeVar("F", bound=Callable[..., Any])


def dense_part(method: F) -> F:
    """Marks a method of a ``Segmentor`` as dense: tensors in, tensors out, by modules alone."""

    @wraps(method)
    def run(self: Segmentor, *tensors: torch.Tensor) -> Any:
        return (_compiled(method) if self.is_compiled else method)(self, *tensors)

    run.is_dense = True  # type: ignore[attr-defined]
    return cast(F, run)


@cache
def _compiled(method: Callable[..., Any]) -> Callable[..., Any]:
    """One for all models, so that a teacher of its student's shapes takes the student's code."""
    return torch.compile(method)


def has_dense_parts(model: Segmentor) -> bool:
    """Whether there is anything to compile."""
    return any(getattr(value, "is_dense", False) for kind in type(model).__mro__ for value in vars(kind).values())


def compile_dense(module: nn.Module, device: torch.device) -> None:
    """From now on the dense parts of every model in a module are compiled as they are first used.

    Raises:
        ResourceError: There is no compiler for that device.
    """
    models = [each for each in module.modules() if isinstance(each, Segmentor) and has_dense_parts(each)]
    if not models:
        warnings.warn(
            "workers.compile_dense has no effect: this model's layers are sparse, and stay as they are", stacklevel=2
        )
        return
    _require_compiler(device)
    for model in models:
        model.is_compiled = True


def _require_compiler(device: torch.device) -> None:
    if device.type == "cpu" and not any(shutil.which(name) for name in ("g++", "clang++")):
        raise ResourceError(
            "workers.compile_dense needs a C++ compiler and neither g++ nor clang++ is on the PATH: install one "
            "(apt-get install g++), or set workers.compile_dense=false"
        )
    if device.type == "cuda" and find_spec("triton") is None:
        raise ResourceError(
            "workers.compile_dense needs Triton on a GPU: pip install triton, or set workers.compile_dense=false"
        )
