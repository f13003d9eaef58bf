"""Object storage against a server that speaks S3, started here."""

import urllib.request

import pytest

from ray_lidarseg import storage
from ray_lidarseg.errors import StorageError
from ray_lidarseg.training.run_folder import RunFolder
from ray_lidarseg.training.tracking import Tracker


@pytest.fixture(scope="module")
def endpoint():
    server_module = pytest.importorskip("moto.server", reason="needs the moto package's S3 server")
    server = server_module.ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    urllib.request.urlopen(urllib.request.Request(f"http://{host}:{port}/logs", method="PUT")).close()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture(autouse=True)
def credentials(endpoint, monkeypatch):
    keys = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_REGION": "us-east-1"}
    for name, value in {**keys, "AWS_ENDPOINT_URL": endpoint, "AWS_EC2_METADATA_DISABLED": "true"}.items():
        monkeypatch.setenv(name, value)


def test_files_in_a_bucket():
    storage.check_writable("s3://logs/run")
    storage.write_bytes("s3://logs/run/a/b.bin", b"\0one")
    assert storage.read_bytes("s3://logs/run/a/b.bin") == b"\0one"
    assert storage.list_files("s3://logs/run/a") == ["s3://logs/run/a/b.bin"]
    assert storage.list_folders("s3://logs/run") == ["s3://logs/run/a"]
    assert storage.exists("s3://logs/run/a")
    storage.remove_folder("s3://logs/run/a")
    storage.remove_folder("s3://logs/run/a")
    assert not storage.exists("s3://logs/run/a/b.bin")


def test_a_bucket_that_does_not_exist_is_said_so():
    with pytest.raises(StorageError, match=r"cannot write s3://absent/run.*create it or correct the name"):
        storage.check_writable("s3://absent/run")


def test_a_run_in_a_bucket_is_tracked_like_a_local_one():
    run = RunFolder("s3://logs/tracked")
    tracker = Tracker(run, "", 0, 10)
    speed = {"lr": 0.1, "scans_per_s": 1.0, "data_wait_ratio": 0.0, "memory_gib": 1.0, "skipped_steps": 0}
    for step in (1, 2):
        tracker.record({"kind": "train", "step": step, "loss_total": 1.0, **speed})
    tracker.close()
    assert [line["step"] for line in run.metrics()] == [1, 2]
    assert len(storage.list_files("s3://logs/tracked/tensorboard")) == 1
