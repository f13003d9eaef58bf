"""What a file was when something was made of it: size, times and digest; and whether it is still that file.

Sizes and times are cheap to ask for; a digest is only taken again where the size is the same and a time is not.
"""

import os
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

from pyarrow import fs

from ray_lidarseg.storage import files
from ray_lidarseg.storage.uris import folder_of, is_local, name_of, parse
from ray_lidarseg.storage.whole_files import patiently

_THREADS = 16  # one round trip each on network storage
_LISTED_FROM = 8  # ours: files of one folder in a bucket that are worth listing it, a thousand names a request


@dataclass(frozen=True)
class Stamp:
    """A file as it was.

    Attributes:
        size: Bytes.
        times_ns: When its content was last modified and, on local disks, when anything about it was (which no program
            can set back, as unpacking an archive sets the first).
        digest: First 16 hex digits of the SHA-256 of its content; empty where only sizes and times were asked for.
    """

    size: int
    times_ns: tuple[int, ...]
    digest: str = ""

    def to_list(self) -> list[Any]:
        """As JSON."""
        return [self.size, list(self.times_ns), self.digest]

    @staticmethod
    def from_list(content: list[Any]) -> "Stamp":
        """The inverse of ``to_list``."""
        return Stamp(int(content[0]), tuple(map(int, content[1])), str(content[2]))


_seen: ContextVar[dict[str, Stamp] | None] = ContextVar("seen", default=None)


@contextmanager
def recorded() -> Iterator[dict[str, Stamp]]:
    """Stamps of all files that ``read_bytes`` reads in the block, in this thread, by URI."""
    stamps: dict[str, Stamp] = {}
    token = _seen.set(stamps)
    try:
        yield stamps
    finally:
        _seen.reset(token)


def read_bytes(uri: str) -> bytes:
    """The whole content of a file; see ``files.read_bytes``. A block of ``recorded`` learns its stamp."""
    seen = _seen.get()
    if seen is None:
        return files.read_bytes(uri)
    before = stamps_of([uri]).get(uri)  # first: a change while it is read shows the next time
    content = files.read_bytes(uri)
    if before is not None:
        seen[uri] = Stamp(len(content), before.times_ns, digest_of(content))
    return content


def digest_of(content: bytes) -> str:
    """First 16 hex digits of the SHA-256."""
    return sha256(content).hexdigest()[:16]


def stamps_of(uris: Iterable[str]) -> dict[str, Stamp]:
    """Sizes and times of files, without reading them; those that do not exist are left out.

    Raises:
        StorageError: A store does not answer, or denies access; or a path is a ring of symbolic links.
    """
    by_folder: dict[str, list[str]] = defaultdict(list)
    for uri in dict.fromkeys(uris):
        by_folder[folder_of(uri)].append(uri)
    if len(by_folder) == 1 and len(next(iter(by_folder.values()))) == 1:
        return _of_folder(*by_folder.values())
    found: dict[str, Stamp] = {}
    with ThreadPoolExecutor(_THREADS) as threads:
        for part in threads.map(_of_folder, by_folder.values()):
            found |= part
    return found


def changed_files(before: Mapping[str, Stamp]) -> set[str]:
    """Which files have another content than they had; one that is gone has not changed.

    Args:
        before: Stamps with digests, by URI.

    Raises:
        StorageError: A file cannot be read.
    """
    now = stamps_of(before)
    resized = {uri for uri, stamp in now.items() if stamp.size != before[uri].size}
    touched = [uri for uri, stamp in now.items() if uri not in resized and stamp.times_ns != before[uri].times_ns]
    with ThreadPoolExecutor(_THREADS) as threads:
        digests = dict(zip(touched, threads.map(lambda uri: digest_of(files.read_bytes(uri)), touched), strict=True))
    return resized | {uri for uri, digest in digests.items() if digest != before[uri].digest}


def _of_folder(uris: list[str]) -> dict[str, Stamp]:
    if is_local(uris[0]):
        found = {uri: _local(parse(uri).path) for uri in uris}
        return {uri: stamp for uri, stamp in found.items() if stamp is not None}
    filesystem, folder = files.resolve(folder_of(uris[0]))
    paths = {f"{folder}/{name_of(uri)}": uri for uri in uris}
    asked: Any = list(paths)
    if len(uris) >= _LISTED_FROM:
        asked = fs.FileSelector(folder, allow_not_found=True)
    with files.explained("look up", uris[0]):
        infos = patiently(filesystem, lambda: filesystem.get_file_info(asked))
    is_wanted = (info for info in infos if info.path in paths and info.type == fs.FileType.File)
    return {paths[info.path]: Stamp(info.size, (info.mtime_ns,)) for info in is_wanted}


def _local(path: str) -> Stamp | None:
    with files.explained("look up", path):
        try:
            status = os.stat(path)
        except (FileNotFoundError, NotADirectoryError):
            return None
    return Stamp(status.st_size, (status.st_mtime_ns, status.st_ctime_ns))
