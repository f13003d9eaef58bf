"""Prediction files as the benchmarks, viewers and labelling tools read them.

``label``: ``sequences/XX/predictions/NNNNNN.label``, uint32 raw ids through the inverse label map (SemanticKITTI).
``lidarseg``: ``lidarseg/SPLIT/TOKEN_lidarseg.bin``, uint8 ids 1 … 16, never 0 (nuScenes-lidarseg).
``pcd``, ``ply``, ``las``: ``sequences/XX/predictions/NNNNNN.ply`` …, points, colours, labels and confidence in one file
(``point_clouds``); beside a file of the first two lies ``….confidence.npy``, float16 [P].
"""

import io
import json
from typing import Literal, get_args

import numpy as np
from jaxtyping import Float, Float32, UInt8

from ray_lidarseg import storage
from ray_lidarseg.datasets.point_clouds import CLOUD_FORMATS, read_cloud
from ray_lidarseg.datasets.point_files import load_npy
from ray_lidarseg.datasets.taxonomy import Taxonomy
from ray_lidarseg.errors import DataError

FileFormat = Literal["label", "lidarseg", "pcd", "ply", "las"]
NO_SEQUENCE = "00"
"""Sequence folder of a scan whose id names none."""

_OWN_FOLDER = "%70redictions"  # a sequence of that name, written so that it is no folder of label files
_TYPES = {"label": "<u4", "lidarseg": "u1"}


def check_format(file_format: str, taxonomy: Taxonomy) -> None:
    """Refuses a format that does not exist, or that cannot hold the classes of the taxonomy.

    Raises:
        DataError: See above.
    """
    if file_format not in get_args(FileFormat):
        raise DataError(f"unknown format {file_format!r}: expected one of {', '.join(get_args(FileFormat))}")
    if file_format == "lidarseg" and taxonomy.name != "nuscenes":
        raise DataError(f"format lidarseg holds the classes of nuscenes, the run predicts those of {taxonomy.name}")


def label_path(frame_id: str, file_format: FileFormat, split: str) -> str:
    """Where the labels of a frame lie below the output folder; nowhere else, whatever its id or the split holds.

    Two ids share a path only where one is the other below ``NO_SEQUENCE``: ``x`` and ``00/x``.
    """
    if file_format == "lidarseg":
        return f"lidarseg/{storage.file_name(split)}/{storage.file_name(frame_id)}_lidarseg.bin"
    sequence, slash, scan = storage.relative_file(frame_id).rpartition("/")
    folders = [_OWN_FOLDER if part == "predictions" else part for part in sequence.split("/")]
    return f"sequences/{'/'.join(folders) if slash else NO_SEQUENCE}/predictions/{scan}.{file_format}"


def confidence_path(label_file: str) -> str:
    """Where the confidence lies that belongs to a file of labels alone."""
    return f"{label_file.rpartition('.')[0]}.confidence.npy"


def label_bytes(labels: UInt8[np.ndarray, "P"], taxonomy: Taxonomy, file_format: FileFormat) -> bytes:
    """The content of a file of labels alone from class ids."""
    return taxonomy.to_raw(labels).astype(_TYPES[file_format]).tobytes()


def read_labels(content: bytes, taxonomy: Taxonomy, file_format: FileFormat) -> UInt8[np.ndarray, "P"]:
    """Class ids from the content of a file that ``label_bytes`` or ``cloud_bytes`` made.

    Raises:
        DataError: The file is corrupt, or holds ids that are no predictions.
    """
    if file_format in CLOUD_FORMATS:
        raw = read_cloud(content, file_format, f"a {file_format} file")["label"].astype(np.int64)
    else:
        raw = np.frombuffer(content, _TYPES[file_format]).astype(np.int64)
    known = np.array(taxonomy.train_to_raw)
    order = np.argsort(known)
    found = order[np.searchsorted(known[order], raw).clip(max=len(known) - 1)]
    if not np.array_equal(known[found], raw):
        raise DataError(f"ids {np.setdiff1d(raw, known).tolist()[:5]} are no predictions of {taxonomy.name}")
    return found.astype(np.uint8)


def read_confidence(content: bytes, file: str, file_format: FileFormat) -> Float32[np.ndarray, "P"]:
    """The confidence that belongs to the labels in ``content`` of ``file``.

    Raises:
        DataError: It is damaged.
        StorageError: Its own file is missing.
    """
    if file_format in CLOUD_FORMATS:
        return read_cloud(content, file_format, file)["confidence"]
    uri = confidence_path(file)
    return load_npy(storage.read_bytes(uri), uri).astype(np.float32)


def confidence_bytes(confidence: Float[np.ndarray, "P"]) -> bytes:
    """The content of a confidence file."""
    buffer = io.BytesIO()
    np.save(buffer, confidence.astype(np.float16))
    return buffer.getvalue()


def submission_bytes() -> bytes:
    """``submission.json`` of nuScenes-lidarseg for a LiDAR-only model."""
    used = {"use_camera": False, "use_lidar": True, "use_radar": False, "use_map": False, "use_external": False}
    return json.dumps({"meta": used}).encode()
