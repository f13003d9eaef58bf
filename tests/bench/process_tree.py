"""Memory and CPU time of a process and all that it started, sampled from /proc while a benchmark runs."""

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_STATE, _PARENT, _USER, _SYSTEM = 0, 1, 11, 12  # fields of /proc/PID/stat behind the command's name
_SERVICES = (
    "raylet",
    "gcs_server",
    "monitor",
    "dashboard",
    "Agent",
    "StatsActor",
    "Coordinator",
    "UsageCollection",
    "Tracker",
)


@dataclass(frozen=True)
class Sample:
    """A process tree at one moment.

    Attributes:
        time_s: Since the epoch, as files' times are.
        memory_mib: Proportional set size, so that shared memory counts once; 0 where it was not asked for.
        cpu_s: CPU time of all processes so far, ended ones included as they were last seen.
        services_cpu_s: Of this, Ray's services: they cost by the second, not by the work.
        processes: How many there are.
    """

    time_s: float
    memory_mib: float
    cpu_s: float
    services_cpu_s: float
    processes: int


@dataclass
class Watch:
    """Samples of the tree below a process.

    Args:
        root: Process id.
        with_memory: Reading it costs some milliseconds a process.
    """

    root: int
    with_memory: bool = True
    samples: list[Sample] = field(default_factory=list)
    _cpu_s: dict[int, tuple[float, bool]] = field(default_factory=dict)

    def sample(self) -> Sample:
        """Adds one."""
        now, stats = time.time(), _stats()
        tree = _below(self.root, {pid: int(stat[_PARENT]) for pid, stat in stats.items()})
        for pid in tree:
            used_s = (int(stats[pid][_USER]) + int(stats[pid][_SYSTEM])) / _TICKS_PER_S
            self._cpu_s[pid] = used_s, _is_service(pid)
        memory_mib = sum(map(_memory_mib, tree)) if self.with_memory else 0.0
        cpu_s = sum(used_s for used_s, _ in self._cpu_s.values())
        services_s = sum(used_s for used_s, is_service in self._cpu_s.values() if is_service)
        self.samples.append(Sample(now, memory_mib, cpu_s, services_s, len(tree)))
        return self.samples[-1]


@contextmanager
def watched(root: int, interval_s: float, with_memory: bool) -> Iterator[Watch]:
    """Samples in a thread for the length of the block."""
    watch, stop = Watch(root, with_memory), threading.Event()

    def go_on() -> None:
        while not stop.wait(interval_s):
            watch.sample()

    thread = threading.Thread(target=go_on, daemon=True)
    watch.sample()
    thread.start()
    try:
        yield watch
    finally:
        stop.set()
        thread.join()
        watch.sample()


def workers_of(root: int) -> list[int]:
    """A process and its descendants that live, without Ray's services."""
    stats = _stats()
    tree = _below(root, {pid: int(stat[_PARENT]) for pid, stat in stats.items()})
    return [pid for pid in tree if stats[pid][_STATE] != "Z" and not _is_service(pid)]


def _stats() -> dict[int, list[str]]:
    found = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                text = Path("/proc", entry, "stat").read_text()
            except OSError:  # it ended
                continue
            found[int(entry)] = text.rpartition(")")[2].split()
    return found


def _below(root: int, parent: dict[int, int]) -> list[int]:
    """The root, where it lives, and all its descendants."""
    children: dict[int, list[int]] = {}
    for pid, of in parent.items():
        children.setdefault(of, []).append(pid)
    tree = [root] if root in parent else []
    for pid in tree:
        tree.extend(children.get(pid, ()))
    return tree


def _is_service(pid: int) -> bool:
    return any(name in title(_arguments(pid)) for name in _SERVICES)


def title(arguments: list[str]) -> str:
    """What a process calls itself: Ray's title, the script that Python runs, or the program."""
    program = arguments[0] if arguments else ""
    if program.startswith("ray::"):
        return program
    return next((part for part in arguments[1:3] if part.endswith(".py")), program.rpartition("/")[2])


def _arguments(pid: int) -> list[str]:
    try:
        return Path("/proc", str(pid), "cmdline").read_text().rstrip("\0").split("\0")
    except OSError:  # it ended
        return []


def _memory_mib(pid: int) -> float:
    try:
        lines = Path("/proc", str(pid), "smaps_rollup").read_text().splitlines()
    except OSError:  # it ended
        return 0.0
    return sum(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1024
