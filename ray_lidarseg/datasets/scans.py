"""Scan files given one by one, without a data set around them: which layout they have, and what they are called."""

from ray_lidarseg import storage
from ray_lidarseg.datasets.entries import DATASETS
from ray_lidarseg.datasets.float_rows import refuse_foreign, refuse_other_columns
from ray_lidarseg.datasets.spec import DatasetSpec
from ray_lidarseg.errors import DataError
from ray_lidarseg.sample import Keyframe

_OF_COLUMNS = {len(entry.files.columns): entry for entry in DATASETS if isinstance(entry, DatasetSpec) and entry.files}
"""Data set of each layout of plain float32 columns."""

_FLOAT_BYTES = 4
_NUSCENES_SUFFIX = ".pcd.bin"


def decode_scan(uri: str, columns: int = 0) -> Keyframe:
    """Reads a scan of 4 float32 columns (x, y, z, remission in [0, 1]) or 5 (x, y, z, intensity in [0, 255], ring).

    Args:
        uri: The file.
        columns: 4 or 5; 0 takes 5 for ``*.pcd.bin``, else the one that the size and the values allow.

    Returns:
        A key-frame whose ``dataset`` is the format's, not the taxonomy of a model.

    Raises:
        DataError: The file is empty or truncated, fits no layout, or fits both and ``columns`` is 0.
        StorageError: It is missing or cannot be read.
    """
    content = storage.read_bytes(uri)
    refuse_foreign(content, columns or min(_OF_COLUMNS), uri)
    if columns:
        return _decode(uri, content, columns)
    if _ending(storage.name_of(uri)) == _NUSCENES_SUFFIX:
        return _decode(uri, content, 5)
    fitting = [count for count in sorted(_OF_COLUMNS) if len(content) % (_FLOAT_BYTES * count) == 0]
    if not content or not fitting:
        raise DataError(
            f"{uri} is empty or truncated: {len(content)} bytes are no whole number of points of 4 (16 bytes) or 5 "
            "(20 bytes) float32 columns"
        )
    return _only_fit(uri, content, fitting)


def scan_id(uri: str) -> str:
    """``08/000123`` for ``…/08/velodyne/000123.bin``, else the file's name without its suffix."""
    *folders, name = storage.parts_of(uri)
    stem = name[: -len(_ending(name))] if _ending(name) else name
    return f"{folders[-2]}/{stem}" if len(folders) > 1 and folders[-1] == "velodyne" else stem


def _ending(name: str) -> str:
    return next((ending for ending in (_NUSCENES_SUFFIX, ".bin") if name.lower().endswith(ending)), "")


def _only_fit(uri: str, content: bytes, fitting: list[int]) -> Keyframe:
    frames, reasons = {}, []
    for columns in fitting:
        try:
            frames[columns] = _decode(uri, content, columns)
        except DataError as error:
            reasons.append(str(error))
    if len(frames) == 1:
        (columns,) = frames
        refuse_other_columns(content, columns, uri)
        return frames[columns]
    if frames:
        raise DataError(f"{uri} can be read with 4 and with 5 columns: say which with --columns")
    raise DataError(f"{uri} fits no layout; " + "; ".join(reasons))


def _decode(uri: str, content: bytes, columns: int) -> Keyframe:
    if columns not in _OF_COLUMNS:
        raise DataError(f"--columns {columns}: expected 4 (x, y, z, remission) or 5 (x, y, z, intensity, ring)")
    entry = _OF_COLUMNS[columns]
    assert entry.files is not None
    return entry.files.decode_bytes(Keyframe(scan_id(uri), entry.name, "", "test", 0, uri), content)
