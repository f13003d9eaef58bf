import ctypes
import os
import sys

from ray._private import node, services, utils, worker

from ray_lidarseg.runtime import ray_startup


def test_the_token_is_random_private_to_the_block_and_leaves_a_chosen_mode_alone(monkeypatch):
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    tokens = []
    for _ in range(2):
        with ray_startup.private_token():
            assert os.environ["RAY_AUTH_MODE"] == "token"
            tokens.append(os.environ["RAY_AUTH_TOKEN"])
        assert "RAY_AUTH_TOKEN" not in os.environ
    assert [len(token) for token in tokens] == [64, 64]
    assert tokens[0] != tokens[1]
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    with ray_startup.private_token():
        assert os.environ["RAY_AUTH_MODE"] == "disabled"


def test_what_is_replaced_while_ray_starts_is_back_afterwards():
    owners = [(utils, "set_sigterm_handler"), (worker, "connect"), (services, "start_api_server")]
    owners += [(node.Node, "start_monitor"), (utils, "get_dashboard_dependency_error")]
    before = [getattr(*owner) for owner in owners]
    with ray_startup.well_behaved(), ray_startup.without_services():
        assert not any(getattr(*owner) is old for owner, old in zip(owners, before, strict=True))
    assert [getattr(*owner) for owner in owners] == before


def test_events_without_meaning_are_not_printed_and_others_are(monkeypatch):
    printed = []
    monkeypatch.setattr(worker, "print_to_stdstream", lambda data, ignore_prefix: printed.append(data))
    with ray_startup.well_behaved():
        pass
    with ray_startup.well_behaved():  # filters once
        pass
    many = "WARNING: 18 PYTHON worker processes have been started on node: 1, and 2"
    for lines in ([many], [many, "step 1"], ["2 Workers killed due to memory pressure (OOM)"]):
        worker.print_to_stdstream({"lines": lines, "pid": "raylet"}, ignore_prefix=False)
    assert [data["lines"] for data in printed] == [["step 1"], ["2 Workers killed due to memory pressure (OOM)"]]


def test_c_code_that_takes_hold_of_stderr_while_connecting_writes_elsewhere(tmp_path, capfd):
    libc = ctypes.CDLL(None)
    stderr = ctypes.c_void_p.in_dll(libc, "stderr")
    before = stderr.value
    with ray_startup._c_stderr_to(str(tmp_path / "log")):
        held = ctypes.c_void_p(stderr.value)
        print("python", file=sys.stderr, flush=True)
    assert stderr.value == before
    libc.fputs(b"core", held)
    libc.fflush(held)
    assert (tmp_path / "log").read_text() == "core"
    assert capfd.readouterr().err == "python\n"
