"""What a run is made with: versions, commit and machine, for its manifest."""

import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from ray_lidarseg import __version__

_PACKAGES = ("torch", "ray", "numpy", "pyarrow", "pydantic", "nuscenes-devkit")


def versions() -> dict[str, str]:
    """Versions that decide what a run computes, and the commit where the package lies in a git checkout."""
    found = {"ray-lidarseg": __version__, "python": platform.python_version()}
    found |= {name: metadata.version(name) for name in _PACKAGES}
    commit = git_commit()
    return {**found, "git_commit": commit} if commit else found


def git_commit() -> str:
    """The commit of the checkout the package lies in, or what image or job say it is; empty where unknown."""
    checkout = Path(__file__).resolve().parents[2]
    if not (checkout / ".git").exists():
        return os.environ.get("RAY_LIDARSEG_COMMIT", "")
    command = ["git", "-C", str(checkout), "rev-parse", "HEAD"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""


def hardware() -> dict[str, Any]:
    """The machine this runs on."""
    return {
        "cpu": _cpu_model(),
        "cores": os.cpu_count(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "gpus": [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())],
    }


def _cpu_model() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    models = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(models, platform.processor() or platform.machine())
