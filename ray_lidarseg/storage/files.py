"""Files by URI on one door: plain local paths, ``file://`` and ``s3://``; every failure says what to do.

``s3://`` takes endpoint, region and credentials from the usual ``AWS_*`` variables (``AWS_ENDPOINT_URL`` for a store of
your own); workers of a remote cluster need the same variables. Writes are atomic: a reader sees the old file or the new
one, never a torn one.
"""

import errno
import tempfile
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import BinaryIO

from pyarrow import fs

from ray_lidarseg.errors import StorageError
from ray_lidarseg.storage import object_store, uris
from ray_lidarseg.storage.uris import join
from ray_lidarseg.storage.whole_files import (
    create_whole,
    fetch_whole,
    fill_whole,
    outlasting,
    patiently,
    store_of,
    write_whole,
)

_S3 = "s3://"
_S3_ATTEMPTS = 8  # ours: with the SDK's waits, some ten seconds
_ADVICE = {
    errno.ENOSPC: "the disk is full: free space or choose another folder; the same command continues",
    errno.EDQUOT: "the disk quota is used up: free space or choose another folder; the same command continues",
    errno.EACCES: "permission denied: choose a folder this user may use",
    errno.EPERM: "operation not permitted: choose a folder this user may use",
    errno.EROFS: "the file system is read-only: choose another folder",
    errno.ENOTDIR: "a part of the path is a file, not a folder: choose another path",
    errno.EEXIST: "a part of the path is a file, not a folder: choose another path",
    errno.ENXIO: "the path is a device, a pipe or a socket, expected a file",
    errno.EISDIR: "the path is a folder, expected a file",
    errno.ENOENT: "no such file or folder",
    errno.ENAMETOOLONG: "the name is longer than this file system allows: choose a shorter one",
    errno.ELOOP: "the path is a ring of symbolic links: mend them or choose another path",
}
_S3_ADVICE = {
    "no such bucket": "the bucket does not exist: create it or correct the name",
    "bucket does not exist": "the bucket does not exist: create it or correct the name",
    "no_such_bucket": "the bucket does not exist: create it or correct the name",
    "access_denied": "access denied: check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and the bucket's policy",
    "access denied": "access denied: check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and the bucket's policy",
    "http response code: 403": "access denied: check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and the bucket's policy",
    "invalid_access_key": "unknown access key: check AWS_ACCESS_KEY_ID",
    "invalid_client_token": "unknown access key: check AWS_ACCESS_KEY_ID",
    "signature": "wrong credentials: check AWS_SECRET_ACCESS_KEY and AWS_REGION",
    "network_connection": "no answer from the endpoint: check AWS_ENDPOINT_URL and the network",
    "no space left": _ADVICE[errno.ENOSPC],
}


def resolve(uri: str) -> tuple[fs.FileSystem, str]:
    """The file system a URI lies on, and the path in it; a plain path is made absolute.

    Raises:
        StorageError: The scheme is unknown or the URI malformed.
    """
    place = uris.parse(uri)
    if place.is_local:
        return fs.LocalFileSystem(), place.path
    options = f"?{place.options}" if place.options else ""
    try:
        filesystem, _ = fs.FileSystem.from_uri(f"s3://{place.bucket}{options}")
    except (ValueError, OSError, NotImplementedError) as error:
        raise StorageError(f"cannot use {uri!r}: expected s3://BUCKET/… ({error})") from error
    return _patient(filesystem), f"{place.bucket}/{place.path}".rstrip("/")


def _patient(filesystem: fs.FileSystem) -> fs.FileSystem:
    """The same file system; on S3 with more attempts at a request than the SDK's three, which a busy store uses up."""
    if not isinstance(filesystem, fs.S3FileSystem):
        return filesystem
    _, (options,) = filesystem.__reduce__()  # from_uri, the only door that reads AWS_ENDPOINT_URL, takes no strategy
    return fs.S3FileSystem(**options, retry_strategy=fs.AwsStandardS3RetryStrategy(max_attempts=_S3_ATTEMPTS))


def read_bytes(uri: str) -> bytes:
    """The whole content of a file.

    Raises:
        StorageError: There is no such file, or it cannot be read.
    """
    filesystem, path = resolve(uri)

    def read() -> bytes:
        with filesystem.open_input_stream(path, compression=None) as stream:
            return stream.read()

    with explained("read", uri):
        return patiently(filesystem, read)


def fetch(uri: str, path: str) -> None:
    """Copies a file of any size to a local path; it is there whole or not at all.

    Raises:
        StorageError: There is no such file, it cannot be read, or ``path`` cannot be written.
    """
    filesystem, source = resolve(uri)
    with explained("fetch", uri):
        patiently(filesystem, lambda: fetch_whole(filesystem, source, path))


def info_of(uri: str) -> fs.FileInfo:
    """Kind, size and time of a file or folder, or that there is none.

    Raises:
        StorageError: The storage does not answer, or denies access.
    """
    filesystem, path = resolve(uri)
    with explained("look up", uri):
        return patiently(filesystem, lambda: filesystem.get_file_info(path))


def write_bytes(uri: str, data: bytes) -> None:
    """Creates or replaces a file as a whole; missing folders are created.

    Raises:
        StorageError: The folder is not writable, the disk is full, the bucket or the credentials are wrong.
    """
    filesystem, path = resolve(uri)
    if uri.startswith(_S3) and len(data) > object_store.MULTIPART_BYTES:
        outlasting(store_of(filesystem), lambda: object_store.upload(uri, data), StorageError)
        return
    with explained("write", uri):
        write_whole(filesystem, path, data)


def write_file(uri: str, fill: Callable[[BinaryIO], object]) -> None:
    """Creates or replaces a file of any size from what ``fill`` writes; where that raises, nothing changes.

    Args:
        uri: The file.
        fill: Gets an empty file, open for reading and writing.

    Raises:
        StorageError: See ``write_bytes``.
    """
    if not uris.parse(uri).is_local:
        with tempfile.TemporaryFile() as file:
            fill(file)
            file.seek(0)
            write_bytes(uri, file.read())
        return
    with explained("write", uri):
        fill_whole(resolve(uri)[1], fill)


def write_once(uri: str, data: bytes) -> bytes:
    """Creates a file where there is none; of two writers one wins, and both learn what is there.

    Returns:
        The content of the file afterwards: ``data``, or what another writer put there before.

    Raises:
        StorageError: See ``write_bytes``.
    """
    if uri.startswith(_S3):
        created = object_store.create(uri, data)
    else:
        with explained("write", uri):
            created = create_whole(resolve(uri)[1], data)
    return data if created else read_bytes(uri)


def exists(uri: str) -> bool:
    """Whether there is a file or a folder (on S3: an object, or any object below it).

    Raises:
        StorageError: The storage does not answer, or denies access.
    """
    return info_of(uri).type != fs.FileType.NotFound


def list_files(uri: str) -> list[str]:
    """URIs of the files directly inside a folder, sorted by name; empty where the folder does not exist."""
    return [join(uri, info.base_name) for info in _entries(uri) if info.type == fs.FileType.File]


def list_sizes(uri: str) -> dict[str, int]:
    """Bytes of the files directly inside a folder, by URI; empty where the folder does not exist."""
    return {join(uri, info.base_name): info.size for info in _entries(uri) if info.type == fs.FileType.File}


def list_folders(uri: str) -> list[str]:
    """URIs of the folders directly inside a folder, sorted by name; empty where the folder does not exist."""
    return [join(uri, info.base_name) for info in _entries(uri) if info.type == fs.FileType.Directory]


def remove_file(uri: str) -> None:
    """Deletes a file; one that does not exist is fine."""
    filesystem, path = resolve(uri)
    with explained("delete", uri), suppress(FileNotFoundError):
        patiently(filesystem, lambda: filesystem.delete_file(path))


def remove_folder(uri: str) -> None:
    """Deletes a folder with everything below it; one that does not exist is fine."""
    filesystem, path = resolve(uri)
    with explained("delete", uri), suppress(FileNotFoundError):
        patiently(filesystem, lambda: filesystem.delete_dir(path))


def check_writable(uri: str) -> None:
    """Writes and deletes one small file in the folder, so that a run fails before its work and not after it.

    Raises:
        StorageError: Not writable; the message says why and what to do.
    """
    probe = join(uri, f".writable-{uuid.uuid4().hex[:8]}")
    write_bytes(probe, b"ok")
    filesystem, path = resolve(probe)
    with explained("delete", probe):
        filesystem.delete_file(path)


def check_file_writable(uri: str) -> None:
    """Checks before the work that a file can be written at its end.

    Raises:
        StorageError: Its folder is not writable, or a folder of that name is there.
    """
    check_writable(uris.folder_of(uri))
    if info_of(uri).type == fs.FileType.Directory:
        raise StorageError(f"cannot write {uri}: it is a folder; give the name of a file")


def check_listable(uri: str) -> None:
    """Asks whether the bucket of an ``s3://`` URI is there and may be listed; other URIs pass.

    Raises:
        StorageError: See above; without this check a bucket that does not exist looks like an empty folder.
    """
    if uri.startswith(_S3):
        object_store.check_bucket(uri)


def _entries(uri: str) -> list[fs.FileInfo]:
    filesystem, path = resolve(uri)
    with explained("list", uri):
        found = patiently(filesystem, lambda: filesystem.get_file_info(fs.FileSelector(path, allow_not_found=True)))
        return sorted(found, key=lambda info: info.base_name)


@contextmanager
def explained(action: str, uri: str) -> Iterator[None]:
    """Turns an ``OSError`` of the block into a ``StorageError`` that says what failed, why, and what to do."""
    try:
        yield
    except UnicodeError as error:  # pyarrow's word on a folder that holds such a name
        raise StorageError(f"cannot {action} {uri}: it holds a name that is not UTF-8: rename it") from error
    except OSError as error:
        raise StorageError(f"cannot {action} {uri}: {_advice(error)}") from error


def _advice(error: OSError) -> str:
    if error.errno in _ADVICE:
        return _ADVICE[error.errno]
    text = str(error).lower()
    known = (advice for sign, advice in _S3_ADVICE.items() if sign in text)
    return f"{next(known, 'the storage reports an error')} ({error})"
