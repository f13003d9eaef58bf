"""What this machine and cluster can do, and what is wrong with it."""

import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from ray_lidarseg import storage
from ray_lidarseg.errors import LidarSegError, ResourceError
from ray_lidarseg.runtime import cluster
from ray_lidarseg.sparse.build import BACKENDS, load_backend
from ray_lidarseg.sparse.products import measured
from ray_lidarseg.training.environment import hardware, versions

_WITH_MKL_SWITCH = """
from ray_lidarseg.sparse import mkl_switch, products
mkl_switch.let_mkl_use_all_instructions()
print(round(products.measured().mkl_gflops))
"""
LEAST_FREE_GIB = 2.0  # a demo run with its data, rounded up


@dataclass(frozen=True)
class Check:
    """One thing looked at.

    Attributes:
        name: What.
        is_ok: Whether the package works with it.
        detail: What was found, or what to do.
    """

    name: str
    is_ok: bool
    detail: str


def doctor() -> list[Check]:
    """Looks at versions, devices, memory, temporary disk, storage, speed of products, Ray and sparse backends."""
    looks: dict[str, Callable[[], str]] = {
        "versions": lambda: ", ".join(f"{name} {version}" for name, version in versions().items()),
        "machine": _machine,
        "GPU": _gpus,
        "temporary disk": _temporary_disk,
        "storage": _storage,
        "CPU products": _products,
        "sparse backends": _sparse_backends,
        "Ray": _ray,
    }
    return [_looked(name, look) for name, look in looks.items()]


def main() -> int:
    """Prints all checks; the exit status is 1 if one failed."""
    return show(doctor())


def show(checks: Sequence[Check]) -> int:
    """Prints checks, one a line; the exit status is 1 if one failed."""
    width = max(len(check.name) for check in checks)
    for check in checks:
        print(f"{'ok  ' if check.is_ok else 'FAIL'} {check.name:{width}}  {check.detail}")
    return int(not all(check.is_ok for check in checks))


def _looked(name: str, look: Callable[[], str]) -> Check:
    try:
        return Check(name, True, look())
    except (LidarSegError, OSError, RuntimeError, ImportError) as error:
        return Check(name, False, str(error))


def _machine() -> str:
    found = hardware()
    return f"{found['cpu']}, {found['cores']} cores, {found['memory_gib']} GiB memory"


def _gpus() -> str:
    names = hardware()["gpus"]
    return f"{', '.join(names)} (CUDA {torch.version.cuda})" if names else "none: training runs on CPUs"


def _temporary_disk() -> str:
    folder = tempfile.gettempdir()
    free_gib = shutil.disk_usage(folder).free / 2**30
    if free_gib < LEAST_FREE_GIB:
        raise OSError(f"{free_gib:.1f} GiB free in {folder}: free some, or set TMPDIR to another folder")
    return f"{free_gib:.0f} GiB free in {folder}"


def _storage() -> str:
    with tempfile.TemporaryDirectory() as folder:
        storage.check_writable(folder)
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or "AWS"
    has_keys = bool(os.environ.get("AWS_ACCESS_KEY_ID"))
    return f"local files work; s3:// goes to {endpoint} {'with' if has_keys else 'without'} AWS_ACCESS_KEY_ID"


def _products() -> str:
    found = measured()
    others = {"MKL": found.mkl_gflops, "oneDNN": found.onednn_gflops, "bfloat16": found.bf16_gflops}
    speeds = ", ".join(f"{name} {speed:.0f}" for name, speed in others.items())
    lines = f"float32 by {found.float32} (GFLOP a CPU second and thread: {speeds})"
    if found.float32 == "MKL" or not torch.backends.mkl.is_available():
        return lines
    done = subprocess.run([sys.executable, "-c", _WITH_MKL_SWITCH], capture_output=True, text=True)
    if done.returncode:
        return f"{lines}; workers.mkl_as_on_intel cannot be set here"
    return (
        f"{lines}; MKL does not use all this processor has: workers.mkl_as_on_intel=true makes it {done.stdout.strip()}"
        " by overwriting, in the memory of each training worker, the undocumented function that asks for the maker"
    )


def _sparse_backends() -> str:
    found = []
    for name in BACKENDS:
        try:
            load_backend(name)
            found.append(name)
        except ResourceError as error:
            found.append(f"no {name} ({error})")
    return "; ".join(found)


def _ray() -> str:
    with cluster.connect():
        import ray

        found = ray.cluster_resources()
        answer = ray.get(ray.remote(platform.python_version).remote(), timeout=60)
    where = os.environ.get("RAY_ADDRESS", "this machine")
    return f"{found.get('CPU', 0):g} CPU, {found.get('GPU', 0):g} GPU on {where}; a task ran on Python {answer}"
