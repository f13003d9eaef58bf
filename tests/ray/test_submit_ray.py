"""Jobs through Ray's Jobs API, on a head that `ray start` made in a clean environment, with token authentication."""

import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

pytestmark = pytest.mark.ray
PATIENCE_S = 240
BIN = Path(sys.executable).parent
ROOT = Path(__file__).parents[2]


def free_ports(number: int) -> list[int]:
    """Of this machine, above those of Ray's workers."""
    probes = [socket.socket() for _ in range(number)]
    for probe in probes:
        probe.bind(("127.0.0.1", 0))
    ports = [probe.getsockname()[1] for probe in probes]
    for probe in probes:
        probe.close()
    return ports


class Head:
    """A head, and the command line as a user of it has it: nothing of this process's environment."""

    def __init__(self, folder: Path):
        self.folder, self.token = folder, secrets.token_hex(32)
        port, self.dashboard, client, agent = free_ports(4)
        self.address = f"http://127.0.0.1:{self.dashboard}"
        command = [
            "ray",
            "start",
            "--head",
            "--block",
            "--num-cpus=2",
            f"--temp-dir={folder}/r",
            "--disable-usage-stats",
        ]
        command += [f"--port={port}", f"--dashboard-port={self.dashboard}", f"--ray-client-server-port={client}"]
        command += [f"--dashboard-agent-listen-port={agent}", "--min-worker-port=10002", "--max-worker-port=10900"]
        # Ray's switch for binding 127.0.0.1 only
        own = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": self.token, "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
        with open(folder / "head.log", "wb") as log:
            self.process = subprocess.Popen(command, env=self.clean(**own), stdout=log, stderr=log)

    def clean(self, **variables: str) -> dict[str, str]:
        path = os.pathsep.join([str(BIN), "/usr/bin", "/bin"])
        base = {"PATH": path, "HOME": str(self.folder), "OMP_NUM_THREADS": "1", "RAY_worker_niceness": "0"}
        return {**base, "PYTHONPATH": str(ROOT), **variables}

    def submitting(self, *arguments: str, token: str = "") -> "subprocess.Popen[str]":
        command = [sys.executable, "-m", "ray_lidarseg.cli", "submit", "--address", self.address, *arguments]
        environment = self.clean(RAY_AUTH_TOKEN=token or self.token)
        return subprocess.Popen(
            command, env=environment, cwd=self.folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    def log(self) -> str:
        return (self.folder / "head.log").read_text()

    def is_up(self) -> bool:
        """Ray gives up by itself where its parts do not answer within half a minute, as on a loaded machine."""
        deadline = time.monotonic() + PATIENCE_S
        while self.process.poll() is None and time.monotonic() < deadline:
            if "Ray runtime started" in self.log():
                return True
            time.sleep(0.2)
        return False

    def end(self) -> None:
        self.process.terminate()
        self.process.wait(PATIENCE_S)
        shutil.rmtree(self.folder, ignore_errors=True)


@pytest.fixture(scope="module")
def head() -> Iterator[Head]:
    def started() -> Head:
        return Head(Path(tempfile.mkdtemp(prefix="rlh", dir=os.environ.get("RAY_TMPDIR"))))

    found = started()
    if not found.is_up():
        found.end()
        found = started()
    try:
        assert found.is_up(), found.log()
        yield found
    finally:
        found.end()


def test_jobs_end_with_the_status_of_their_verbs(head: Head) -> None:
    """One that works, one that fails and one that is stopped, side by side: starting each takes most of its time."""
    out, long_out = head.folder / "world", head.folder / "long"
    works = head.submitting("world", "--preset", "tiny", "--out", str(out))
    fails = head.submitting("train", "demo", "--set", f"data.prepared={out}/none", "--run", str(out / "run"))
    stopped = head.submitting("--stop-on-interrupt", "world", "--preset", "bench", "--out", str(long_out))
    deadline = time.monotonic() + PATIENCE_S
    while not long_out.exists() and time.monotonic() < deadline:
        time.sleep(0.2)
    stopped.send_signal(signal.SIGINT)
    printed, said = stopped.communicate(timeout=PATIENCE_S)
    assert stopped.returncode == 130, said
    assert "is stopped: STOPPED" in said
    job = next(line.split()[1] for line in said.splitlines() if line.startswith("job raysubmit_"))
    printed, said = works.communicate(timeout=PATIENCE_S)
    assert works.returncode == 0, said + head.log()
    assert "taking along" in said
    assert "--follow raysubmit_" in said
    assert (out / "world.json").is_file(), printed
    printed, said = fails.communicate(timeout=PATIENCE_S)
    assert fails.returncode == 2, said
    assert "none/catalog.parquet is missing: run `ray-lidarseg prepare`" in printed
    assert "failed with exit status 2" in said
    again = head.submitting("--follow", job)
    printed, said = again.communicate(timeout=PATIENCE_S)
    assert again.returncode == 143
    assert "was stopped" in said
    assert "world" in printed


def test_only_the_clusters_own_token_starts_jobs(head: Head) -> None:
    stranger = head.submitting("recipe", "demo", token="f" * 64)
    _, said = stranger.communicate(timeout=PATIENCE_S)
    assert stranger.returncode == 2
    assert said.strip().endswith("refuses the token: set RAY_AUTH_TOKEN, or RAY_AUTH_TOKEN_PATH, to the cluster's own")
