"""An S3 server (moto) that can be told to fail, to be slow, or to deny."""

import itertools
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

_ERROR = "<?xml version='1.0'?><Error><Code>{}</Code><Message>made by the test</Message></Error>"


class Faults:
    """What the server does wrong; counts what it did.

    Attributes:
        fail_every: Every n-th request is answered 503 SlowDown; 0: none.
        slow_every: Every n-th request is answered late; 0: none.
        delay_s: How late.
        denied: Whether every request is answered 403 AccessDenied.
        is_down: Whether every connection is closed without an answer.
    """

    def __init__(self) -> None:
        self.fail_every = self.slow_every = 0
        self.delay_s, self.denied, self.is_down = 0.2, False, False
        self.num_failed = self.num_slow = 0
        self._requests = itertools.count(1)

    def __call__(self, application: Callable[..., Iterable[bytes]]) -> Callable[..., Iterable[bytes]]:
        def answer(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
            number = next(self._requests)
            if self.slow_every and number % self.slow_every == 0:
                self.num_slow += 1
                time.sleep(self.delay_s)
            if self.denied:
                return _error(environ, start_response, "403 Forbidden", "AccessDenied")
            if self.fail_every and number % self.fail_every == 0:
                self.num_failed += 1
                return _error(environ, start_response, "503 Slow Down", "SlowDown")
            return application(environ, start_response)

        return answer


def _error(environ: dict[str, Any], start_response: Callable[..., Any], status: str, code: str) -> list[bytes]:
    environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
    start_response(status, [("Content-Type", "application/xml"), ("Connection", "close")])
    return [b"" if environ["REQUEST_METHOD"] == "HEAD" else _ERROR.format(code).encode()]


@contextmanager
def s3_server(faults: Faults) -> Iterator[str]:
    """Runs the server for the length of the block; gives its address."""
    from moto.server import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import WSGIRequestHandler, make_server

    class Quiet(WSGIRequestHandler):
        def handle(self) -> None:
            if not faults.is_down:
                super().handle()

        def log(self, kind: str, message: str, *args: Any) -> None:
            pass

    application = faults(DomainDispatcherApplication(create_backend_app))
    server = make_server("127.0.0.1", 0, application, threaded=True, request_handler=Quiet)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()


def variables(endpoint: str) -> dict[str, str]:
    """What the environment must say to use it."""
    keys = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_REGION": "us-east-1"}
    return {**keys, "AWS_ENDPOINT_URL": endpoint, "AWS_EC2_METADATA_DISABLED": "true"}
