"""Shards that a machine left half written when it went: deleted, so that their frames are prepared again."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from pyarrow import fs

from ray_lidarseg import storage
from ray_lidarseg.datasets.catalog import LISTING_THREADS, drop_catalog
from ray_lidarseg.datasets.parquet_files import open_parquet
from ray_lidarseg.datasets.shards import list_shards
from ray_lidarseg.errors import TornFileError

Read = TypeVar("Read")


def without_torn(uri: str, read: Callable[[], Read]) -> Read:
    """What ``read`` finds in a folder of shards, again where a torn shard kept it from reading and is deleted.

    Everything here is made from the data set, so nothing is lost but time; which shards went is said.

    Args:
        uri: Folder of shards, or of a layer.
        read: Reads them all.

    Raises:
        TornFileError: Another file is torn, as the index.
        StorageError: The folder cannot be written.
    """
    try:
        return read()
    except TornFileError:
        with storage.explained("write", uri):
            names = _drop_torn(*storage.resolve(uri))
        if not names:
            raise
    print(f"{uri}: torn and deleted: {', '.join(names)}; what they held is prepared again", flush=True)
    return read()


def _drop_torn(filesystem: fs.FileSystem, folder: str) -> list[str]:
    """Deletes the shards of a folder that are not whole; returns their names."""

    def is_torn(name: str) -> bool:
        try:
            open_parquet(filesystem, f"{folder}/{name}").close()
        except TornFileError:
            return True
        return False

    names = list_shards(filesystem, folder)
    with ThreadPoolExecutor(LISTING_THREADS) as threads:
        torn = [name for name, found in zip(names, threads.map(is_torn, names), strict=True) if found]
    if torn:
        drop_catalog(filesystem, folder)
    for name in torn:
        filesystem.delete_file(f"{folder}/{name}")
    return torn
