"""Files that are there whole or not at all, whatever kills the writer: the one way this package writes them."""

import errno
import os
import shutil
import sys
import threading
import time
import uuid
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from typing import BinaryIO, TypeVar

from pyarrow import fs

from ray_lidarseg.errors import StorageError

_TEMPORARY_PREFIX = ".unfinished-"
_CHUNK_BYTES = 1 << 20
_WAITS_S = (0.2, 0.5, 1.0, 2.0, 4.0)  # ours
_SILENCE_S = 5.0  # ours; the SDK below asks a dead endpoint for up to a minute before it says so
_OUTAGE_WAITS_S = (*_WAITS_S, *[8.0] * 75)  # ours: ten minutes, in which a store restarts or a link comes back
_TRANSIENT = (
    *("slow", "busy", "internal_failure", "internal failure", "unavailable", "timeout", "timed out", "throttl"),
    *("http response code: 500", "http response code: 502", "http response code: 503"),
)
_OUT_OF_REACH = ("network_connection", "curlcode", "could not connect", "connection refused", "resolve host")
_answered: set[str] = set()  # stores that did: one that falls silent then is down, not misspelt
Answer = TypeVar("Answer")


def write_whole(filesystem: fs.FileSystem, path: str, data: bytes) -> None:
    """Creates or replaces a file so that nobody ever sees a part of it; missing folders are created.

    On a local disk the bytes go to a temporary file beside it, are flushed to the device and renamed; on object storage
    an object appears when its upload is complete. A symbolic link stays: what it points to is written.

    Raises:
        OSError: The folder cannot be written, or the disk is full; an older file stays as it was.
    """
    if not isinstance(filesystem, fs.LocalFileSystem):
        patiently(filesystem, lambda: _upload(filesystem, path, data))
        return
    fill_whole(path, lambda file: file.write(data))


def _upload(filesystem: fs.FileSystem, path: str, data: bytes) -> None:
    with filesystem.open_output_stream(path, compression=None) as stream:
        stream.write(data)


def create_whole(path: str, data: bytes) -> bool:
    """Creates a local file where there is none, as a whole; of two writers at once, one gets False.

    Raises:
        OSError: The folder cannot be written, or the disk is full.
    """
    path = _behind_link(path)
    with _beside(path, lambda file: file.write(data)) as unfinished:
        try:
            os.link(unfinished, path)
        except FileExistsError:
            return False
    return True


def fetch_whole(filesystem: fs.FileSystem, source: str, path: str) -> None:
    """Copies a file of any size to a local path, as a whole.

    Raises:
        OSError: The file cannot be read, the folder cannot be written, or the disk is full.
    """

    def copy(file: BinaryIO) -> None:
        with filesystem.open_input_stream(source, compression=None) as stream:
            shutil.copyfileobj(stream, file, _CHUNK_BYTES)

    fill_whole(path, copy)


def fill_whole(path: str, fill: Callable[[BinaryIO], object]) -> None:
    """Creates or replaces a local file as a whole from what ``fill`` writes into an empty one.

    Raises:
        OSError: The folder cannot be written, or the disk is full.
    """
    path = _behind_link(path)
    with _beside(path, fill) as unfinished:
        os.replace(unfinished, path)


def _behind_link(path: str) -> str:
    """What a symbolic link points to, there or not; any other path as it is."""
    return os.path.realpath(path) if os.path.islink(path) else path


@contextmanager
def _beside(path: str, fill: Callable[[BinaryIO], object]) -> Iterator[str]:
    """A temporary file in the same folder with its content, on the device; gone afterwards."""
    folder, name = os.path.split(path)
    os.makedirs(folder, exist_ok=True)
    if os.path.exists(path) and not os.path.isfile(path) and not os.path.isdir(path):
        raise OSError(errno.ENXIO, os.strerror(errno.ENXIO), path)  # the rename would put a file in a device's place
    unfinished = os.path.join(folder, f"{_TEMPORARY_PREFIX}{name}-{uuid.uuid4().hex[:8]}")
    try:
        with open(unfinished, "w+b") as file:
            fill(file)
            file.flush()
            os.fsync(file.fileno())
        yield unfinished
    finally:
        if os.path.exists(unfinished):
            os.remove(unfinished)


def patiently(filesystem: fs.FileSystem, ask: Callable[[], Answer]) -> Answer:
    """What ``ask`` gives; on object storage it is asked again, ever later, while the store is busy or out of reach.

    The SDK below repeats requests, too, but not one of a few bytes whose error message is longer than the answer.

    Raises:
        OSError: The last failure, or at once one that waiting does not cure.
    """
    if isinstance(filesystem, fs.LocalFileSystem):
        return ask()
    return outlasting(store_of(filesystem), ask, OSError)


def outlasting(store: str, ask: Callable[[], Answer], failure: type[Exception]) -> Answer:
    """What ``ask`` gives, from a store that may be busy, or be out of reach for minutes once it has answered.

    Args:
        store: Its name.
        ask: May be called any number of times.
        failure: What it raises where the store fails.

    Raises:
        Exception: The last failure, or at once one that waiting does not cure.
    """
    for number, wait_s in enumerate(_OUTAGE_WAITS_S):
        try:
            with _silence_said(store):
                answer = ask()
        except FileNotFoundError:
            _answered.add(store)
            raise
        except failure as error:
            text = str(error).lower()
            is_out = store in _answered and any(sign in text for sign in _OUT_OF_REACH)
            is_busy = number < len(_WAITS_S) and any(sign in text for sign in _TRANSIENT)
            if not is_out and not is_busy:
                raise
            if number == len(_WAITS_S):
                print(
                    f"{store} does not answer any more: waiting up to {sum(_OUTAGE_WAITS_S) / 60:.0f} min", flush=True
                )
            time.sleep(wait_s)
        else:
            _answered.add(store)
            return answer
    return ask()


@contextmanager
def _silence_said(store: str) -> Iterator[None]:
    """Says that a store which never answered this process is still silent, while one waits for it."""
    if store in _answered:
        yield
        return
    words = f"{store} has not answered yet: asking again for up to a minute (AWS_ENDPOINT_URL says where it is)"
    notice = threading.Timer(_SILENCE_S, print, (words,), {"file": sys.stderr, "flush": True})
    notice.daemon = True
    notice.start()
    try:
        yield
    finally:
        notice.cancel()


def store_of(filesystem: fs.FileSystem) -> str:
    """A name for the object storage behind a file system."""
    options = filesystem.__reduce__()[1][0] if isinstance(filesystem, fs.S3FileSystem) else {}
    return f"the object storage {options.get('endpoint_override', '').rpartition('://')[2]}".rstrip()


def remove_unfinished(filesystem: fs.FileSystem, folder: str, of: Collection[str] | None = None) -> int:
    """Deletes what killed writers left behind, of any file or of those named; returns how many files."""
    found = {path: os.path.basename(path).partition(_TEMPORARY_PREFIX) for path in files_in(filesystem, folder)}
    written = {path: name.rpartition("-")[0] for path, (_, prefix, name) in found.items() if prefix}
    leftovers = [path for path, name in written.items() if of is None or name in of]
    for path in leftovers:
        filesystem.delete_file(path)
    return len(leftovers)


def files_in(filesystem: fs.FileSystem, folder: str) -> list[str]:
    """Paths of the files directly inside a folder; empty where there is no folder."""
    selector = fs.FileSelector(folder, allow_not_found=True)
    found = patiently(filesystem, lambda: filesystem.get_file_info(selector))
    try:
        return [info.path for info in found if info.type == fs.FileType.File]
    except UnicodeError as error:
        raise StorageError(f"cannot list {folder}: it holds a name that is not UTF-8: rename it") from error
