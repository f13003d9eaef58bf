"""From a name to a sparse-convolution backend: the one place that knows which there are."""

from functools import cache

import torch

from ray_lidarseg.errors import ResourceError
from ray_lidarseg.sparse.backend import SparseBackend

BACKENDS = ("torch", "spconv", "spconv-triton", "torchsparse")
_BY_SPEED = ("spconv-triton", "spconv", "torch")
"""On a GPU, by what their authors and others published; ``tests.gpu.acceptance`` measures it. On a CPU only ``torch``
trains, and is as fast forward (tests/bench/README.md). torchsparse, unmaintained, is nobody's choice but the user's."""


def load_backend(name: str) -> SparseBackend:
    """The backend of that name; ``auto`` is the fastest that is present, and is said once a process.

    Raises:
        ResourceError: There is none of that name, or it cannot run here.
    """
    if name == "auto":
        name = fastest()
    if name == "torch":
        from ray_lidarseg.sparse.torch_backend import TorchBackend

        return TorchBackend()
    if name == "torchsparse":
        from ray_lidarseg.sparse.torchsparse_backend import TorchsparseBackend

        return TorchsparseBackend()
    if name in ("spconv", "spconv-triton"):
        from ray_lidarseg.sparse.spconv_backend import SpconvBackend

        return SpconvBackend(name)
    raise ResourceError(f"no sparse backend {name!r}: sparse.backend is {', '.join(BACKENDS)} or auto")


@cache
def fastest() -> str:
    """What ``auto`` is in this process."""
    candidates = _BY_SPEED if torch.cuda.is_available() else _BY_SPEED[-1:]
    found = next(name for name in candidates if _is_present(name))
    print(f"sparse.backend=auto: {found}", flush=True)
    return found


def computes_bfloat16(name: str) -> bool:
    """Whether a backend does; the others want float16 on a GPU."""
    return name == "torch" or (name == "auto" and fastest() == "torch")


def compiles_kernels(name: str) -> bool:
    """Whether a backend compiles on the machine it runs on, as it first meets a layer."""
    return (fastest() if name == "auto" else name) == "spconv-triton"


def _is_present(name: str) -> bool:
    try:
        load_backend(name)
    except ResourceError:
        return False
    return True
