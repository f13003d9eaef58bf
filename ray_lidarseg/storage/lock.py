"""One writer a folder: a file in it says who, and is given up by the dead.

The owner's host, process and start time stand in ``in-use.json``, which the owner renews while it works. A lock whose
process is gone is broken at once on the same machine; elsewhere, when it was not renewed for a while. Time is that of
the storage, so the clocks of two hosts need not agree. Local files are created by an exclusive link, objects by
conditional puts.
"""

import fcntl
import json
import os
import signal
import socket
import threading
import time
import uuid
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

from ray_lidarseg.errors import StorageError
from ray_lidarseg.storage import object_store
from ray_lidarseg.storage.files import explained, join, resolve
from ray_lidarseg.storage.uris import is_local
from ray_lidarseg.storage.whole_files import create_whole, write_whole

LOCK_NAME = "in-use.json"

_BEAT_S = 10.0  # ours: how often an owner renews its lock
_DEAD_S = 60.0  # ours: six beats missed
_LOOK_S = 1.0  # how often a waiting writer looks


@contextmanager
def held(folder: str, verb: str) -> Iterator[None]:
    """Keeps other writers out of a folder for the length of the block.

    Args:
        folder: Path or URI; created where absent.
        verb: What works in it, for the message another writer gets.

    Raises:
        StorageError: A living process works in the folder, or it cannot be written, or (at the end of the block) this
            process was thought dead (suspended, cut off) and another one works in the folder now.
    """
    lock = _Lock(folder, verb)
    lock.take()
    beat = threading.Thread(target=lock.renew_until_stopped, name="lock", daemon=True)
    beat.start()
    try:
        yield
    except KeyboardInterrupt:
        if lock.is_lost:
            raise StorageError(
                f"{folder} was taken over by another process, as this one had given no sign of life for "
                f"{_DEAD_S:.0f} s (suspended, or cut off?): it stops here"
            ) from None
        raise
    finally:
        lock.stopped.set()
        beat.join()
        lock.release()


class _Lock:
    def __init__(self, folder: str, verb: str):
        self.folder = folder
        uri = join(folder, LOCK_NAME)
        self._file: _File = _LocalFile(uri) if is_local(uri) else _Object(uri)
        self._mine = json.dumps(_self(verb), indent=1).encode()
        self.stopped, self.is_lost = threading.Event(), False

    def take(self) -> None:
        while not self._file.create(self._mine):
            there = self._file.read()
            if there is None:  # given back since
                continue
            owner = _owner(there)
            if not self._is_dead(owner):
                raise StorageError(
                    f"{self.folder} is in use: `ray-lidarseg {owner['verb']}`, process {owner['pid']} on "
                    f"{owner['host']}, works in it since {owner['started_at']}: wait for it, stop it, or give another "
                    "folder"
                )
            if self._file.replace(there, self._mine):
                print(f"{self.folder}: process {owner['pid']} on {owner['host']} is gone, going on", flush=True)
                return

    def renew_until_stopped(self) -> None:
        while not self.stopped.wait(_BEAT_S):
            with suppress(StorageError, OSError):  # a store that does not answer now may at the next beat
                if not self._file.renew(self._mine):
                    self.is_lost = True
                    # The main thread stops as after Ctrl-C, or SIGTERM where a shell told its job to ignore the other.
                    is_ignored = signal.getsignal(signal.SIGINT) is signal.SIG_IGN
                    os.kill(os.getpid(), signal.SIGTERM if is_ignored else signal.SIGINT)
                    return

    def release(self) -> None:
        if not self.is_lost:
            with suppress(StorageError, OSError):
                self._file.remove(self._mine)

    def _is_dead(self, owner: dict[str, str]) -> bool:
        here = _self("")
        if owner["machine"] and owner["machine"] == here["machine"]:
            return _start_of(owner["pid"]) != owner["process_start"]
        age_s, is_told = self._file.age_s(), False
        while age_s < _DEAD_S:
            if not is_told:
                print(f"{self.folder}: in use by {owner['host']}; looking whether it is alive", flush=True)
                is_told = True
            time.sleep(_LOOK_S)
            before, age_s = age_s, self._file.age_s()
            if age_s < before:  # it was renewed
                return False
        return True


class _File(ABC):
    """The lock's file on one kind of storage."""

    def __init__(self, uri: str):
        self.uri = uri

    @abstractmethod
    def read(self) -> bytes | None:
        """Its content; None where there is none."""

    @abstractmethod
    def create(self, content: bytes) -> bool:
        """Writes it where there is none; whether this call did."""

    @abstractmethod
    def replace(self, there: bytes, content: bytes) -> bool:
        """Writes it where it still says ``there``; whether this call did."""

    @abstractmethod
    def renew(self, content: bytes) -> bool:
        """Makes it young; False where it no longer says ``content``."""

    @abstractmethod
    def age_s(self) -> float:
        """Seconds since it was written or renewed, by the storage's clock; without end where there is none."""

    @abstractmethod
    def remove(self, content: bytes) -> None:
        """Deletes it where it still says ``content``."""


class _LocalFile(_File):
    def __init__(self, uri: str):
        super().__init__(uri)
        self._path = Path(resolve(uri)[1])

    def read(self) -> bytes | None:
        with explained("read", self.uri):
            return self._path.read_bytes() if self._path.exists() else None

    def create(self, content: bytes) -> bool:
        with explained("write", self.uri):
            return create_whole(str(self._path), content)

    def replace(self, there: bytes, content: bytes) -> bool:
        with self._alone():
            if self.read() != there:
                return False
            with explained("write", self.uri):
                write_whole(resolve(self.uri)[0], str(self._path), content)
        return True

    def renew(self, content: bytes) -> bool:
        with self._alone():
            if self.read() != content:
                return False
            os.utime(self._path)
        return True

    def age_s(self) -> float:
        probe = self._path.with_name(f".unfinished-{LOCK_NAME}-{uuid.uuid4().hex[:8]}")
        try:
            with explained("write", self.uri):
                probe.touch()
            now_s = probe.stat().st_mtime
            return now_s - self._path.stat().st_mtime if self._path.exists() else float("inf")
        finally:
            probe.unlink(missing_ok=True)

    def remove(self, content: bytes) -> None:
        with self._alone():
            if self.read() == content:
                self._path.unlink(missing_ok=True)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Two processes at once never do the above; some network file systems know no such locks and go without."""
        folder = os.open(self._path.parent, os.O_RDONLY)
        try:
            with suppress(OSError):
                fcntl.flock(folder, fcntl.LOCK_EX)
            yield
        finally:
            os.close(folder)


class _Object(_File):
    def read(self) -> bytes | None:
        there = object_store.look(self.uri)
        return there.content if there else None

    def create(self, content: bytes) -> bool:
        return object_store.create(self.uri, content)

    def replace(self, there: bytes, content: bytes) -> bool:
        now = object_store.look(self.uri)
        return now is not None and now.content == there and object_store.replace(self.uri, content, now.etag)

    def renew(self, content: bytes) -> bool:
        return self.replace(content, content)

    def age_s(self) -> float:
        there = object_store.look(self.uri)
        return there.age_s if there else float("inf")

    def remove(self, content: bytes) -> None:
        if self.read() == content:
            object_store.delete(self.uri)


def _self(verb: str) -> dict[str, str]:
    return {
        "verb": verb,
        "host": socket.gethostname(),
        "machine": _machine(),
        "pid": str(os.getpid()),
        "process_start": _start_of(str(os.getpid())),
        "started_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "token": uuid.uuid4().hex,  # no two locks are equal
    }


def _owner(content: bytes) -> dict[str, str]:
    """Who wrote a lock; a file that says nothing is of somebody elsewhere."""
    unknown = dict.fromkeys(("verb", "host", "machine", "pid", "process_start", "started_at"), "")
    try:
        found = json.loads(content)
    except (ValueError, RecursionError):
        found = {}
    return {**unknown, **{key: str(value) for key, value in found.items()}} if isinstance(found, dict) else unknown


def _machine() -> str:
    """What two processes share that see each other's numbers: this boot of the host, and the space of process ids."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot}/{os.readlink('/proc/self/ns/pid')}"
    except OSError:  # not Linux
        return socket.gethostname()


def _start_of(pid: str) -> str:
    """When a process started, in the kernel's ticks (other systems: that it lives); empty where there is none."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        if Path("/proc/self/stat").exists() or not pid.isdigit():
            return ""
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return ""
    except OSError:
        return "alive"
    return "alive"
