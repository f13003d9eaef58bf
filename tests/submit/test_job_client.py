import socket
from types import SimpleNamespace
from typing import Any

import pytest

from ray_lidarseg.errors import ResourceError
from ray_lidarseg.submit import job_client


class Cluster:
    """Ray's client, as far as it is used: each connection gives some parts of the log, then breaks or ends."""

    def __init__(self, status: str, code: int | None, *connections: list[Any], message: str = ""):
        self.connections = list(connections)
        self.details = SimpleNamespace(status=SimpleNamespace(value="RUNNING"), driver_exit_code=None, message=message)
        self._end = status, code

    async def tail_job_logs(self, job: str) -> Any:
        for part in self.connections.pop(0):
            if isinstance(part, Exception):
                raise part
            yield part
        self.details.status.value, self.details.driver_exit_code = self._end

    def get_job_info(self, job: str) -> Any:
        return self.details


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job_client, "_RECONNECT_AFTER_S", 0.0)
    monkeypatch.setattr(job_client, "_POLL_S", 0.0)


@pytest.mark.parametrize(
    ("status", "code", "ours", "said"),
    [
        ("SUCCEEDED", 0, 0, ""),
        ("FAILED", 2, 2, "job j failed with exit status 2"),
        ("FAILED", -9, 137, "job j failed with exit status -9"),
        ("FAILED", None, 1, "job j failed: no image"),
        ("STOPPED", None, 143, "job j was stopped"),
    ],
)
def test_the_exit_status_is_the_verbs(status, code, ours, said, capsys) -> None:
    cluster = Cluster(status, code, ["a\n", "b\n"], message="no image")
    assert job_client._followed(cluster, "j", "http://h:8265") == ours
    printed = capsys.readouterr()
    assert printed.out == "a\nb\n"
    assert printed.err.strip() == said


def test_a_cut_connection_is_made_again_and_nothing_is_shown_twice(capsys) -> None:
    cut = RuntimeError("closed unexpectedly")
    cluster = Cluster("SUCCEEDED", 0, ["one\ntw", cut], [cut], ["one\n", "two\nth", cut], ["one\ntwo\nthree\n"])
    assert job_client._followed(cluster, "j", "http://h:8265") == 0
    assert capsys.readouterr().out == "one\ntwo\nthree\n"


def test_a_cluster_that_is_gone_is_one_message(capsys) -> None:
    cluster = Cluster("SUCCEEDED", 0, *[[ConnectionError("refused")]] * 9)
    with pytest.raises(ResourceError, match=r"no Ray dashboard answers at http://h:8265 \(refused\)"):
        job_client._followed(cluster, "j", "http://h:8265")
    assert len(cluster.connections) == 9 - job_client._RECONNECTS - 1


@pytest.mark.parametrize(
    ("given", "variables", "place"),
    [
        ("", {}, "http://127.0.0.1:8265"),
        ("head:8265", {"RAY_ADDRESS": "http://other:1"}, "http://head:8265"),
        ("https://ray.example.org/", {}, "https://ray.example.org"),
        ("", {"RAY_ADDRESS": "10.0.0.1:6379"}, "http://127.0.0.1:8265"),
        ("", {"RAY_ADDRESS": "http://head:8265"}, "http://head:8265"),
        ("", {"RAY_ADDRESS": "http://head:8265", "RAY_API_SERVER_ADDRESS": "http://api:1"}, "http://api:1"),
    ],
)
def test_addresses(given, variables, place, monkeypatch) -> None:
    for name in ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert job_client._address(given) == place


@pytest.mark.parametrize("given", ["ray://head:10001", "http://head:port", "http://", "head:99999999"])
def test_no_address(given) -> None:
    with pytest.raises(ResourceError, match="is no address of a dashboard: expected http://HOST:8265"):
        job_client._address(given)


def test_nobody_listens() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        with pytest.raises(ResourceError, match=r"no Ray dashboard answers at .*give --address"):
            job_client._client(f"http://127.0.0.1:{port}")


def test_secrets_do_not_become_variables_of_a_job(monkeypatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "s3cr3t")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://s3:9000")
    monkeypatch.setenv("HERE", "1")
    found = job_client._variables(["HERE", "THERE=2=3"])
    assert found.items() >= {"HERE": "1", "THERE": "2=3", "AWS_ENDPOINT_URL": "http://s3:9000"}.items()
    assert "AWS_SECRET_ACCESS_KEY" not in found
    for name in ("AWS_SECRET_ACCESS_KEY", "MY_TOKEN=a", "db_password=b"):
        with pytest.raises(ResourceError, match="everybody who sees the cluster's jobs would see it"):
            job_client._variables([name])
    for item in ("ABSENT", "1=2", "=3"):
        with pytest.raises(ResourceError, match="expected NAME=VALUE"):
            job_client._variables([item])
