"""What every test shares: one thread a process, shape-checked ground-floor code, and Ray that keeps to itself."""

import os
import runpy
import signal
from functools import cache
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

_STARTUP = str(Path(__file__).parent / "startup")
os.environ["PYTHONPATH"] = os.pathsep.join([_STARTUP, *filter(None, [os.environ.get("PYTHONPATH")])])
runpy.run_path(f"{_STARTUP}/sitecustomize.py")  # this process has started already

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # a shell's job in the background: tests of Ctrl-C need it
    signal.signal(signal.SIGINT, signal.default_int_handler)

import pytest  # noqa: E402
import torch  # noqa: E402

torch.set_num_threads(1)

_OF_RAY = "tests/ray/"
SAMPLES = Path(__file__).resolve().parents[2] / "shared" / "samples"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Ray's files first: of the few that take minutes none is left to run alone at the end."""
    items.sort(key=lambda item: not item.nodeid.startswith(_OF_RAY))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> object:
    """In several processes (``-n 2``) all tests that use ``local_ray`` share one, and a file its fixtures.

    Files of Ray tests that start clusters of their own, the demo's above all, go to whichever process is free. Groups
    by mark (``--dist loadgroup``) do not reach xdist 3.8 under pytest 9, which no longer has what it writes to.
    """
    from xdist.scheduler import LoadScopeScheduling

    @cache
    def shares_ray(file: str) -> bool:
        text = (config.rootpath / file).read_text() if file.startswith(_OF_RAY) else ""
        return "local_ray" in text or "undisturbed" in text  # which is a run on it

    class OneRay(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = nodeid.partition("::")[0]
            return "ray" if shares_ray(file) else file

    config.option.loadscopereorder = False  # by number of tests, the demo's one test of five minutes would be the last
    return OneRay(config, log)


@pytest.fixture(scope="session")
def samples() -> Path:
    """The folder of small real recordings; a test that needs it is skipped where it is absent."""
    if not SAMPLES.is_dir():
        pytest.skip(f"real recordings are not beside this checkout ({SAMPLES.name} folder absent)")
    return SAMPLES
