"""An own Ray from outside: who may enter it, and how a verb ends that is interrupted or loses its head."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from pyarrow import fs

from ray_lidarseg.datasets.catalog import shard_entries
from ray_lidarseg.index import index
from ray_lidarseg.recipe.schema import Recipe
from tests.ray.processes import descendants

pytestmark = pytest.mark.ray
PATIENCE_S = 300
FAREWELL = "interrupted; the same command continues"

STRANGER = """
import sys
from ray._raylet import GcsClient
client = GcsClient(address=sys.argv[1])
client.internal_kv_put(b"key", b"value", True, b"stranger", timeout=10)
print(client.internal_kv_get(b"key", b"stranger", timeout=10))
"""


def as_a_stranger(**variables: str) -> subprocess.CompletedProcess[str]:
    import ray

    command = [sys.executable, "-c", STRANGER, ray.get_runtime_context().gcs_address]
    environment = {**os.environ, **variables}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)


def test_only_the_token_opens_an_own_ray(local_ray: None) -> None:
    assert as_a_stranger().stdout == "b'value'\n"  # a child, which inherits the token
    for variables in ({"RAY_AUTH_MODE": "disabled", "RAY_AUTH_TOKEN": ""}, {"RAY_AUTH_TOKEN": "f" * 64}):
        refused = as_a_stranger(**variables)
        assert refused.stdout == ""
        assert "nauthenticated" in refused.stderr or "token" in refused.stderr


JOINING = """
import os, ray
from ray_lidarseg.errors import ResourceError
from ray_lidarseg.runtime.cluster import connect
try:
    with connect():
        print(ray.get(ray.remote(lambda: 7).remote()), os.environ["RAY_AUTH_MODE"])
except ResourceError as error:
    print(error)
"""


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({}, "7 token"),  # the token of this process
        ({"RAY_AUTH_MODE": "disabled"}, "asks for a token: set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN"),
        ({"RAY_AUTH_TOKEN": "f" * 64}, "no Ray cluster answers at RAY_ADDRESS"),
    ],
)
def test_a_cluster_is_joined_with_its_own_token_only(local_ray: None, variables: dict[str, str], said: str) -> None:
    import ray

    environment = {**os.environ, "RAY_ADDRESS": ray.get_runtime_context().gcs_address, **variables}
    command = [sys.executable, "-c", JOINING]
    joined = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert said in joined.stdout, joined.stderr
    assert joined.returncode == 0, joined.stderr


def test_no_other_user_may_enter_the_folder_of_an_own_ray(local_ray: None) -> None:
    folders = list(Path(os.environ["RAY_TMPDIR"]).glob("rls*"))
    assert folders
    assert all(folder.stat().st_mode & 0o777 == 0o700 for folder in folders)


@pytest.fixture
def blocked(tmp_path: Path) -> tuple[str, str]:
    """Index and out folder of nine scans, of which one is a pipe that delivers nothing."""
    velodyne = tmp_path / "data" / "sequences" / "00" / "velodyne"
    velodyne.mkdir(parents=True)
    for number in range(9):
        scan = np.random.default_rng(number).uniform(-20, 20, (50, 4)).astype(np.float32)
        scan[:, 3] = 0.5
        scan.tofile(velodyne / f"{number:06d}.bin")
    listed = str(tmp_path / "index.parquet")
    index("semantickitti", str(tmp_path / "data"), listed)
    (velodyne / "000008.bin").unlink()
    os.mkfifo(velodyne / "000008.bin")
    return listed, str(tmp_path / "out")


@contextmanager
def verb(log: Path, *arguments: str) -> Iterator[subprocess.Popen]:
    """A command in a process group of its own, as a terminal runs it, with its own Ray."""
    command = [sys.executable, "-m", "ray_lidarseg.cli", *arguments]
    with log.open("wb") as file:
        process = subprocess.Popen(
            command,
            stdout=file,
            stderr=file,
            start_new_session=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


def wait_until(is_so: Callable[[], bool], process: subprocess.Popen, log: Path) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not is_so():
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.1)


def assert_said(log: Path, sentence: str) -> None:
    """That sentence last, and no dump before it."""
    text = log.read_text()
    assert text.rstrip().endswith(sentence)
    for dump in ("Traceback", "mutex.cc", "*** SIG", "Fatal", "core_worker"):
        assert dump not in text


def has_shards(out: str) -> bool:
    return any(True for _ in shard_entries(fs.LocalFileSystem(), out)) if Path(out).is_dir() else False


def test_ctrl_c_in_the_middle_of_a_training(tiny: Recipe, tmp_path: Path) -> None:
    log, recipe = tmp_path / "log", tmp_path / "recipe.yaml"
    recipe.write_text(tiny.to_yaml())
    command = ("train", str(recipe), "--set", "train.steps=2000", "--run", str(tmp_path / "run"))
    with verb(log, *command) as process:
        wait_until(lambda: "step 3/" in log.read_text(), process, log)
        os.killpg(process.pid, signal.SIGINT)  # what a terminal sends
        assert process.wait(60) == 130, log.read_text()
    assert_said(log, f"ray-lidarseg train: {FAREWELL}")


def test_a_batch_system_ends_a_prepare(blocked: tuple[str, str], tmp_path: Path) -> None:
    log = tmp_path / "log"
    with verb(log, "prepare", blocked[0], "--out", blocked[1]) as process:
        wait_until(lambda: has_shards(blocked[1]), process, log)
        process.terminate()
        assert process.wait(60) == 143, log.read_text()
    assert_said(log, f"ray-lidarseg prepare: {FAREWELL}")


def test_a_head_lost_in_the_middle_is_said_within_half_a_minute(blocked: tuple[str, str], tmp_path: Path) -> None:
    log = tmp_path / "log"
    with verb(log, "prepare", blocked[0], "--out", blocked[1]) as process:
        wait_until(lambda: has_shards(blocked[1]), process, log)
        (head,) = descendants(process.pid, "gcs_server")
        os.kill(head, signal.SIGKILL)
        began = time.monotonic()
        assert process.wait(60) == 2, log.read_text()
        assert time.monotonic() - began < 30
    assert_said(
        log, "Ray's own head process is gone (out of memory?): start it again if need be; the same command continues"
    )
