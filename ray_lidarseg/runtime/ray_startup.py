"""What ``ray.init`` does that a command line should not: handle signals, start services nobody asks, talk to itself.

Ray has no switches for these, so its functions are replaced while it starts; all of them in this file (Ray 2.60).
"""

import ctypes
import os
import re
import secrets
import signal
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

_MEANINGLESS = re.compile(
    r"\d+ PYTHON worker processes have been started|has constructor arguments in the object store"
)
"""Events that say nothing to a user: Ray's log files keep them."""


@contextmanager
def well_behaved() -> Iterator[None]:
    """While Ray is joined or started: signals stay ours, and what Ray's core says to itself stays in its log files."""
    from ray._private import utils, worker

    with ExitStack() as stack:
        # Ray's handler of SIGTERM calls sys.exit in the middle of anything.
        stack.enter_context(_replaced(utils, "set_sigterm_handler", lambda handler: None))
        stack.enter_context(_replaced(worker, "connect", _connecting_quietly(worker.connect)))
        stack.enter_context(_no_handler_in_c(signal.SIGTERM))
        if not hasattr(worker.print_to_stdstream, "shows"):
            worker.print_to_stdstream = _Filter(worker.print_to_stdstream)
        yield


@contextmanager
def without_services() -> Iterator[None]:
    """While an own Ray is started: no dashboard process, no web server, no autoscaler, for a cluster nobody else sees.

    Ray starts the dashboard's process even without a dashboard, and waits for it; its agent serves less where Ray takes
    the dashboard's packages for missing.
    """
    from ray._private import node, services, utils

    with (
        _replaced(utils, "get_dashboard_dependency_error", lambda: ImportError("not needed")),
        _replaced(services, "start_api_server", lambda *_, **__: (None, None)),
        _replaced(node.Node, "start_monitor", lambda self: None),
    ):
        yield


@contextmanager
def private_token() -> Iterator[None]:
    """Authentication by a random token that only this process and its children know, unless the user chose a mode."""
    if "RAY_AUTH_MODE" in os.environ:
        yield
        return
    token = os.environ.get("RAY_AUTH_TOKEN", secrets.token_hex(32))
    try:
        with environment(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=token):
            _read_authentication()
            yield
    finally:
        _read_authentication()


@contextmanager
def _no_handler_in_c(number: int) -> Iterator[None]:
    """Takes a signal back from Ray's core, which writes out its stack before it passes the signal on to Python."""
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread() and (handler := signal.getsignal(number)) is not None:
            signal.signal(number, handler)


class _Filter:
    """``ray._private.worker.print_to_stdstream`` for everything but what means nothing."""

    def __init__(self, printer: Any):
        self._printer = printer

    def __call__(self, data: dict[str, Any], *arguments: Any, **named: Any) -> None:
        lines = [line for line in data["lines"] if self.shows(line)]
        if lines:
            self._printer({**data, "lines": lines}, *arguments, **named)

    @staticmethod
    def shows(line: str) -> bool:
        """Whether a line means something to a user."""
        return not _MEANINGLESS.search(line)


def _connecting_quietly(connect: Any) -> Any:
    """Ray's ``connect``, after which the core in this process writes errors to its log file and not to the terminal."""

    def quietly(*arguments: Any, **named: Any) -> None:
        with _c_stderr_to("/dev/null"):
            connect(*arguments, **named)

    return quietly


@contextmanager
def _c_stderr_to(path: str) -> Iterator[None]:
    """Makes C++ code that now takes hold of ``stderr``, as Ray's logger does once, keep that file for ever."""
    libc = ctypes.CDLL(None)
    try:
        stderr = ctypes.c_void_p.in_dll(libc, "stderr")
    except ValueError:  # a C library with another name for it
        yield
        return
    libc.fopen.restype = ctypes.c_void_p
    before = stderr.value
    stderr.value = libc.fopen(path.encode(), b"w") or before
    try:
        yield
    finally:
        stderr.value = before


def _read_authentication() -> None:
    """Makes Ray look at the variables again, which it read when it was imported."""
    from ray import _raylet

    _raylet.Config.initialize("")
    _raylet.AuthenticationTokenLoader.instance().reset_cache()


@contextmanager
def environment(**variables: str) -> Iterator[None]:
    """Variables of this process for the length of the block."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@contextmanager
def _replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
    before = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, before)
