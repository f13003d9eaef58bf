"""The actors: each holds one teacher and turns places of frames into one shard of a layer.

In come frame ids and where their rows lie, out goes one result line a frame; images are read, and shards written, here.
"""

import json
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from ray_lidarseg import storage
from ray_lidarseg.datasets.layers import (
    cameras_of,
    encode_segments,
    features_columns,
    layer_shard_file,
    masks_columns,
    pairs_columns,
    segments_of,
)
from ray_lidarseg.datasets.origin import Origin
from ray_lidarseg.datasets.prepared_frames import OpenShards
from ray_lidarseg.errors import DataError, reason
from ray_lidarseg.foundation.build import build_features, build_masks
from ray_lidarseg.foundation.pairing import pair_points, pixels_in
from ray_lidarseg.foundation.pooling import pool_segments
from ray_lidarseg.foundation.settings import FeatureSettings, MaskSettings, PairSettings
from ray_lidarseg.foundation.teachers import as_objects
from ray_lidarseg.prepare.decoding import results_table
from ray_lidarseg.prepare.image_batches import Clock, each_image, read_image
from ray_lidarseg.prepare.stage_report import Result, not_made
from ray_lidarseg.runtime.gauges import ImageCounter
from ray_lidarseg.runtime.pool import own_device
from ray_lidarseg.sample import CameraImage, Keyframe
from ray_lidarseg.storage.stamps import Stamp, recorded

_POINT_COLUMNS = ("points", "labels", "ring")
_NO_POINTS = {"points": b"", "labels": b"", "ring": b""}


class LayerWorker(ABC):
    """What all actors share.

    Args:
        out: URI of the prepared folder.
        layer: URI of the layer's folder, where shards are written.
        reads: URI of the masks layer it reads; empty for none.
        threads: CPUs of this actor.
    """

    def __init__(self, out: str, layer: str, reads: str, threads: int):
        self.layer, self.threads, self.clock = layer, threads, Clock()
        self.device = str(own_device(threads))
        self._frames = OpenShards(*storage.resolve(out))
        self._masks = OpenShards(*storage.resolve(reads)) if reads else None
        self._files: dict[str, dict[str, Stamp]] = {}

    def __call__(self, rows: pa.Table) -> pa.Table:
        """One group of frames: writes the good ones as one shard; a result for each, with an error where it failed."""
        started, self.clock.seconds, self._files = time.perf_counter(), 0.0, {}
        places = rows.to_pylist()
        asked = [place["frame_id"] for place in places]
        made, errors = self._columns(places)
        num_bytes = 0
        if made:
            try:
                values = {place["frame_id"]: json.loads(place["values"]) for place in places}
                origins = {name: Origin(self._files.get(name, {}), values[name]).to_json() for name in made}
                rows_made = [{"frame_id": name, **row, "origin": origins[name]} for name, row in made.items()]
                name, data = layer_shard_file(asked, rows_made)
                storage.write_bytes(storage.join(self.layer, name), data)
                num_bytes = len(data) // len(made)
            except Exception as error:  # a full disk ends the job
                errors |= dict.fromkeys(made, not_made(error))
        share = 1.0 / len(asked)
        seconds = (time.perf_counter() - started) * share
        return results_table(
            Result(frame_id, errors.get(frame_id, ""), 0, num_bytes, seconds, self.clock.seconds * share)
            for frame_id in asked
        )

    @abstractmethod
    def _columns(self, places: Sequence[Mapping[str, Any]]) -> tuple[dict[str, dict[str, Any]], dict[str, str]]:
        """Columns of the frames that worked, and reasons of those that did not."""

    def _keyframe(self, place: Mapping[str, Any], with_points: bool) -> Keyframe:
        shard, row = place["shard"], place["row"]
        columns = [name for name in self._frames.columns(shard) if with_points or name not in _POINT_COLUMNS]
        return Keyframe.from_row({**_NO_POINTS, **self._frames.row(shard, row, columns)})

    def _masks_row(self, place: Mapping[str, Any]) -> dict[str, Any]:
        if self._masks is None:
            raise DataError(f"{self.layer} reads masks, but none were given")
        return self._masks.row(place["masks_shard"], place["masks_row"])


class _ImageWorker(LayerWorker):
    """An actor that looks at images; subclasses say what to read, how to call the teacher and what to keep."""

    batch = 1
    _seen: ImageCounter

    def _columns(self, places: Sequence[Mapping[str, Any]]) -> tuple[dict[str, dict[str, Any]], dict[str, str]]:
        kept: dict[str, dict[str, Any]] = {}
        errors: dict[str, str] = {}
        jobs = []
        for place in places:
            try:
                jobs += [(place["frame_id"], *job) for job in self._jobs(place)]
                kept[place["frame_id"]] = {}
            except Exception as error:  # whatever is wrong with one frame must not cost the others
                errors[place["frame_id"]] = reason(error)
        images = each_image(
            jobs, self._recorded_read, self._recorded_call, self._finish, self.batch, self.threads, self.clock
        )
        for (frame_id, camera, *_), value in images:
            if isinstance(value, Exception):
                kept.pop(frame_id, None)
                errors.setdefault(frame_id, f"{camera.name}: {reason(value)}")
            elif frame_id in kept:
                kept[frame_id][camera.name] = value
        return {frame_id: self._row(cameras) for frame_id, cameras in kept.items()}, errors

    def _recorded_read(self, job: tuple[str, CameraImage, Any]) -> dict[str, Any]:
        with recorded() as files:
            given = self._read(job)
        self._files.setdefault(job[0], {}).update(files)
        return {**given, "frame_id": job[0]}

    def _recorded_call(self, inputs: list[dict[str, Any]]) -> list[Any]:
        with recorded() as files:  # masks of files are read by their teacher
            outputs = self._call(inputs)
        self._seen.add(len(inputs))
        for given in inputs if files else ():
            self._files[given["frame_id"]].update(files)
        return outputs

    @abstractmethod
    def _jobs(self, place: Mapping[str, Any]) -> list[tuple[CameraImage, Any]]:
        """The images of one frame, each with what else its reading needs."""

    @abstractmethod
    def _read(self, job: tuple[str, CameraImage, Any]) -> dict[str, Any]:
        """Inputs of one image; runs in a thread."""

    @abstractmethod
    def _call(self, inputs: list[dict[str, Any]]) -> list[Any]:
        """The teacher on one batch."""

    @abstractmethod
    def _finish(self, given: dict[str, Any], output: Any) -> Any:
        """What is kept of one image; runs in a thread."""

    @abstractmethod
    def _row(self, cameras: dict[str, Any]) -> dict[str, Any]:
        """Columns of one frame."""


class MaskWorker(_ImageWorker):
    """Images to segments."""

    def __init__(self, out: str, layer: str, reads: str, threads: int, settings: MaskSettings):
        super().__init__(out, layer, reads, threads)
        self.batch = getattr(settings, "image_batch", 1)
        self._with_prompts = getattr(settings, "prompts", "grid") == "lidar"
        self._teacher, self._seen = build_masks(settings, self.device), ImageCounter(settings.name)

    def _jobs(self, place: Mapping[str, Any]) -> list[tuple[CameraImage, Any]]:
        frame = self._keyframe(place, with_points=self._with_prompts)
        return [(camera, frame.points) for camera in frame.cameras]

    def _read(self, job: tuple[str, CameraImage, Any]) -> dict[str, Any]:
        _, camera, points = job
        given = {"image": read_image(camera), "uri": camera.uri}
        return given | ({"prompts": pixels_in(points, camera)} if self._with_prompts else {})

    def _call(self, inputs: list[dict[str, Any]]) -> list[Any]:
        batch = {name: as_objects([given[name] for given in inputs]) for name in inputs[0] if name != "frame_id"}
        return list(self._teacher(batch)["segments"])

    def _finish(self, given: dict[str, Any], output: Any) -> tuple[bytes, int]:
        return encode_segments(output), int(output.max(initial=0))

    def _row(self, cameras: dict[str, Any]) -> dict[str, Any]:
        return masks_columns(cameras)


class FeatureWorker(_ImageWorker):
    """Images and their segments to one feature a segment."""

    def __init__(self, out: str, layer: str, reads: str, threads: int, settings: FeatureSettings):
        super().__init__(out, layer, reads, threads)
        self.batch = settings.image_batch
        self._teacher, self._seen = build_features(settings, self.device), ImageCounter(settings.name)

    def _jobs(self, place: Mapping[str, Any]) -> list[tuple[CameraImage, Any]]:
        row = self._masks_row(place)
        return [(camera, row) for camera in self._keyframe(place, with_points=False).cameras]

    def _read(self, job: tuple[str, CameraImage, Any]) -> dict[str, Any]:
        _, camera, row = job
        return {"image": read_image(camera), "segments": segments_of(row, camera.name)}

    def _call(self, inputs: list[dict[str, Any]]) -> list[Any]:
        return list(self._teacher({"image": as_objects([given["image"] for given in inputs])})["features"])

    def _finish(self, given: dict[str, Any], output: Any) -> np.ndarray:
        return pool_segments(output, given["segments"], int(given["segments"].max(initial=0)))

    def _row(self, cameras: dict[str, Any]) -> dict[str, Any]:
        return features_columns(cameras)


class PairWorker(LayerWorker):
    """Points and segments to the camera, pixel and segment of each point."""

    def __init__(self, out: str, layer: str, reads: str, threads: int, settings: PairSettings):
        super().__init__(out, layer, reads, threads)
        self._settings = settings

    def _columns(self, places: Sequence[Mapping[str, Any]]) -> tuple[dict[str, dict[str, Any]], dict[str, str]]:
        made: dict[str, dict[str, Any]] = {}
        errors: dict[str, str] = {}
        for place in places:
            try:
                made[place["frame_id"]] = self._pairs(place)
            except Exception as error:  # whatever is wrong with one frame must not cost the others
                errors[place["frame_id"]] = reason(error)
        return made, errors

    def _pairs(self, place: Mapping[str, Any]) -> dict[str, Any]:
        frame, row = self._keyframe(place, with_points=True), self._masks_row(place)
        there = cameras_of(row)
        maps = [segments_of(row, camera.name) if camera.name in there else None for camera in frame.cameras]
        pairing = pair_points(frame.points, frame.cameras, self._settings)
        return pairs_columns(pairing.camera, pairing.pixel, pairing.segments(maps))
