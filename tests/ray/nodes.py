"""A Ray cluster of several nodes on this machine, in a process of its own: its nodes are killed from here.

``ray.cluster_utils.Cluster`` needs the main thread and a Ray that nothing else uses, hence the process; it takes one
command a line and answers with one line.
"""

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from shutil import rmtree
from typing import Any
from unittest import mock

from tests.ray.processes import descendants

_START_S = 180
_TOKEN = "0123456789abcdef" * 4


class Nodes:
    """A head without CPUs and nodes of one CPU each.

    Args:
        folder: For Ray's own files; a short path.
        count: Nodes besides the head.

    Attributes:
        environment: What a driver that joins it needs.
        left: Nodes besides the head that live.
        pid: Of the process above all of theirs.
    """

    def __init__(self, folder: str, count: int):
        clean = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
        settings = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": _TOKEN, "RAY_worker_niceness": "0"}
        patience = {
            "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "60",  # a group is planned before Ray misses the dead node
            "RAY_TRAIN_PREEMPTION_POLL_INTERVAL_S": "0.5",  # notices come when the test is short, too
        }
        thrift = {"RAY_enable_worker_prestart": "0", "RAY_prestart_worker_first_driver": "0"}  # nobody could use them
        self.environment = {**clean, **settings, **patience, **thrift, "RAY_TMPDIR": folder}
        command = [sys.executable, "-m", "tests.ray.nodes", str(count)]
        self._count = self.left = count
        self._process = subprocess.Popen(
            command, env=self.environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
        )
        self.pid = self._process.pid
        self._take()

    def kill(self, word: str) -> int:
        """Kills a node and all its processes at once, one where a process has the word in its title; how many had."""
        busy = int(self._ask(f"kill {word}"))
        self.left -= min(1, busy)
        return busy

    def fill(self) -> None:
        """Starts as many nodes as are missing."""
        while self.left < self._count:
            self.add()

    def add(self) -> None:
        """Starts one more node."""
        self._ask("add")
        self.left += 1

    def restart(self) -> None:
        """Ends the whole cluster, its head too, and starts another one at another address."""
        self._ask("restart")
        self._take()
        self.left = self._count

    def take_away(self, word: str, seconds: float) -> None:
        """Announces that a node with such a process is taken away then, as clouds do of spot instances, and does it."""
        self.left -= min(1, int(self._ask(f"take {word} {seconds}")))

    def close(self) -> None:
        """Ends all of it."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(timeout=120)

    def _ask(self, line: str) -> str:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{line}\n")
        return self._answer()

    def _take(self) -> None:
        self.environment["RAY_ADDRESS"] = self._answer()

    def _answer(self) -> str:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith("> "):
                return line[2:].strip()
        raise RuntimeError("the cluster's process has ended")


@contextmanager
def nodes_of(count: int) -> Iterator[Nodes]:
    """A cluster for the length of the block."""
    folder = tempfile.mkdtemp(prefix="rln", dir="/tmp")
    nodes = Nodes(folder, count)
    try:
        yield nodes
    finally:
        nodes.close()
        rmtree(folder, ignore_errors=True)


def _patient(get_node: Callable[..., Any]) -> Callable[..., Any]:
    """On a loaded machine a node takes more than the 30 s that Ray gives it."""

    def asked(*arguments: Any) -> Any:
        for _ in range(_START_S):
            with suppress(RuntimeError):
                return get_node(*arguments)
            time.sleep(1)
        return get_node(*arguments)

    return asked


def _serve(count: int) -> None:
    from ray._private import services
    from ray._raylet import GcsClient
    from ray.cluster_utils import Cluster
    from ray.core.generated import autoscaler_pb2

    from ray_lidarseg.runtime.ray_startup import without_services

    def add(cluster: Cluster) -> None:
        with without_services(), mock.patch.object(services, "get_node", _patient(services.get_node)):
            cluster.add_node(num_cpus=1, include_log_monitor=False)  # the head's reads the logs of all

    def started() -> Cluster:
        with without_services(), mock.patch.object(services, "get_node", _patient(services.get_node)):
            cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
        for _ in range(count):
            add(cluster)
        print(f"> {cluster.address}", flush=True)
        return cluster

    def raylet(node) -> int:
        return node.all_processes["raylet"][0].process.pid

    cluster = started()
    for line in sys.stdin:
        action, *words = line.split()
        if action == "restart":
            cluster.shutdown()
            print("> gone", flush=True)
            cluster = started()
            continue
        if action == "add":
            add(cluster)
            print("> added", flush=True)
            continue
        busy = [node for node in cluster.worker_nodes if descendants(raylet(node), words[0])]
        if not busy:
            print("> 0", flush=True)
            continue
        node = sorted(busy, key=raylet)[0]
        if action == "take":
            deadline_ms = int((time.time() + float(words[1])) * 1000)
            reason = autoscaler_pb2.DrainNodeReason.DRAIN_NODE_REASON_PREEMPTION
            GcsClient(cluster.address).drain_node(node.node_id, reason, "spot", deadline_ms)
            time.sleep(float(words[1]))
        for process in [*descendants(raylet(node), ""), raylet(node)]:
            with suppress(ProcessLookupError):  # it has ended since it was seen
                os.kill(process, signal.SIGKILL)
        cluster.remove_node(node, allow_graceful=False)
        print(f"> {len(busy)}", flush=True)
    cluster.shutdown()
    Path(os.environ["RAY_TMPDIR"], "ray", "ray_current_cluster").unlink(missing_ok=True)


if __name__ == "__main__":
    _serve(int(sys.argv[1]))
