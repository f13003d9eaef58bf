"""Joining or starting Ray, and asking it beforehand whether it can ever give what a run needs."""

import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from shutil import rmtree

from ray_lidarseg.errors import ResourceError

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
_MAX_TEMP_PATH = 40  # Ray adds about 60 characters, and a Unix socket's path ends at 107
_GPU_PATIENCE_S = 10.0  # a run that just ended frees its devices within seconds


@contextmanager
def connect(num_cpus: int | None = None) -> Iterator[None]:
    """Joins the cluster of ``RAY_ADDRESS``, else starts a Ray of its own for the length of the block.

    An initialised Ray is left alone. The own Ray listens on the loopback interface only, keeps to its own folder
    (``RAY_TMPDIR``, else the system's), and never joins another instance that happens to run on the machine.

    Args:
        num_cpus: Logical CPUs the work needs; an own Ray gets at least these, also on a machine with fewer cores.

    Raises:
        ResourceError: No cluster answers at ``RAY_ADDRESS``, or Ray does not start here.
    """
    _stay_local()
    import ray

    if ray.is_initialized():
        yield
        return
    stop = _join(os.environ["RAY_ADDRESS"]) if os.environ.get("RAY_ADDRESS") else _start(num_cpus)
    try:
        yield
    finally:
        ray.shutdown()
        if stop:
            rmtree(stop, ignore_errors=True)


def worker_environment() -> dict[str, str]:
    """Variables for ``runtime_env``: quiet OpenMP, and where S3 is.

    Credentials are not among them, for Ray shows a runtime environment in its dashboard: a local Ray's workers inherit
    them, and the pods of a cluster have their own.
    """
    forwarded = {name: os.environ[name] for name in _FORWARDED if name in os.environ}
    return {**_WORKER_ENVIRONMENT, **forwarded}


def num_gpus() -> float:
    """GPUs the connected cluster has."""
    import ray

    return float(ray.cluster_resources().get("GPU", 0.0))


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
    if sum(_fitting(node, cpus_per_worker, gpus_per_worker) for node in nodes) < num_workers:
        raise ResourceError(f"the run asks for {wanted}, but the cluster has {_describe(nodes)}: {advice[0]}")
    if gpus_per_worker and not _gpus_come_free(num_workers * gpus_per_worker):
        raise ResourceError(
            f"the run asks for {wanted}, but all GPUs of the cluster ({_describe(nodes)}) are taken by other work: "
            f"{advice[1]}"
        )


def _stay_local() -> None:
    os.environ.setdefault("RAY_TRAIN_ENABLE_PRINT_PATCH", "0")
    if os.environ.get("RAY_ADDRESS"):
        return
    os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")  # nobody takes this machine's only node away
    os.environ.setdefault("RAY_AUTH_MODE", "disabled")  # loopback only; else Ray writes a token into the home folder
    os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")  # Ray's switch for binding 127.0.0.1 only
    from ray._private import ray_constants

    if os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] == "0":
        ray_constants.ENABLE_RAY_CLUSTER = False  # was read when ray was imported, maybe before the line above


def _join(address: str) -> str:
    import ray

    try:
        ray.init(address=address, logging_level="ERROR")
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise ResourceError(
            f"no Ray cluster answers at RAY_ADDRESS={address}: start it, correct the address, or unset RAY_ADDRESS to "
            f"run on this machine ({error})"
        ) from error
    return ""


def _start(num_cpus: int | None) -> str:
    import ray

    folder = tempfile.mkdtemp(prefix="rls", dir=_temp_root())
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        ray.init(
            address="local",
            num_cpus=max(cores, num_cpus or 0),
            include_dashboard=False,
            logging_level="ERROR",
            logging_config=ray.LoggingConfig(log_level="ERROR"),  # in Ray's actors, too
            _temp_dir=folder,
        )
    except (ConnectionError, ValueError, RuntimeError, OSError) as error:
        rmtree(folder, ignore_errors=True)
        raise ResourceError(f"Ray does not start on this machine; `ray-lidarseg doctor` says more ({error})") from error
    return folder


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
