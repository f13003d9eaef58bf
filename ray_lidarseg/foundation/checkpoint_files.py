"""Checkpoints by path or URI: a local path to the bytes, and their sha256."""

import hashlib
import os
import stat
import tempfile
from functools import lru_cache
from pathlib import Path

from pyarrow import fs

from ray_lidarseg import storage
from ray_lidarseg.errors import DataError, StorageError
from ray_lidarseg.foundation.settings import MINIATURE

_WEIGHTS = Path(__file__).parent / "weights"
_CHUNK_BYTES = 1 << 20
_CACHE_FOLDER = "ray-lidarseg-checkpoints"


def local_file(uri: str) -> Path:
    """Path of a checkpoint on this machine; one on object storage is fetched once and kept in the temporary folder.

    Args:
        uri: Path, ``file://…`` or ``s3://BUCKET/…``.

    Raises:
        DataError: There is no such file, or it is a folder.
        StorageError: The URI is malformed or the store does not answer.
    """
    info = storage.info_of(uri)
    if info.type != fs.FileType.File:
        found = "a folder" if info.type == fs.FileType.Directory else "nothing"
        raise DataError(
            f"no checkpoint file at {uri} (found {found}): nothing is downloaded for you; download the weights "
            "yourself and give the file's path or URI"
        )
    return Path(storage.absolute(uri)) if storage.is_local(uri) else _fetched(uri, info)


def shipped_weights(name: str) -> Path:
    """A file or folder of the miniature weights in the package.

    Raises:
        DataError: It is not installed.
    """
    path = _WEIGHTS / name
    if not path.exists():
        raise DataError(f"the package holds no {path.name} under {path.parent}: reinstall it, or give a checkpoint")
    return path


def sam_file(checkpoint: str) -> Path:
    """The file of a SAM: the shipped one by its name, any other by path or URI.

    Raises:
        DataError: There is none.
    """
    return shipped_weights("sam_miniature.safetensors") if checkpoint == MINIATURE else local_file(checkpoint)


def file_sha256(path: Path) -> str:
    """Hex digest of a file's content; a file that did not change is read once in a process."""
    status = path.stat()
    return _sha256(str(path), status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=64)
def _sha256(path: str, size: int, modified_ns: int) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def _fetched(uri: str, info: fs.FileInfo) -> Path:
    """Local copy; its name holds address, size and time stamp of the object, so another upload is fetched anew."""
    version = hashlib.sha256(f"{uri}\n{info.size}\n{info.mtime_ns}".encode()).hexdigest()[:16]
    folder = _cache_folder()
    copy = folder / f"{version}-{os.path.basename(info.path)}"
    if not (copy.is_file() and copy.stat().st_size == info.size):
        storage.fetch(uri, str(copy))
    return copy


def _cache_folder() -> Path:
    """The folder of fetched checkpoints in the temporary folder that all users share: only its owner may write there.

    Raises:
        StorageError: Another user made it, it is a link, or others may write into it: a checkpoint in it may be theirs.
    """
    folder = Path(tempfile.gettempdir()) / f"{_CACHE_FOLDER}-{os.getuid()}"
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        status = folder.lstat()
    except OSError as error:
        raise StorageError(
            f"cannot keep checkpoints in {folder}: {error}; set TMPDIR to a folder of your own"
        ) from error
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid() or stat.S_IMODE(status.st_mode) & 0o077:
        raise StorageError(
            f"checkpoints are kept in {folder}, which should be a folder of user {os.getuid()} with mode 700, but "
            f"belongs to user {status.st_uid} with mode {stat.S_IMODE(status.st_mode):o}, so that others may have put "
            "files there: remove it, or set TMPDIR to a folder of your own"
        )
    return folder
