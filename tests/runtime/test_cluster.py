import socket
import time
from pathlib import Path

import pytest

from ray_lidarseg.cli import main
from ray_lidarseg.errors import ResourceError
from ray_lidarseg.runtime import cluster
from ray_lidarseg.runtime.cluster import connect


@pytest.fixture
def nodes(monkeypatch):
    found = [{"CPU": 4.0}, {"CPU": 3.0, "GPU": 2.0}]
    monkeypatch.setattr(cluster, "_node_resources", lambda: found)
    monkeypatch.setattr(cluster, "_gpus_come_free", lambda _: True)
    return found


def test_what_fits_passes(nodes):
    cluster.require(7, 1)
    cluster.require(3, 2)
    cluster.require(2, 1, 1)
    cluster.require(28, 0.25)


def test_a_worker_must_fit_on_one_node(nodes):
    with pytest.raises(ResourceError, match=r"asks for 4 worker\(s\) of 2 CPU.*has 7 CPU and 2 GPU on 2 node"):
        cluster.require(4, 2)  # 7 CPUs hold only 2 + 1 workers of 2


def test_no_gpu_is_said_at_once(nodes):
    nodes[1].pop("GPU")
    with pytest.raises(ResourceError, match=r"1 GPU each, but the cluster has 7 CPU and 0 GPU.*workers.use_gpu"):
        cluster.require(1, 1, 1)


def test_taken_gpus_are_said_to_be_taken(nodes, monkeypatch):
    monkeypatch.setattr(cluster, "_gpus_come_free", lambda _: False)
    with pytest.raises(ResourceError, match="taken by other work"):
        cluster.require(2, 1, 1)


def test_a_long_temporary_folder_is_refused_before_ray_fails_on_its_sockets(monkeypatch, tmp_path):
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path / ("x" * 50)))
    with pytest.raises(ResourceError, match="set RAY_TMPDIR"):
        cluster._temp_root()


def test_credentials_stay_out_of_the_runtime_environment(monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9000")
    environment = cluster.worker_runtime_env()["env_vars"]
    assert environment["AWS_ENDPOINT_URL"] == "http://127.0.0.1:9000"
    assert environment["OMP_WAIT_POLICY"] == "passive"
    assert "secret" not in environment.values()


def test_an_own_rays_workers_are_told_only_what_they_did_not_inherit(monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9000")
    monkeypatch.setattr(cluster, "_inherited", {"AWS_ENDPOINT_URL": "http://127.0.0.1:9000"})
    monkeypatch.delenv("AWS_REGION", raising=False)
    monkeypatch.delenv("AWS_DEFAULT_REGION", raising=False)
    monkeypatch.delenv("AWS_ENDPOINT_URL_S3", raising=False)
    monkeypatch.delenv("AWS_EC2_METADATA_DISABLED", raising=False)
    assert cluster.worker_runtime_env() == {}
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9001")
    assert cluster.worker_runtime_env() == {"env_vars": {"AWS_ENDPOINT_URL": "http://127.0.0.1:9001"}}


@pytest.mark.parametrize("address", ["head", "head:", "head:port", ":6379", "http:6379x", "127.0.0.1:0", "h:70000"])
def test_what_is_no_address_is_said_at_once(monkeypatch, address):
    monkeypatch.setenv("RAY_ADDRESS", address)
    with pytest.raises(ResourceError, match=rf"RAY_ADDRESS={address} is no address: expected HOST:PORT"), connect():
        pass


def test_addresses_and_where_they_lead():
    assert cluster._host_and_port("10.0.0.7:6379") == ("10.0.0.7", 6379)
    assert cluster._host_and_port("[::1]:6379") == ("::1", 6379)
    assert cluster._host_and_port("ray://head.example:10001") == ("head.example", 10001)
    assert cluster._host_and_port("auto") is None


def test_an_address_where_nobody_answers_is_bad_input(monkeypatch, capsys, tmp_path):
    """Ray itself dials it for 14 minutes."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
    monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{port}")
    began = time.monotonic()
    assert main(["world", "--preset", "tiny", "--out", str(tmp_path)]) == 2
    assert time.monotonic() - began < 30
    assert f"no Ray cluster answers at RAY_ADDRESS=127.0.0.1:{port}: start it" in capsys.readouterr().err


def test_auto_does_not_dial_a_cluster_that_is_gone(monkeypatch, capsys, tmp_path):
    """`ray start` leaves a note of its address, which a killed head never takes back."""
    from ray._common.utils import get_ray_address_file
    from ray._private import services

    services.find_gcs_addresses.cache_clear()
    monkeypatch.setattr(services, "_find_address_from_flag", lambda flag: set())  # no heads of other tests
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    with socket.create_server(("127.0.0.1", 0)) as listening:
        gone = f"127.0.0.1:{listening.getsockname()[1]}"
    note = Path(get_ray_address_file(None))
    note.parent.mkdir(parents=True, exist_ok=True)
    note.write_text(gone)
    assert main(["world", "--preset", "tiny", "--out", str(tmp_path)]) == 2
    assert f"no Ray cluster answers at RAY_ADDRESS=auto ({gone}): start it" in capsys.readouterr().err


def test_a_node_that_was_too_slow_to_start_is_one_message_and_leaves_nothing(monkeypatch, tmp_path):
    import ray

    def slow(**_):
        raise Exception("The current node timed out during startup.")

    monkeypatch.setattr(ray, "init", slow)
    monkeypatch.setattr(cluster, "_temp_root", lambda: str(tmp_path))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with pytest.raises(ResourceError, match=r"the same command tries again .*timed out during startup"), connect():
        pass
    assert list(tmp_path.iterdir()) == []
