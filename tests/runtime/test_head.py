"""Heads that answer, that do not, and that go away; none of them is a real Ray."""

import errno
import socket
import threading
import time
from collections.abc import Iterator
from concurrent import futures
from contextlib import contextmanager

import grpc
import pytest

from ray_lidarseg.errors import ResourceError
from ray_lidarseg.runtime import head

SETTINGS = b"\x00\x00\x00\x04\x00\x00\x00\x00\x00"


@contextmanager
def server(greeting: bytes | None) -> Iterator[int]:
    """Listens and says ``greeting`` to everybody; None: accepts and stays silent."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        kept = []

        def serve() -> None:
            while True:
                try:
                    connection, _ = listening.accept()
                except OSError:
                    return
                kept.append(connection)
                if greeting is not None:
                    connection.sendall(greeting)

        threading.Thread(target=serve, daemon=True).start()
        yield listening.getsockname()[1]
        listening.shutdown(socket.SHUT_RDWR)
        for connection in kept:
            connection.close()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return listening.getsockname()[1]


def test_a_grpc_server_answers() -> None:
    with server(SETTINGS) as port:
        assert head.answers("127.0.0.1", port)


def test_a_web_server_a_silent_one_and_none_do_not() -> None:
    with server(b"HTTP/1.1 400 Bad Request\r\n\r\n") as port:
        assert not head.answers("127.0.0.1", port)
    with server(None) as port:
        assert not head.answers("127.0.0.1", port, patience_s=0.2)
    assert not head.answers("127.0.0.1", free_port())
    assert not head.answers("no-such-host.invalid", 6379)


def test_a_head_behind_tls_is_trusted_to_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_USE_TLS", "1")
    with server(None) as port:
        assert head.answers("127.0.0.1", port, patience_s=0.2)


@pytest.mark.parametrize(
    ("code", "wants"), [(grpc.StatusCode.UNAUTHENTICATED, True), (grpc.StatusCode.INTERNAL, False)]
)
def test_a_head_that_wants_a_token_turns_callers_away(code: grpc.StatusCode, wants: bool) -> None:
    class Service(grpc.GenericRpcHandler):
        def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler:
            return grpc.unary_unary_rpc_method_handler(lambda _, context: context.abort(code, "no"))

    serving = grpc.server(futures.ThreadPoolExecutor(1), handlers=[Service()])
    port = serving.add_insecure_port("127.0.0.1:0")
    serving.start()
    try:
        assert head.answers("127.0.0.1", port)
        assert head.wants_token("127.0.0.1", port) is wants
    finally:
        serving.stop(None)


def test_what_takes_too_long_raises() -> None:
    began = time.monotonic()
    with pytest.raises(ResourceError, match="too slow"), head.deadline(0.2, "too slow"):
        time.sleep(30)
    assert time.monotonic() - began < 5


def test_what_is_quick_enough_does_not() -> None:
    with head.deadline(0.05, "too slow"):
        pass
    time.sleep(0.1)


def test_a_head_that_goes_away_raises_in_the_main_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(head, "_WATCH_EVERY_S", 0.05)
    monkeypatch.setattr(head, "_LOST_AFTER_S", 0.2)

    def wait() -> None:
        with server(SETTINGS) as port, head.watched("127.0.0.1", port, "gone", lambda: stuck.append(1)):
            time.sleep(0.5)  # it is there, and may stay silent
            monkeypatch.setattr(head, "_is_there", lambda *_: False)
            time.sleep(30)

    stuck: list[int] = []
    with pytest.raises(ResourceError, match="gone"):
        wait()
    assert not stuck


def test_a_block_that_does_not_end_is_said_to_be_stuck(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(head, "_WATCH_EVERY_S", 0.05)
    monkeypatch.setattr(head, "_LOST_AFTER_S", 0.1)
    monkeypatch.setattr(head, "_UNWIND_S", 0.1)
    monkeypatch.setattr(head, "_is_there", lambda *_: False)
    is_stuck = threading.Event()
    with head.watched("127.0.0.1", 1, "gone", is_stuck.set):
        try:
            is_stuck.wait(10)
        except ResourceError:  # as an error of one frame
            assert is_stuck.wait(10)


@pytest.mark.parametrize(
    ("trouble", "is_there"),
    [
        (OSError(errno.EMFILE, "Too many open files"), True),
        (ConnectionRefusedError(errno.ECONNREFUSED, "refused"), False),
        (TimeoutError("timed out"), False),
    ],
)
def test_only_the_heads_own_silence_counts(monkeypatch: pytest.MonkeyPatch, trouble: OSError, is_there: bool) -> None:
    def fail(*_: object, **__: object) -> None:
        raise trouble

    monkeypatch.setattr(socket, "create_connection", fail)
    assert head._is_there("127.0.0.1", 1) is is_there


def test_a_head_that_comes_back_in_time_is_not_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(head, "_WATCH_EVERY_S", 0.05)
    monkeypatch.setattr(head, "_LOST_AFTER_S", 0.5)
    is_there = iter([True, False, False, True, False, True])
    monkeypatch.setattr(head, "_is_there", lambda *_: next(is_there, True))
    with head.watched("127.0.0.1", 1, "gone", lambda: None) as is_lost:
        time.sleep(0.8)
    assert not is_lost.is_set()
