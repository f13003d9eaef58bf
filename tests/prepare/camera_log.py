"""A small SemanticKITTI log with one camera, an index of it, and `prepare` without Ray."""

from collections.abc import Collection, Iterator
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from pyarrow import fs

from ray_lidarseg.datasets.decode import decode
from ray_lidarseg.datasets.parquet_files import parquet_bytes
from ray_lidarseg.datasets.shards import keyframe_table, write_shard
from ray_lidarseg.prepare import decoding, pipeline, stages
from ray_lidarseg.prepare import requested_layers as teachers
from ray_lidarseg.prepare.requested_layers import probe
from ray_lidarseg.prepare.stage_report import Result
from ray_lidarseg.runtime.pool import Actors
from ray_lidarseg.sample import CameraImage, Keyframe

WIDTH_PX, HEIGHT_PX = 48, 32
CAMERAS = ("image_2", "image_3")
# x forward, y left, z up → right, down, forward
CAM_SE3_LIDAR = np.array([[0, -1, 0, 0], [0, 0, -1, 0], [1, 0, 0, 0], [0, 0, 0, 1]], np.float64)
INTRINSICS = np.array([[20, 0, WIDTH_PX / 2], [0, 20, HEIGHT_PX / 2], [0, 0, 1]], np.float64)


def frame_id(number: int) -> str:
    """Of frame ``number``."""
    return f"00/{number:06d}"


def image_file(root: Path, number: int, camera: str = "image_2") -> Path:
    """Where an image lies."""
    return root / "data" / camera / f"{number:06d}.png"


def write_log(
    root: Path, count: int, moved: Collection[int] = (), shift_m: float = 0.1, val: Collection[int] = ()
) -> str:
    """Scans and images of ``count`` frames below ``root``; returns the index file.

    Args:
        root: Where.
        count: Frames.
        moved: Frames whose second camera is calibrated ``shift_m`` beside where it is.
        shift_m: How far.
        val: Frames of the validation split.
    """
    frames = [_frame(root, number) for number in range(count)]
    for number in val:
        frames[number] = replace(frames[number], split="val")
    for number in moved:
        *first, last = frames[number].cameras
        pose = last.cam_SE3_lidar.copy()
        pose[0, 3] += shift_m
        frames[number] = replace(frames[number], cameras=(*first, replace(last, cam_SE3_lidar=pose)))
    index = root / "index.parquet"
    index.write_bytes(parquet_bytes(keyframe_table(frames), rows_per_group=8))
    return str(index)


def write_image(root: Path, number: int, camera: str = "image_2", seed: int | None = None) -> None:
    """Four flat colours, others in each frame, or those of a seed."""
    tiles = np.random.default_rng(number if seed is None else seed).integers(0, 255, (2, 2, 3), np.uint8)
    pixels = tiles.repeat(HEIGHT_PX // 2, 0).repeat(WIDTH_PX // 2, 1)
    file = image_file(root, number, camera)
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(file)


def decoded(index: str, out: str) -> None:
    """All frames of the index in shards of ``out``, by hand: the decode stage has nothing left to do."""
    import pyarrow.parquet as pq

    frames = [decode(Keyframe.from_row(row)) for row in pq.read_table(index).to_pylist()]
    for first in range(0, len(frames), 3):
        write_shard(fs.LocalFileSystem(), out, frames[first : first + 3])


def decode_here(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The frames that wait are decoded in this process, all in one shard; gives the ids of all that were, as they are.

    No progress bar, no connection.
    """
    import pyarrow.parquet as pq

    done: list[str] = []

    def results(index: str, out: str, ontology: Any, waiting: set[str], num_blocks: int) -> Iterator[Result]:
        rows = pq.read_table(index)
        rows = rows.filter(pa.array([name in waiting for name in rows.column("frame_id").to_pylist()], pa.bool_()))
        done.extend(rows.column("frame_id").to_pylist())
        if len(rows):
            yield from (Result(**row) for row in decoding._prepare_rows(rows, out, ontology).to_pylist())

    monkeypatch.setattr(decoding, "_results", results)
    monkeypatch.setattr(decoding, "quiet_data", nullcontext)
    monkeypatch.setattr(pipeline, "connect", nullcontext)
    return done


def without_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    """`prepare` runs its workers in this process, one group after the other."""

    def stream(rows: list[dict], worker: type, arguments: dict[str, Any], group: int, actors: Actors) -> Any:
        actor = worker(**arguments) if rows else None
        for first in range(0, len(rows), group):
            yield from actor(pa.Table.from_pylist(rows[first : first + group])).to_pylist()

    decode_here(monkeypatch)
    monkeypatch.setattr(stages, "stream", stream)
    monkeypatch.setattr(stages, "probed", lambda settings, words, actors: probe(settings, words, 1))
    monkeypatch.setattr(pipeline, "connect", nullcontext)
    monkeypatch.setattr(Actors, "require", lambda actors: None)
    monkeypatch.setattr(Actors, "sizes", lambda actors, num_groups: (1, 1))
    monkeypatch.setattr(Actors, "gpus", 0.0)
    assert teachers.probe is probe


def _frame(root: Path, number: int) -> Keyframe:
    scan = root / "data" / "velodyne" / f"{number:06d}.bin"
    scan.parent.mkdir(parents=True, exist_ok=True)
    _points(number).tofile(scan)
    for camera in CAMERAS:
        write_image(root, number, camera)
    cameras = tuple(
        CameraImage(name, str(image_file(root, number, name)), INTRINSICS, CAM_SE3_LIDAR, 0, WIDTH_PX, HEIGHT_PX)
        for name in CAMERAS
    )
    return Keyframe(frame_id(number), "semantickitti", "00", "train", number, str(scan), cameras=cameras)


def _points(number: int) -> np.ndarray:
    """The first five in front of both cameras, the rest behind them."""
    points = np.full((8 + number % 3, 4), 0.5, np.float32)
    points[:, 0] = 10.0
    points[:, 1] = np.linspace(-5, 5, len(points))
    points[:, 2] = np.linspace(-3, 3, len(points))
    points[5:, 0] = -10.0
    return points
