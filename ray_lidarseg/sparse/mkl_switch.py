"""Makes MKL take the path on any x86 processor that it keeps for Intel's: an opt-in that changes code in memory.

MKL asks its own function ``mkl_serv_intel_cpu_true`` whether the processor is Intel's, and computes with its plainest
kernels where it is not, although an AMD EPYC runs the others at two and a half times the speed. No variable and no call
of MKL 2024 changes that. Torch exports the function, so its first bytes are overwritten here, in this process only, by
code that answers yes. Nothing on disk changes and results are float32's, but MKL does not document the function:
another version may ask elsewhere, or run an instruction that a processor lacks, which ends the process. Hence off
unless ``workers.mkl_as_on_intel`` is set, and `doctor` says what it would bring. ``sparse.products`` does without it
by handing products to oneDNN; what this adds is speed at few channels, and for layers outside the models.
"""

import ctypes
import mmap
import platform
import sys
from pathlib import Path

import torch

from ray_lidarseg.errors import ResourceError

_FUNCTION = "mkl_serv_intel_cpu_true"
_RETURN_ONE = b"\xb8\x01\x00\x00\x00\xc3"  # mov eax, 1; ret
_READ, _WRITE, _EXECUTE = 1, 2, 4  # Linux' mprotect

is_on = False
"""Whether it was done in this process."""


def let_mkl_use_all_instructions() -> None:
    """Overwrites the function in this process; call before its first matrix product, as MKL asks only once.

    Raises:
        ResourceError: This is no Linux on x86-64, torch has no such function, or its memory may not be changed.
    """
    if sys.platform != "linux" or platform.machine() != "x86_64":
        raise ResourceError(
            f"workers.mkl_as_on_intel needs Linux on x86-64, this is {sys.platform} on "
            f"{platform.machine()}: set it to false"
        )
    try:
        library = ctypes.CDLL(str(Path(torch.__file__).parent / "lib" / "libtorch_cpu.so"))
        address = ctypes.cast(getattr(library, _FUNCTION), ctypes.c_void_p).value or 0
    except (OSError, AttributeError) as error:
        raise ResourceError(
            f"torch {torch.__version__} has no {_FUNCTION} ({error}): set workers.mkl_as_on_intel to false"
        ) from error
    global is_on
    first = address // mmap.PAGESIZE * mmap.PAGESIZE
    _protect(first, address + len(_RETURN_ONE) - first, _READ | _WRITE | _EXECUTE)
    ctypes.memmove(address, _RETURN_ONE, len(_RETURN_ONE))
    _protect(first, address + len(_RETURN_ONE) - first, _READ | _EXECUTE)
    is_on = True


def _protect(first: int, size: int, rights: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mprotect(ctypes.c_void_p(first), ctypes.c_size_t(size), rights):
        raise ResourceError(
            f"the system does not let a process change its code (mprotect: error {ctypes.get_errno()}): set "
            "workers.mkl_as_on_intel to false"
        )
