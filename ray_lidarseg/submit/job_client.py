"""Jobs of a cluster: started, followed and stopped through its dashboard's address; their exit status becomes ours."""

import asyncio
import logging
import os
import re
import shlex
import socket
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from ray_lidarseg.errors import ResourceError
from ray_lidarseg.runtime import cluster, head
from ray_lidarseg.runtime.ray_startup import environment
from ray_lidarseg.submit.code_folder import Packed, pack
from ray_lidarseg.submit.job_places import check_command

DEFAULT_ADDRESS = "http://127.0.0.1:8265"
_PROBE_S, _REQUEST_S = 10.0, 60.0  # ours: a loaded head accepts within seconds; a package of some MiB takes longer
_POLL_S = 0.5
_RECONNECTS, _RECONNECT_AFTER_S = 5, 2.0  # ours: proxies cut idle connections, and a dashboard that restarts takes 10 s
_SECRET = re.compile(r"(?i)secret|token|password|access_key|credential")
_DONE = {"SUCCEEDED", "FAILED", "STOPPED"}
_STOPPED_STATUS = 143  # as the shells have it: Ray ends a job by SIGTERM


def submit(
    command: Sequence[str],
    parsed: Mapping[str, Any],
    address: str = "",
    wait: bool = True,
    stop_on_interrupt: bool = False,
    variables: Sequence[str] = (),
    entrypoint_cpus: float = 0.0,
) -> int:
    """Starts a verb as a job, and follows it to its end.

    Args:
        command: The verb and its arguments.
        parsed: The same as the command line's parser understands them.
        address: Of the cluster's dashboard; empty: ``RAY_API_SERVER_ADDRESS``, an http ``RAY_ADDRESS``, or port 8265
            of this machine.
        wait: Whether to follow it.
        stop_on_interrupt: Whether Ctrl-C stops the job, too, and not the following alone.
        variables: Environment of the job: ``NAME=VALUE``, or ``NAME`` as it is here. Where S3 is travels by itself.
        entrypoint_cpus: CPUs to reserve for the driver; more than 0 lets it run on any node, else it runs on the head.

    Returns:
        The exit status of the verb; 0 where nobody waits for it.

    Raises:
        ResourceError: No cluster answers, it asks for another token, the job cannot start there, or the command names
            places of this machine.
    """
    check_command(command, parsed)
    of_job = _variables(variables)
    place = _address(address)
    client = _client(place)
    with tempfile.TemporaryDirectory() as folder, _explained(place, "submit to"), _deadline(place):
        packed = pack(command, Path(folder))
        _say(f"taking along {packed}")
        if packed.untracked:
            _say(f"git does not know {', '.join(packed.untracked)}: left here (`git add` takes them along)")
        job = client.submit_job(
            entrypoint=f"python -m ray_lidarseg.cli {shlex.join(packed.command)}",
            runtime_env={"working_dir": folder, "env_vars": _with_commit(of_job, packed)},
            metadata={"verb": command[0], "commit": packed.commit},
            entrypoint_num_cpus=entrypoint_cpus or None,
        )
    _say(f"job {job} at {place}\n{_ways_back(job, place)}")
    if not wait:
        return 0
    try:
        return _followed(client, job, place)
    except KeyboardInterrupt:
        if stop_on_interrupt:
            stop(job, place)
        else:
            _say(f"job {job} goes on\n{_ways_back(job, place)}")
        raise


def follow(job: str, address: str = "") -> int:
    """Shows a job's log from its beginning, and what comes, to its end.

    Returns:
        Its exit status.

    Raises:
        ResourceError: No cluster answers, or it knows no such job.
    """
    place = _address(address)
    try:
        return _followed(_client(place), job, place)
    except KeyboardInterrupt:
        _say(f"job {job} goes on\n{_ways_back(job, place)}")
        raise


def stop(job: str, address: str = "") -> int:
    """Stops a job: SIGTERM, so that the same command continues later, and SIGKILL where that takes too long.

    Returns:
        0 once it is over.

    Raises:
        ResourceError: No cluster answers, or it knows no such job.
    """
    place = _address(address)
    client = _client(place)
    with _explained(place, f"stop job {job} of"):
        was_running = client.stop_job(job)
        details = _ended(client, job)
    _say(f"job {job} {'is stopped' if was_running else 'was over already'}: {details.status.value}")
    return 0


def _followed(client: Any, job: str, place: str) -> int:
    with _explained(place, f"follow job {job} of"):
        details = _shown(client, job)
    status = details.status.value
    code = details.driver_exit_code
    if status == "SUCCEEDED":
        return 0
    if status == "STOPPED":
        _say(f"job {job} was stopped")
        return _STOPPED_STATUS
    if code is None:  # the verb never ran: the message is all there is to know
        _say(f"job {job} failed: {(details.message or 'no reason given').strip()}")
        return 1
    _say(f"job {job} failed with exit status {code}")
    return 128 - code if code < 0 else code


def _shown(client: Any, job: str) -> Any:
    """Prints a job's log to its end; a connection that was cut is made again, and goes on where it was."""
    client.get_job_info(job)  # no such job: said at once
    log, failures = _Log(), 0
    while True:
        before = log.num_shown
        try:
            asyncio.run(log.show(client.tail_job_logs(job)))
            if client.get_job_info(job).status.value in _DONE:
                return _ended(client, job)
        except (OSError, RuntimeError) as error:
            failures = 1 if log.num_shown > before else failures + 1
            if failures > _RECONNECTS:
                raise ConnectionError(str(error)) from error
        time.sleep(_RECONNECT_AFTER_S if failures else _POLL_S)


class _Log:
    """A log that comes from its beginning with each connection, printed once."""

    def __init__(self) -> None:
        self.num_shown = 0

    async def show(self, parts: AsyncIterator[str]) -> None:
        position = 0
        async for part in parts:
            position += len(part)
            if position > self.num_shown:
                print(part[max(0, len(part) - (position - self.num_shown)) :], end="", flush=True)
                self.num_shown = position


def _ended(client: Any, job: str) -> Any:
    while (details := client.get_job_info(job)).status.value not in _DONE:
        time.sleep(_POLL_S)
    return details


def _address(given: str) -> str:
    """The URL of a cluster's dashboard.

    Raises:
        ResourceError: It is none.
    """
    environment = os.environ.get("RAY_API_SERVER_ADDRESS", "")
    ray_address = os.environ.get("RAY_ADDRESS", "")
    place = given or environment or (ray_address if ray_address.startswith("http") else "") or DEFAULT_ADDRESS
    url = urlsplit(place if "://" in place else f"http://{place}")
    try:
        is_url = url.scheme in ("http", "https") and bool(url.hostname) and (url.port or 1) > 0
    except ValueError:
        is_url = False
    if not is_url:
        raise ResourceError(
            f"{place} is no address of a dashboard: expected http://HOST:8265 (Ray's port 6379 is not for jobs); of a "
            "cluster in Kubernetes `kubectl port-forward service/NAME-head-svc 8265` brings it to this machine"
        )
    return url.geturl().rstrip("/")


def _client(place: str) -> Any:
    url = urlsplit(place)
    port = url.port or (443 if url.scheme == "https" else 80)
    try:
        socket.create_connection((url.hostname or "", port), timeout=_PROBE_S).close()
    except OSError as error:
        raise ResourceError(_silent(place, str(error))) from None
    if "RAY_AUTH_TOKEN" in os.environ or "RAY_AUTH_TOKEN_PATH" in os.environ:
        os.environ.setdefault("RAY_AUTH_MODE", "token")  # before Ray is imported, which reads it once
    import ray.job_submission

    for name in ("dashboard.modules.dashboard_sdk", "dashboard.modules.job.sdk", "_private.runtime_env.packaging"):
        logging.getLogger(f"ray.{name}").setLevel(logging.WARNING)  # they tell of packages and sockets
    # Ray prefers the variables to what it is told
    with _explained(place, "submit to"), _deadline(place), environment(RAY_API_SERVER_ADDRESS=place):
        return ray.job_submission.JobSubmissionClient(place)


@contextmanager
def _explained(place: str, what: str) -> Iterator[None]:
    """Errors of Ray's client as one message that says what to do.

    Raises:
        ResourceError: See above.
    """
    import ray
    import requests

    try:
        yield
    except ray.exceptions.AuthenticationError as error:
        why = "refuses the token" if "Forbidden" in str(error) else "asks for a token"
        raise ResourceError(
            f"the cluster at {place} {why}: set RAY_AUTH_TOKEN, or RAY_AUTH_TOKEN_PATH, to the cluster's own"
        ) from None
    except (requests.RequestException, OSError) as error:
        raise ResourceError(_silent(place, str(error))) from None
    except (RuntimeError, ValueError) as error:  # Ray's client has no kinds of its own
        raise ResourceError(f"cannot {what} {place}: {_sentence(error)}") from None


def _deadline(place: str) -> AbstractContextManager[None]:
    return head.deadline(_REQUEST_S, _silent(place, f"nothing within {_REQUEST_S:.0f} s"))


def _sentence(error: Exception) -> str:
    """What the server says, without the traceback of the server."""
    text = str(error)
    if "does not exist" in text:
        return "no such job there; `ray job list` names all"
    lines = [line.strip() for line in text.replace("\\n", "\n").splitlines() if line.strip()]
    return lines[0] if len(lines) < 2 else f"{lines[0]} … {lines[-1]}"


def _silent(place: str, why: str) -> str:
    return (
        f"no Ray dashboard answers at {place} ({why}): give --address http://HOST:8265, the address that `ray start "
        "--head` prints as its dashboard's; `kubectl port-forward` or `ssh -L` bring one here that is not open"
    )


def _variables(variables: Sequence[str]) -> dict[str, str]:
    """Of the job.

    Raises:
        ResourceError: A secret, or a name that has no value here.
    """
    found = dict(cluster.worker_runtime_env().get("env_vars", {}))
    for item in variables:
        name, sign, value = item.partition("=")
        if _SECRET.search(name):
            raise ResourceError(
                f"--env {name}: everybody who sees the cluster's jobs would see it; set it on the nodes instead (a "
                "Kubernetes secret, an instance's role, the environment of `ray start`)"
            )
        if not name.isidentifier() or not (sign or name in os.environ):
            raise ResourceError(f"--env {item}: expected NAME=VALUE, or NAME of a variable that is set here")
        found[name] = value if sign else os.environ[name]
    return found


def _with_commit(variables: Mapping[str, str], packed: Packed) -> dict[str, str]:
    return {**variables, **({"RAY_LIDARSEG_COMMIT": packed.commit} if packed.commit else {})}


def _ways_back(job: str, place: str) -> str:
    address = "" if place == DEFAULT_ADDRESS else f" --address {shlex.quote(place)}"
    ways = {"follow it": "--follow", "stop it": "--stop"}
    return "\n".join(f"  {what:9}  ray-lidarseg submit{address} {option} {job}" for what, option in ways.items())


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
