"""Whether the head of a Ray cluster answers: asked before joining it, and all the time afterwards.

Ray itself dials a wrong address for a quarter of an hour, and notices a lost head after a minute by ending the process.
"""

import errno
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from ray_lidarseg.errors import ResourceError

_PROBE_S = 10.0  # ours: a loaded head accepts and answers within seconds
_WATCH_EVERY_S = 3.0
_LOST_AFTER_S = 12.0  # ours: a head that is gone is told from one that is busy, and still said within 30 s
_UNWIND_S = 8.0  # ours: for what a verb writes at its end; the error may also be raised where it is caught
_GREETING = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\x00\x00\x00\x04\x00\x00\x00\x00\x00"  # HTTP/2, RFC 9113 §3.4
_SETTINGS = 4  # the frame with which every HTTP/2 server, and so every gRPC server, begins


def answers(host: str, port: int, patience_s: float = _PROBE_S) -> bool:
    """Whether a gRPC server listens there, as Ray's head does; a web server or a silent one is none.

    Args:
        host: Name or address.
        port: Of the head (6379 by default) or of its client server (10001).
        patience_s: For the connection, and again for the answer.
    """
    try:
        with socket.create_connection((host, port), timeout=patience_s) as connection:
            if os.environ.get("RAY_USE_TLS", "0").lower() in ("1", "true"):
                return True  # it would wait for a handshake, which Ray makes with the cluster's certificates
            connection.sendall(_GREETING)
            frame = b""
            while len(frame) < 4:
                if not (part := connection.recv(4 - len(frame))):
                    return False
                frame += part
            return frame[3] == _SETTINGS
    except OSError:
        return False


def wants_token(host: str, port: int, patience_s: float = _PROBE_S) -> bool:
    """Whether a head turns callers without a token away; Ray's own client ends the process where it is one of them."""
    import grpc

    with grpc.insecure_channel(f"{f'[{host}]' if ':' in host else host}:{port}") as channel:
        try:
            channel.unary_unary("/ray.rpc.NodeInfoGcsService/GetClusterId")(b"", timeout=patience_s)
        except grpc.RpcError as error:
            return error.code() == grpc.StatusCode.UNAUTHENTICATED
    return False


@contextmanager
def deadline(seconds: float, message: str) -> Iterator[None]:
    """Raises a ``ResourceError`` in the main thread where the block takes longer; elsewhere it may take for ever."""
    with _raises_in_main_thread(message) as tell:
        timer = threading.Timer(seconds, tell)
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()


@contextmanager
def watched(host: str, port: int, message: str, stuck: Callable[[], None]) -> Iterator[threading.Event]:
    """Raises a ``ResourceError`` in the main thread once nobody has been at the head's port for some seconds.

    Args:
        host: Name or address of the head.
        port: Its port.
        message: Of the error.
        stuck: Called from another thread where the block has not ended some seconds after the error.

    Yields:
        Set when the head is lost.
    """
    is_over, is_lost = threading.Event(), threading.Event()

    with _raises_in_main_thread(message) as tell:

        def watch() -> None:
            last_seen = time.monotonic()
            while not is_over.wait(_WATCH_EVERY_S):
                if _is_there(host, port):
                    last_seen = time.monotonic()
                elif time.monotonic() - last_seen > _LOST_AFTER_S:
                    is_lost.set()
                    tell()
                    if not is_over.wait(_UNWIND_S):
                        stuck()
                    return

        thread = threading.Thread(target=watch, name="head-watch", daemon=True)
        thread.start()
        try:
            yield is_lost
        finally:
            is_over.set()


def _is_there(host: str, port: int) -> bool:
    """Whether the port accepts; a head too busy to answer is not lost."""
    try:
        socket.create_connection((host, port), timeout=_WATCH_EVERY_S).close()
    except OSError as error:
        return error.errno in (errno.EMFILE, errno.ENFILE)  # the trouble is here, too many open files, and not there
    return True


@contextmanager
def _raises_in_main_thread(message: str) -> Iterator[Callable[[], None]]:
    """A callable for other threads that makes the main thread, which runs the block, raise; else one without effect.

    A signal does it, the only thing that wakes a thread from Ray's waiting.
    """
    if threading.current_thread() is not threading.main_thread():
        yield lambda: None
        return
    main, is_inside = threading.get_ident(), True

    def handle(number: int, frame: FrameType | None) -> None:
        if is_inside:
            raise ResourceError(message)

    before = signal.signal(signal.SIGUSR2, handle)
    try:
        yield lambda: signal.pthread_kill(main, signal.SIGUSR2)
    finally:
        is_inside = False
        if callable(before):  # the default ends the process, and a signal may be under way
            signal.signal(signal.SIGUSR2, before)
