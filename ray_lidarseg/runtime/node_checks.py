"""What each node of a cluster can do, and what is wrong with it: one small task on every one, the head included."""

import os
import shutil
import socket
import tempfile
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from ray_lidarseg import storage
from ray_lidarseg.errors import LidarSegError, redacted
from ray_lidarseg.runtime import cluster
from ray_lidarseg.runtime.doctor import LEAST_FREE_GIB, Check, show
from ray_lidarseg.sparse.build import BACKENDS, load_backend
from ray_lidarseg.training.environment import hardware, versions

_PATIENCE_S = 120.0  # ours: a node that never ran anything imports torch first
_MAX_SKEW_S = 5.0  # ours: far below the 15 minutes after which S3 refuses a request, and above what NTP leaves
_HEAD_BYTES = 1 << 20  # of a checkpoint: whoever reads its beginning may read it all
_MUST_AGREE = ("ray-lidarseg", "python", "torch", "ray", "numpy", "pyarrow")


@dataclass(frozen=True)
class NodeReport:
    """What a node says of itself; plain values, for it travels.

    Attributes:
        host: Its name.
        clock_s: Seconds since 1970 by its clock, when the task ended.
        versions: As ``training.environment.versions``.
        gpus: Names, as torch sees them.
        backends: Sparse backends that work there.
        free_gib: Of its temporary disk.
        faults: What did not work with storage and checkpoints.
    """

    host: str
    clock_s: float
    versions: dict[str, str]
    gpus: list[str]
    backends: list[str]
    free_gib: float
    faults: list[str] = field(default_factory=list)


def main(address: str, folders: Sequence[str] = (), checkpoints: Sequence[str] = ()) -> int:
    """Prints what was found; the exit status is 1 if something is wrong.

    Args:
        address: ``HOST:6379`` or ``ray://HOST:10001`` of a head; ``auto``: the cluster this process belongs to.
        folders: URIs that every node has to write to.
        checkpoints: URIs of files that every node has to read.

    Raises:
        ResourceError: No cluster answers.
    """
    if address != "auto" or "RAY_ADDRESS" not in os.environ:
        os.environ["RAY_ADDRESS"] = address
    with cluster.connect():
        checks = check_nodes(folders, checkpoints)
    return show(checks)


def check_nodes(folders: Sequence[str] = (), checkpoints: Sequence[str] = ()) -> list[Check]:
    """One line a node, and one for each fault; Ray must be connected.

    Args:
        folders: URIs that every node has to write to, and where each has to see what this process wrote.
        checkpoints: URIs of files that every node has to read.
    """
    import ray

    nodes = sorted((node for node in ray.nodes() if node["Alive"]), key=lambda node: node["NodeManagerAddress"])
    mark = f"doctor-{uuid.uuid4().hex}"
    checks, marked = [], []
    for folder in folders:
        try:
            storage.write_bytes(storage.join(folder, mark), b"seen")
            marked.append(folder)
        except (LidarSegError, OSError) as error:
            checks.append(Check("driver", False, redacted(str(error))))
    started = {node["NodeID"]: (time.time(), _task(node["NodeID"], marked, checkpoints, mark)) for node in nodes}
    mine = versions()
    for node in nodes:
        began_s, answer = started[node["NodeID"]]
        checks += _checked(node, began_s, answer, mine)
    for folder in marked:
        storage.remove_file(storage.join(folder, mark))
    return checks


def look(folders: Sequence[str], checkpoints: Sequence[str], mark: str) -> NodeReport:
    """What the task on a node does.

    Args:
        folders: URIs to write to.
        checkpoints: URIs of files to read.
        mark: Name of a file that lies in each folder.
    """
    faults = []
    for folder in folders:
        try:
            storage.check_writable(folder)
            if not storage.exists(storage.join(folder, mark)):
                faults.append(
                    f"{folder} is another folder here than for the driver: mount it on all nodes, or use s3://"
                )
        except (LidarSegError, OSError) as error:
            faults.append(str(error))
    for uri in checkpoints:
        try:
            filesystem, path = storage.resolve(uri)
            with storage.explained("read", uri), filesystem.open_input_stream(path) as file:
                if not file.read(_HEAD_BYTES):
                    faults.append(f"{uri} is empty: copy it again")
        except (LidarSegError, OSError) as error:
            faults.append(f"{error}; put it where every node reads it, such as s3://")
    free_gib = shutil.disk_usage(tempfile.gettempdir()).free / 2**30
    return NodeReport(
        socket.gethostname(),
        time.time(),
        versions(),
        hardware()["gpus"],
        _backends(),
        free_gib,
        list(map(redacted, faults)),
    )


def _task(node_id: str, folders: Sequence[str], checkpoints: Sequence[str], mark: str) -> Any:
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    options = {"num_cpus": 0, "max_retries": 0, "runtime_env": cluster.worker_runtime_env()}
    here = NodeAffinitySchedulingStrategy(node_id, soft=False)
    return ray.remote(look).options(scheduling_strategy=here, **options).remote(list(folders), list(checkpoints), mark)


def _checked(node: dict[str, Any], began_s: float, answer: Any, mine: dict[str, str]) -> list[Check]:
    import ray

    name = node["NodeManagerAddress"]
    try:
        report = ray.get(answer, timeout=_PATIENCE_S)
    except ray.exceptions.GetTimeoutError:
        why = f"no task starts there within {_PATIENCE_S:.0f} s: its memory or its disk may be full; restart its Ray"
        return [Check(name, False, why)]
    except Exception as error:  # whatever Ray makes of a node that is broken
        return [Check(name, False, _why(error))]
    return judged(name, node["Resources"], report, began_s, time.time(), mine)


def judged(
    name: str, resources: dict[str, float], report: NodeReport, began_s: float, ended_s: float, mine: dict[str, str]
) -> list[Check]:
    """A line of what there is, and one for each fault with what to do.

    Args:
        name: The node's address.
        resources: What Ray counts on it.
        report: What it says of itself.
        began_s: When it was asked, by the clock of this process.
        ended_s: When its answer was here.
        mine: Versions of this process.
    """
    faults = [*report.faults]
    for package in _MUST_AGREE:
        if report.versions.get(package) != mine.get(package):
            faults.append(
                f"{package} {report.versions.get(package)} there, {mine.get(package)} here: use one image, or "
                "install the pins of requirements.txt on every node"
            )
    counted = int(resources.get("GPU", 0))
    if counted > len(report.gpus):
        faults.append(
            f"Ray counts {counted} GPU, torch sees {len(report.gpus)}: install a torch for the CUDA of its driver "
            f"({report.versions.get('torch')} is there), and give the container its GPUs"
        )
    if report.free_gib < LEAST_FREE_GIB:
        faults.append(
            f"{report.free_gib:.1f} GiB free on its temporary disk: free some, or set TMPDIR before `ray start`"
        )
    skew_s = max(began_s - report.clock_s, report.clock_s - ended_s, 0.0)  # it was read between the two
    if skew_s > _MAX_SKEW_S:
        faults.append(f"its clock is at least {skew_s:.0f} s off: start an NTP service, for S3 refuses wrong times")
    have = f"{resources.get('CPU', 0):g} CPU, {counted} GPU{_named(report.gpus)}, {report.free_gib:.0f} GiB free"
    found = f"{report.host}: {have}, torch {report.versions['torch']}, sparse {' '.join(report.backends) or 'none'}"
    return [Check(name, not faults, found), *(Check(name, False, fault) for fault in faults)]


def _named(gpus: Sequence[str]) -> str:
    return f" ({', '.join(sorted(set(gpus)))})" if gpus else ""


def _backends() -> list[str]:
    found = []
    for name in BACKENDS:
        try:
            load_backend(name)
            found.append(name)
        except LidarSegError:
            continue
    return found


def _why(error: Exception) -> str:
    text = str(error)
    if "No module named" in text:
        missing = text.split("No module named", 1)[1].strip().splitlines()[0]
        return (
            f"no module {missing} there: install the package on every node, or look from inside with `ray-lidarseg "
            "doctor --address http://HOST:8265`, which takes the code along"
        )
    return f"{type(error).__name__}: {next(iter(text.strip().splitlines()), '')}"
