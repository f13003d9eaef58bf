"""What every test shares: one thread a process, shape-checked ground-floor code, and Ray that keeps to itself."""

import os
import runpy
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

_STARTUP = str(Path(__file__).parent / "startup")
os.environ["PYTHONPATH"] = os.pathsep.join([_STARTUP, *filter(None, [os.environ.get("PYTHONPATH")])])
runpy.run_path(f"{_STARTUP}/sitecustomize.py")  # this process has started already

import pytest  # noqa: E402
import torch  # noqa: E402

torch.set_num_threads(1)

SAMPLES = Path(__file__).resolve().parents[2] / "shared" / "samples"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """In several processes (``-n 2 --dist loadgroup``) all Ray tests share one and its Ray, a file its fixtures."""
    for item in items:
        group = "ray" if item.get_closest_marker("ray") else str(item.path)
        item.add_marker(pytest.mark.xdist_group(group))


@pytest.fixture(scope="session")
def samples() -> Path:
    """The folder of small real recordings; a test that needs it is skipped where it is absent."""
    if not SAMPLES.is_dir():
        pytest.skip(f"real recordings are not beside this checkout ({SAMPLES.name} folder absent)")
    return SAMPLES
