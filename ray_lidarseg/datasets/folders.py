"""Where a data set lies on disk."""

from pathlib import Path

from pyarrow import fs

from ray_lidarseg import storage
from ray_lidarseg.errors import DataError


def data_root(root: str, dataset: str) -> str:
    """The root of a data set, absolute.

    Raises:
        DataError: It is no folder of a local or mounted disk.
    """
    if not storage.is_local(root) or storage.info_of(root).type != fs.FileType.Directory:
        raise DataError(f"{root} is not a folder: give the root of a {dataset} data set on a local or mounted disk")
    return str(Path(storage.absolute(root)).resolve())
