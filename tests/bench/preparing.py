"""Three ways to prepare the same frames: the pipeline, a plain loop, a torch DataLoader with teachers in its workers.

`python -m tests.bench.preparing pipeline|loop|loader WORKERS INDEX OUT FIGURES MASKS FEATURES [KIND.KEY=VALUE …]`

One way and one process tree each; figures go to the file FIGURES. All three call the package's own functions to decode,
ask the teachers, pair, pool and encode, and write shards of the same columns. The plain ways have every advantage of
holding a whole frame at once: an image is decoded once for both teachers and masks need not be read back.
"""

import functools
import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch
from torch.utils.data import DataLoader

from ray_lidarseg import storage
from ray_lidarseg.datasets.decode import decode
from ray_lidarseg.datasets.layers import (
    encode_segments,
    features_columns,
    layer_shard_file,
    masks_columns,
    pairs_columns,
)
from ray_lidarseg.datasets.shards import list_shards, shard_file
from ray_lidarseg.foundation.build import build_features, build_masks
from ray_lidarseg.foundation.pairing import pair_points, pixels_in
from ray_lidarseg.foundation.pooling import pool_segments
from ray_lidarseg.foundation.teachers import as_objects
from ray_lidarseg.prepare import Teachers, prepare
from ray_lidarseg.prepare.image_batches import Clock, read_image
from ray_lidarseg.prepare.stages import layer_uri
from ray_lidarseg.runtime.cluster import connect
from ray_lidarseg.runtime.pool import Actors, own_device
from ray_lidarseg.sample import Keyframe

FRAMES_PER_SHARD = 4  # as many as the pipeline's masks and features stages


@dataclass
class Figures:
    """What one way took.

    Attributes:
        cluster_start_s: Until Ray was there; 0 without it.
        wall_s: From then to the end, with the start of workers and the loading of models.
        stages: When shards were finished: seconds since the epoch and frames of each, by stage, ascending.
        busy_s: Seconds of workers that held frames, all together.
        model_s: Of these, inside the teachers.
    """

    cluster_start_s: float = 0.0
    wall_s: float = 0.0
    stages: dict[str, list[tuple[float, int]]] = field(default_factory=dict)
    busy_s: float = 0.0
    model_s: float = 0.0


def by_pipeline(index: str, out: str, teachers: Teachers, workers: int) -> Figures:
    """The verb `prepare` with pools of so many actors of one CPU."""
    began = time.perf_counter()
    with connect(workers):
        started = time.perf_counter()
        report = prepare(index, out, teachers=teachers, actors=Actors(workers, workers, num_gpus=0.0))
        ended = time.perf_counter()
    spent = [report.spent, *(layer.spent for layer in report.layers)]
    folders = {"decode": out, **{layer.kind: layer_uri(out, layer.name) for layer in teachers.layers()}}
    return Figures(
        cluster_start_s=started - began,
        wall_s=ended - started,
        stages={name: finished_shards(folder) for name, folder in folders.items()},
        busy_s=sum(one.seconds for one in spent),
        model_s=sum(one.model_seconds for one in spent),
    )


def by_loop(index: str, out: str, teachers: Teachers, workers: int = 0) -> Figures:
    """One process, one group of frames after the other."""
    began = time.perf_counter()
    groups, made = _groups(index), _Groups(index, out, teachers)
    return _counted((made[number] for number in range(len(groups))), began)


def by_loader(index: str, out: str, teachers: Teachers, workers: int) -> Figures:
    """A torch DataLoader over groups of frames; each worker process has teachers of its own and writes shards."""
    began = time.perf_counter()
    loader = DataLoader(_Groups(index, out, teachers), batch_size=None, num_workers=workers, shuffle=False)
    return _counted(iter(loader), began)


WAYS: dict[str, Callable[[str, str, Teachers, int], Figures]] = {
    "pipeline": by_pipeline,
    "loop": by_loop,
    "loader": by_loader,
}


def _counted(results: Iterator[dict[str, float]], began: float) -> Figures:
    figures, ends = Figures(), []
    for result in results:
        ends.append((result["time_s"], int(result["frames"])))
        figures.busy_s += result["busy_s"]
        figures.model_s += result["model_s"]
    figures.wall_s = time.perf_counter() - began
    figures.stages = {"all": sorted(ends)}
    return figures


def finished_shards(folder: str) -> list[tuple[float, int]]:
    """When each shard of a local folder was finished, and how many frames it holds; ascending."""
    paths = [Path(folder, name) for name in list_shards(*storage.resolve(folder))]
    return sorted((path.stat().st_mtime, pq.read_metadata(path).num_rows) for path in paths)


class _Groups(torch.utils.data.Dataset):
    """Item i prepares group i of the index; teachers are built in the process that asks first."""

    def __init__(self, index: str, out: str, teachers: Teachers):
        self.groups, self.out, self.teachers = _groups(index), out, teachers
        self.folders = {layer.kind: layer_uri(out, layer.name) for layer in teachers.layers()}

    def __len__(self) -> int:
        return len(self.groups)

    def __getitem__(self, number: int) -> dict[str, float]:
        models = self._models  # built before the clock runs, as in an actor
        began, models.clock.seconds = time.perf_counter(), 0.0
        frames = [decode(Keyframe.from_row(row)) for row in self.groups[number]]
        rows: dict[str, list[dict[str, Any]]] = {kind: [] for kind in self.folders}
        for frame in frames:
            for kind, row in models.layers_of(frame).items():
                rows[kind].append({"frame_id": frame.frame_id, **row})
        self._write(frames, rows)
        busy_s = time.perf_counter() - began
        return {"time_s": time.time(), "frames": len(frames), "busy_s": busy_s, "model_s": models.clock.seconds}

    @functools.cached_property
    def _models(self) -> "_Models":
        return _Models(self.teachers)

    def _write(self, frames: Sequence[Keyframe], rows: Mapping[str, list[dict[str, Any]]]) -> None:
        name, data = shard_file(frames)
        storage.write_bytes(storage.join(self.out, name), data)
        for kind, folder in self.folders.items():
            name, data = layer_shard_file([frame.frame_id for frame in frames], rows[kind])
            storage.write_bytes(storage.join(folder, name), data)


class _Models:
    """Both teachers, and the rows of all layers of one frame."""

    def __init__(self, teachers: Teachers):
        device = str(own_device(num_threads=1))
        self.settings, self.clock = teachers, Clock()
        self._masks = build_masks(teachers.masks, device)
        self._features = build_features(teachers.features, device)

    def layers_of(self, frame: Keyframe) -> dict[str, dict[str, Any]]:
        """Columns of the frame, by kind of layer."""
        cameras = frame.cameras
        batch = {"image": as_objects([read_image(camera) for camera in cameras])}
        batch["uri"] = np.array([camera.uri for camera in cameras], dtype=object)
        if getattr(self.settings.masks, "prompts", "grid") == "lidar":
            batch["prompts"] = as_objects([pixels_in(frame.points, camera) for camera in cameras])
        with self._timed():
            maps = list(self._masks(batch)["segments"])
        with self._timed():
            features = list(self._features(batch)["features"])
        counts = [int(segments.max(initial=0)) for segments in maps]
        pooled = [pool_segments(*one) for one in zip(features, maps, counts, strict=True)]
        pairing = pair_points(frame.points, cameras, self.settings.pairs)
        names = [camera.name for camera in cameras]
        encoded = [(encode_segments(segments), count) for segments, count in zip(maps, counts, strict=True)]
        return {
            "masks": masks_columns(dict(zip(names, encoded, strict=True))),
            "pairs": pairs_columns(pairing.camera, pairing.pixel, pairing.segments(maps)),
            "features": features_columns(dict(zip(names, pooled, strict=True))),
        }

    @contextmanager
    def _timed(self) -> Iterator[None]:
        began = time.perf_counter()
        yield
        self.clock.seconds += time.perf_counter() - began


def _groups(index: str) -> list[list[dict[str, Any]]]:
    rows = sorted(pq.read_table(index).to_pylist(), key=lambda row: row["frame_id"])
    return [rows[first : first + FRAMES_PER_SHARD] for first in range(0, len(rows), FRAMES_PER_SHARD)]


def main(way: str, workers: str, index: str, out: str, figures: str, masks: str, features: str, *sets: str) -> None:
    """One way, in this process."""
    teachers = Teachers.of(masks, features, sets)
    result = WAYS[way](index, storage.absolute(out), teachers, int(workers))
    Path(figures).write_text(json.dumps(asdict(result)))


if __name__ == "__main__":
    main(*sys.argv[1:])
