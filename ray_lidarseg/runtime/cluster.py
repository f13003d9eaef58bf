"""Joining or starting Ray, and asking it beforehand whether it can ever give what a run needs."""

import atexit
import os
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from shutil import rmtree

from ray_lidarseg.errors import ResourceError
from ray_lidarseg.runtime import head, ray_startup

_WORKER_ENVIRONMENT = {
    "OMP_WAIT_POLICY": "passive",  # idle OpenMP threads sleep; spinning ones slow a shared machine several times
    "GOMP_SPINCOUNT": "0",
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",  # the patch logs each print a second time
}
_FORWARDED = (
    "AWS_ENDPOINT_URL",
    "AWS_ENDPOINT_URL_S3",
    "AWS_REGION",
    "AWS_DEFAULT_REGION",
    "AWS_EC2_METADATA_DISABLED",
)
_OWN_ENVIRONMENT = {
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",  # nobody takes this machine's only node away
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # Ray's switch for binding 127.0.0.1 only
}
_JOIN_S, _START_S = 60.0, 240.0  # ours: a start takes 4 s on an idle machine and 60 on one that is loaded tenfold
_LOST_STATUS, _LEAVE_S = 2, 5.0
_MAX_TEMP_PATH = 38  # Ray adds about 60 characters, and a Unix socket's path ends at 107
_GPU_PATIENCE_S = 10.0  # a run that just ended frees its devices within seconds

_inherited: dict[str, str] | None = None  # the environment of an own Ray's workers, where `connect` started one


@contextmanager
def connect(num_cpus: int | None = None, shows_output: bool = True) -> Iterator[None]:
    """Joins the cluster of ``RAY_ADDRESS``, else starts a Ray of its own for the length of the block.

    An initialised Ray is left alone. The own Ray listens on the loopback interface only, lets in nobody without its
    token, keeps to its own folder (below ``RAY_TMPDIR``, else the system's) that no other user may enter, and never
    joins another instance that happens to run on the machine. A cluster keeps its own mode of authentication.

    Args:
        num_cpus: Logical CPUs the work needs; an own Ray gets at least these, also on a machine with fewer cores.
        shows_output: Whether what workers print comes to this terminal, too.

    Raises:
        ResourceError: No cluster answers at ``RAY_ADDRESS``, Ray does not start here, or the head is lost meanwhile.
    """
    _set_environment()
    import ray

    if ray.is_initialized():
        yield
        return
    address = _address()
    with _joined(address, shows_output) if address else _started(num_cpus, shows_output):
        yield


def worker_runtime_env() -> dict[str, dict[str, str]]:
    """The ``runtime_env`` of tasks and actors: quiet OpenMP, and where S3 is.

    On an own Ray only what changed since its start, as its workers inherit all that: those it starts beforehand serve
    only work that asks for no environment. Credentials are not in it, for Ray shows a runtime environment in its
    dashboard: a local Ray's workers inherit them, and the pods of a cluster have their own.
    """
    wanted = {**_WORKER_ENVIRONMENT, **{name: os.environ[name] for name in _FORWARDED if name in os.environ}}
    if _inherited is not None:
        wanted = {name: value for name, value in wanted.items() if name in _FORWARDED and value != _inherited.get(name)}
    return {"env_vars": wanted} if wanted else {}


def num_gpus() -> float:
    """GPUs the connected cluster has."""
    import ray

    return float(ray.cluster_resources().get("GPU", 0.0))


def num_fitting(cpus: float, gpus: float, spare_cpus: float = 0.0) -> int:
    """How many workers of so many CPUs and GPUs the connected cluster holds at once, beside some CPUs on one node."""
    nodes = sorted(_node_resources(), key=lambda node: -node.get("CPU", 0.0))
    nodes[0] = {**nodes[0], "CPU": nodes[0].get("CPU", 0.0) - spare_cpus}
    return sum(_fitting(node, cpus, gpus) for node in nodes)


_TRAIN_CPUS = "set workers.num_workers, workers.cpus_per_worker or workers.use_gpu to what fits, or add nodes"
_TRAIN_GPUS = "wait for it to end, or set workers.use_gpu=no"


def require(
    num_workers: int,
    cpus_per_worker: float,
    gpus_per_worker: float = 0.0,
    advice: tuple[str, str] = (_TRAIN_CPUS, _TRAIN_GPUS),
) -> None:
    """Checks that the connected cluster can hold all workers at once; Ray itself would wait for ever.

    Args:
        num_workers: How many.
        cpus_per_worker: CPUs of each.
        gpus_per_worker: GPUs of each.
        advice: What to do where the cluster is too small, and where its GPUs are taken.

    Raises:
        ResourceError: It cannot; the message says what is asked, what there is, and what to do.
    """
    wanted = f"{num_workers} worker(s) of {cpus_per_worker:g} CPU and {gpus_per_worker:g} GPU each"
    nodes = _node_resources()
    if num_fitting(cpus_per_worker, gpus_per_worker) < num_workers:
        raise ResourceError(f"the run asks for {wanted}, but the cluster has {_describe(nodes)}: {advice[0]}")
    if gpus_per_worker and not _gpus_come_free(num_workers * gpus_per_worker):
        raise ResourceError(
            f"the run asks for {wanted}, but all GPUs of the cluster ({_describe(nodes)}) are taken by other work: "
            f"{advice[1]}"
        )


def _set_environment() -> None:
    """What Ray reads when it is imported or started; variables that the user has set stay."""
    os.environ.setdefault("RAY_TRAIN_ENABLE_PRINT_PATCH", "0")
    if _address():
        return
    for name, value in {**_WORKER_ENVIRONMENT, **_OWN_ENVIRONMENT}.items():
        os.environ.setdefault(name, value)
    from ray._private import ray_constants

    if os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] == "0":
        ray_constants.ENABLE_RAY_CLUSTER = False  # was read when ray was imported, maybe before the line above


def _address() -> str:
    """Of the cluster to join; empty: an own Ray."""
    address = os.environ.get("RAY_ADDRESS", "")
    return "" if address == "local" else address


@contextmanager
def _joined(address: str, shows_output: bool) -> Iterator[None]:
    import ray

    advice = "start it, correct the address, or unset RAY_ADDRESS to run on this machine"
    found = _found_here() if address == "auto" else ""
    silent = f"no Ray cluster answers at RAY_ADDRESS={address}{f' ({found})' if found else ''}: {advice}"
    place = _host_and_port(found or address)
    if place and not head.answers(*place):
        raise ResourceError(silent)
    if place and os.environ.get("RAY_AUTH_MODE", "").lower() != "token" and head.wants_token(*place):
        raise ResourceError(
            f"the Ray cluster at RAY_ADDRESS={address} asks for a token: set RAY_AUTH_MODE=token, and "
            "RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH to its own"
        )
    late = f"{silent} (something listens there, but lets nobody join within {_JOIN_S:.0f} s)"
    try:
        with head.deadline(_JOIN_S, late), ray_startup.well_behaved():
            ray.init(address=address, logging_level="ERROR", log_to_driver=shows_output)
    except (ConnectionError, ValueError, RuntimeError, ray.exceptions.RayError) as error:
        raise ResourceError(f"{silent} ({error})") from error
    with _watched(place or _gcs_place(), f"the Ray cluster at {address} is lost, its head answers no more"):
        yield


@contextmanager
def _started(num_cpus: int | None, shows_output: bool) -> Iterator[None]:
    global _inherited
    import ray

    folder = tempfile.mkdtemp(prefix="rls", dir=_temp_root())  # mode 0700; Ray opens its own folder in it to everybody
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    late = f"Ray does not start on this machine within {_START_S:.0f} s; `ray-lidarseg doctor` says more"
    with ExitStack() as stack:
        stack.callback(rmtree, folder, ignore_errors=True)
        stack.enter_context(ray_startup.private_token())
        try:
            with head.deadline(_START_S, late), ray_startup.well_behaved(), ray_startup.without_services():
                ray.init(
                    address="local",
                    num_cpus=max(cores, num_cpus or 0),
                    include_dashboard=False,
                    logging_level="ERROR",
                    log_to_driver=shows_output,
                    logging_config=ray.LoggingConfig(log_level="ERROR"),  # in Ray's actors, too
                    _temp_dir=os.path.join(folder, "r"),
                )
        except ResourceError:
            raise
        except Exception as error:  # Ray raises a plain one where its node is not up within 30 s
            raise ResourceError(
                "Ray does not start on this machine; `ray-lidarseg doctor` says more. On a machine that is busy with "
                f"other work it may only have been slow: the same command tries again ({error})"
            ) from error
        _inherited = dict(os.environ)
        try:
            with _watched(_gcs_place(), "Ray's own head process is gone (out of memory?)"):
                yield
        finally:
            _inherited = None


@contextmanager
def _watched(place: tuple[str, int], what: str) -> Iterator[None]:
    """Shuts Ray down at the end. Where its head is lost that would wait for it, or crash: then the process ends so."""
    import ray

    message = f"{what}: start it again if need be; the same command continues"
    is_lost = threading.Event()
    try:
        with head.watched(*place, message, lambda: _leave(message)) as is_lost:
            yield
    except BaseException as error:
        if is_lost.is_set() and not isinstance(error, ResourceError | KeyboardInterrupt):
            raise ResourceError(message) from error  # the error that Ray makes of it came first
        raise
    finally:
        if is_lost.is_set():
            atexit.register(_leave)
            timer = threading.Timer(_LEAVE_S, _leave)  # threads that wait for Ray would keep Python from ending
            timer.daemon = True
            timer.start()
        else:
            ray.shutdown()


def _leave(message: str = "") -> None:
    """The end of a process whose head is lost, with the status of bad input: nothing of Ray is asked any more."""
    from ray._private import worker

    try:
        if message:
            print(message, file=sys.stderr)
        sys.stdout.flush()
        sys.stderr.flush()
        if worker._global_node is not None:
            worker._global_node.kill_all_processes(check_alive=False, allow_graceful=False)
    finally:
        os._exit(_LOST_STATUS)


def _found_here() -> str:
    """The address Ray would join for ``auto``: maybe of a cluster that is gone, which it dials for minutes; or ""."""
    from ray._private import services

    try:
        return str(services.get_ray_address_from_environment("auto", None))
    except ConnectionError:
        return ""


def _host_and_port(address: str) -> tuple[str, int] | None:
    """Where the head of a cluster listens; None where Ray has to find it.

    Raises:
        ResourceError: No such address.
    """
    scheme, _, place = address.rpartition("://")
    if address == "auto" or scheme not in ("", "ray"):
        return None
    host, _, port = place.partition("/")[0].rpartition(":")
    if not host or not port.isdigit() or not 0 < int(port) < 1 << 16:
        raise ResourceError(
            f"RAY_ADDRESS={address} is no address: expected HOST:PORT of a cluster's head (port 6379 by default), "
            "ray://HOST:10001, or auto for the cluster on this machine"
        )
    return host.strip("[]"), int(port)


def _gcs_place() -> tuple[str, int]:
    import ray

    host, _, port = ray.get_runtime_context().gcs_address.rpartition(":")
    return host.strip("[]"), int(port)


def _temp_root() -> str:
    root = os.environ.get("RAY_TMPDIR") or tempfile.gettempdir()
    if len(root) > _MAX_TEMP_PATH:
        raise ResourceError(
            f"Ray's sockets need a short temporary folder, but {root!r} has {len(root)} characters: set RAY_TMPDIR "
            f"to a folder of at most {_MAX_TEMP_PATH}"
        )
    os.makedirs(root, exist_ok=True)
    return root


def _node_resources() -> list[dict[str, float]]:
    import ray

    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def _fitting(node: dict[str, float], cpus: float, gpus: float) -> int:
    asked = {"CPU": cpus, "GPU": gpus}
    return min(int(node.get(name, 0.0) / amount + 1e-9) for name, amount in asked.items() if amount)


def _describe(nodes: list[dict[str, float]]) -> str:
    cpus = sum(node.get("CPU", 0.0) for node in nodes)
    gpus = sum(node.get("GPU", 0.0) for node in nodes)
    return f"{cpus:g} CPU and {gpus:g} GPU on {len(nodes)} node(s)"


def _gpus_come_free(count: float) -> bool:
    import ray

    deadline = time.monotonic() + _GPU_PATIENCE_S
    while ray.available_resources().get("GPU", 0.0) < count:
        if time.monotonic() > deadline:
            return False
        time.sleep(0.5)
    return True
