"""Where a data set lies on disk."""

from pathlib import Path

from ray_lidarseg.errors import DataError


def data_root(root: str, dataset: str) -> str:
    """The root of a data set, absolute.

    Raises:
        DataError: It is no folder of a local or mounted disk.
    """
    if not Path(root).expanduser().is_dir():
        raise DataError(f"{root} is not a folder: give the root of a {dataset} data set on a local or mounted disk")
    return str(Path(root).expanduser().resolve())
