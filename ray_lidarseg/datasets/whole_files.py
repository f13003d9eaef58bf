"""Files that are there whole or not at all, whatever kills the writer: the one way this package writes them."""

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager

from pyarrow import fs

_TEMPORARY_PREFIX = ".unfinished-"


def write_whole(filesystem: fs.FileSystem, path: str, data: bytes) -> None:
    """Creates or replaces a file so that nobody ever sees a part of it; missing folders are created.

    On a local disk the bytes go to a temporary file beside it, are flushed to the device and renamed; on object storage
    an object appears when its upload is complete.

    Raises:
        OSError: The folder cannot be written, or the disk is full; an older file stays as it was.
    """
    if not isinstance(filesystem, fs.LocalFileSystem):
        with filesystem.open_output_stream(path, compression=None) as stream:
            stream.write(data)
        return
    with _beside(path, data) as unfinished:
        os.replace(unfinished, path)


def create_whole(path: str, data: bytes) -> bool:
    """Creates a local file where there is none, as a whole; of two writers at once, one gets False.

    Raises:
        OSError: The folder cannot be written, or the disk is full.
    """
    with _beside(path, data) as unfinished:
        try:
            os.link(unfinished, path)
        except FileExistsError:
            return False
    return True


@contextmanager
def _beside(path: str, data: bytes) -> Iterator[str]:
    """A temporary file in the same folder that holds the data, on the device; gone afterwards."""
    folder, name = os.path.split(path)
    os.makedirs(folder, exist_ok=True)
    unfinished = os.path.join(folder, f"{_TEMPORARY_PREFIX}{name}-{uuid.uuid4().hex[:8]}")
    try:
        with open(unfinished, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        yield unfinished
    finally:
        if os.path.exists(unfinished):
            os.remove(unfinished)


def remove_unfinished(filesystem: fs.FileSystem, folder: str) -> int:
    """Deletes what killed writers left behind; returns how many files."""
    leftovers = [path for path in files_in(filesystem, folder) if _TEMPORARY_PREFIX in os.path.basename(path)]
    for path in leftovers:
        filesystem.delete_file(path)
    return len(leftovers)


def files_in(filesystem: fs.FileSystem, folder: str) -> list[str]:
    """Paths of the files directly inside a folder; empty where there is no folder."""
    found = filesystem.get_file_info(fs.FileSelector(folder, allow_not_found=True))
    return [info.path for info in found if info.type == fs.FileType.File]
