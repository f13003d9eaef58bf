"""Shards that a machine left half written when it went: deleted, so that their frames are prepared again."""

from collections.abc import Callable
from typing import TypeVar

from ray_lidarseg import storage
from ray_lidarseg.datasets.shards import drop_torn
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
            names = drop_torn(*storage.resolve(uri))
        if not names:
            raise
    print(f"{uri}: torn and deleted: {', '.join(names)}; what they held is prepared again", flush=True)
    return read()
