"""Layers under fire: an actor, a node, the driver are killed, the store fails; every frame once, no torn file."""

import os
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from pyarrow import fs

from ray_lidarseg.datasets.layers import layer_entries, layer_folder, layer_names
from ray_lidarseg.datasets.shards import list_shards
from ray_lidarseg.errors import DataError, ResourceError
from ray_lidarseg.prepare import Teachers, prepare
from ray_lidarseg.runtime.pool import Actors
from tests.prepare.camera_log import CAMERAS, decoded, frame_id, image_file, write_image, write_log
from tests.ray.processes import descendants
from tests.storage.s3_server import Faults, s3_server, variables

pytestmark = pytest.mark.ray
LOCAL = fs.LocalFileSystem()
COUNT = 6
OVERRIDES = ("masks.num_segments=4", "masks.sigma=0", "pairs.occlusion=no")
TEACHERS = Teachers.of("slic", overrides=OVERRIDES)
MASKS = TEACHERS.layers()[0].name
PATIENCE_S = 400


@pytest.fixture
def log(tmp_path: Path) -> tuple[str, str]:
    """Index and prepared folder of six decoded frames."""
    index, out = write_log(tmp_path, COUNT), str(tmp_path / "out")
    decoded(index, out)
    return index, out


def block(root: Path, number: int) -> Path:
    """Makes an image a pipe that delivers nothing: whoever reads it waits."""
    file = image_file(root, number)
    file.unlink()
    os.mkfifo(file)
    return file


def shards(out: str, layer: str = MASKS) -> list[str]:
    return list_shards(LOCAL, layer_folder(out, layer))


def wait_until(is_so: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not is_so():
        assert time.monotonic() < deadline, f"waited in vain until {what}"
        time.sleep(0.1)


def assert_complete(out: str, filesystem: fs.FileSystem = LOCAL) -> None:
    """Every layer holds every frame exactly once, all its files are whole, and nothing else lies there."""
    names = layer_names(filesystem, out)
    assert [name.partition("-")[0] for name in names] == ["masks", "pairs"]
    for name in names:
        folder = layer_folder(out, name)
        found = Counter(entry["frame_id"] for entry in layer_entries(filesystem, folder))
        assert found == Counter(frame_id(number) for number in range(COUNT))
        for shard in list_shards(filesystem, folder):
            with filesystem.open_input_file(f"{folder}/{shard}") as file:
                pq.read_table(file)
        files = filesystem.get_file_info(fs.FileSelector(folder))
        rest = {info.base_name for info in files if not info.base_name.startswith("shard-")}
        assert rest == {"layer.json", "catalog.parquet", "failures.jsonl"}


def test_a_killed_actor_costs_a_repetition_of_its_group(log, tmp_path: Path, local_ray) -> None:
    index, out = log
    block(tmp_path, 2)
    killed = []

    def kill() -> None:
        wait_until(lambda: len(shards(out)) == COUNT - 1, "all frames but the blocked one were done")
        image_file(tmp_path, 2).unlink()
        write_image(tmp_path, 2)
        for process in descendants(os.getpid(), "MaskWorker"):
            os.kill(process, signal.SIGKILL)
            killed.append(process)

    thread = threading.Thread(target=kill, daemon=True)
    thread.start()
    report = prepare(index, out, teachers=TEACHERS)
    thread.join()
    assert killed
    assert [(layer.done, layer.skipped, layer.failed) for layer in report.layers] == [(COUNT, 0, 0)] * 2
    assert_complete(out)


def test_what_the_cluster_or_the_checkpoint_cannot_give_is_said_before_any_work(log, tmp_path: Path, local_ray) -> None:
    index, out = log
    wrong = tmp_path / "model.pth"
    wrong.write_bytes(b"no checkpoint")
    sam = Teachers.of("sam", overrides=[f"masks.checkpoint={wrong}"])
    with pytest.raises(ResourceError, match=r"1 GPU each, but the cluster has 4 CPU and 0 GPU .*--gpus"):
        prepare(index, out, teachers=sam, actors=Actors(num_gpus=1))
    with pytest.raises(DataError, match=r"model.pth"):
        prepare(index, out, teachers=sam)
    assert not list(Path(out).glob("layers/*/*"))


DRIVER = """
import sys
from ray_lidarseg.prepare import Teachers, prepare
report = prepare(sys.argv[1], sys.argv[2], teachers=Teachers.of("slic", overrides=sys.argv[3:]))
print([(layer.done, layer.skipped, layer.failed) for layer in report.layers])
"""


def test_a_killed_driver_loses_at_most_the_groups_in_flight(log, tmp_path: Path, local_ray) -> None:
    index, out = log
    block(tmp_path, 2)
    command = [sys.executable, "-c", DRIVER, index, out, *OVERRIDES]
    driver = subprocess.Popen(command, start_new_session=True)
    try:
        wait_until(lambda: len(shards(out)) >= 2 or driver.poll() is not None, "some shards were there")
        assert driver.poll() is None, "the driver ended although a frame was blocked"
    finally:
        driver.send_signal(signal.SIGKILL)
        driver.wait()
    Path(layer_folder(out, MASKS), ".unfinished-shard-x.parquet-0").write_bytes(b"half a shard")
    finished = {name: Path(layer_folder(out, MASKS), name).stat().st_mtime_ns for name in shards(out)}
    image_file(tmp_path, 2).unlink()
    write_image(tmp_path, 2)
    report = prepare(index, out, teachers=TEACHERS)
    assert (report.layers[0].done, report.layers[0].skipped) == (COUNT - len(finished), len(finished))
    assert (
        finished.items()
        <= {name: Path(layer_folder(out, MASKS), name).stat().st_mtime_ns for name in shards(out)}.items()
    ), "finished work was done again"
    assert_complete(out)


NODE_DRIVER = """
import os, signal, sys, threading, time
from pathlib import Path
import ray
from ray.cluster_utils import Cluster
from ray_lidarseg.prepare import Teachers, prepare
from ray_lidarseg.runtime.pool import Actors
from tests.ray.processes import descendants

index, out, *pipes = sys.argv[1:5]
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
nodes = [cluster.add_node(num_cpus=1) for _ in range(2)]
ray.init(address=cluster.address, log_to_driver=False)
reports = []

def work():
    teachers = Teachers.of("slic", overrides=sys.argv[5:])
    reports.append(prepare(index, out, teachers=teachers, actors=Actors(min_size=1, max_size=2)))

def is_at_work(node):
    return descendants(node.all_processes["raylet"][0].process.pid, "MaskWorker")

def num_shards():
    return len(list(Path(out).glob("layers/masks-*/shard-*")))

thread = threading.Thread(target=work, daemon=True)
thread.start()
deadline = time.monotonic() + 400
while not (all(map(is_at_work, nodes)) and num_shards() == 4):
    assert time.monotonic() < deadline and thread.is_alive(), "both nodes never were at work"
    time.sleep(0.2)
time.sleep(1.0)
cluster.remove_node(nodes[0], allow_graceful=False)
for pipe in pipes:
    os.replace(pipe + ".whole", pipe)
for process in is_at_work(nodes[1]):  # it waits for a pipe that nobody will fill: let it begin again
    os.kill(process, signal.SIGKILL)
thread.join(400)
assert reports, "the job never ended"
print([(layer.done, layer.skipped, layer.failed) for layer in reports[0].layers], flush=True)
os._exit(0)  # what is left of the cluster dies with its parent
"""


def test_a_killed_node_costs_a_repetition_of_its_groups_on_another(log, tmp_path: Path) -> None:
    """Two nodes, each blocked by an image; one is killed and not replaced."""
    index, out = log
    pipes = [image_file(tmp_path, number) for number in (4, 5)]
    for number, pipe in zip((4, 5), pipes, strict=True):
        pipe.rename(f"{pipe}.whole")
        os.mkfifo(pipe)
        assert pipe == image_file(tmp_path, number)
    environment = {key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"} | {
        "RAY_AUTH_MODE": "disabled"
    }
    command = [sys.executable, "-c", NODE_DRIVER, index, out, *map(str, pipes), *OVERRIDES]
    root = Path(__file__).parents[2]
    done = subprocess.run(command, env=environment, cwd=root, capture_output=True, text=True, timeout=900, check=False)
    assert str([(COUNT, 0, 0)] * 2) in done.stdout.splitlines(), done.stderr[-2000:]
    assert_complete(out)


def test_an_object_store_that_fails_and_lags_costs_time_only(tmp_path: Path) -> None:
    pytest.importorskip("moto.server", reason="needs the moto package's S3 server")
    index = write_log(tmp_path, COUNT)
    faults = Faults()
    with s3_server(faults) as endpoint:
        urllib.request.urlopen(urllib.request.Request(f"{endpoint}/logs", method="PUT")).close()
        store = fs.S3FileSystem(
            endpoint_override=endpoint,
            access_key="test",
            secret_key="test",
            region="us-east-1",
            allow_bucket_creation=True,
        )
        fs.copy_files(str(tmp_path / "data"), "logs/data", destination_filesystem=store)
        table = pq.read_table(index)
        for name in ("points_uri", *(f"{camera}.uri" for camera in CAMERAS)):
            moved = [uri.replace(str(tmp_path), "s3://logs") for uri in table.column(name).to_pylist()]
            table = table.set_column(table.schema.get_field_index(name), table.schema.field(name), [moved])
        pq.write_table(table, index)
        faults.fail_every, faults.slow_every, faults.delay_s = 7, 5, 0.1
        environment = {**os.environ, **variables(endpoint)}
        command = [sys.executable, "-c", DRIVER, index, "s3://logs/out", *OVERRIDES]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=900, check=False)
        failed, slow = faults.num_failed, faults.num_slow
        faults.fail_every = faults.slow_every = 0
        assert str([(COUNT, 0, 0)] * 2) in done.stdout.splitlines(), done.stderr[-2000:]
        assert failed > 10
        assert slow > 10
        assert_complete("logs/out", store)
