import pytest

from ray_lidarseg.errors import ResourceError
from ray_lidarseg.runtime import cluster


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
    environment = cluster.worker_environment()
    assert environment["AWS_ENDPOINT_URL"] == "http://127.0.0.1:9000"
    assert environment["OMP_WAIT_POLICY"] == "passive"
    assert "secret" not in environment.values()
