"""One actor of `predict`: the model loaded once, then scans in and files out."""

import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa

from ray_lidarseg import storage
from ray_lidarseg.datasets.decode import decode
from ray_lidarseg.datasets.entries import dataset_of
from ray_lidarseg.datasets.origin import Origin
from ray_lidarseg.datasets.scans import decode_scan
from ray_lidarseg.datasets.sensor import resolve_sensor
from ray_lidarseg.datasets.submission import confidence_bytes, confidence_path, label_bytes
from ray_lidarseg.errors import reason
from ray_lidarseg.models.inference import ScanLabels, label_frames
from ray_lidarseg.predict.job import Job
from ray_lidarseg.predict.scan_rows import prepared_frames
from ray_lidarseg.runtime import pool
from ray_lidarseg.sample import Keyframe
from ray_lidarseg.storage.stamps import recorded
from ray_lidarseg.training.run_folder import load_method

_RESULT = pa.schema(
    [
        ("frame_id", pa.string()),
        ("error", pa.string()),
        ("histogram", pa.list_(pa.int64())),
        ("origin", pa.string()),
    ]
)


class Labeller:
    """One actor: reads, labels and writes its scans; never raises."""

    def __init__(self, job: Job, prepared: str):
        self.job = job
        self.device = pool.own_device()
        method, recipe, _ = load_method(job.run, job.step, self.device)
        self.segmentor = method.deployed_model
        self.sensor, self.use_intensity = resolve_sensor(recipe.data), recipe.data.use_intensity
        self.taxonomy = dataset_of(job.data).taxonomy
        self.frames = prepared_frames(prepared) if prepared else None

    def __call__(self, rows: pa.Table) -> pa.Table:
        """One result a row: what was wrong with the scan, or its points by class and what it was made of."""
        frames: dict[str, Keyframe] = {}
        results = {row["frame_id"]: {"error": "", "histogram": [], "origin": ""} for row in rows.to_pylist()}
        for row in rows.to_pylist():
            try:
                with recorded() as files:
                    frames[row["frame_id"]] = self._read(row)
                results[row["frame_id"]]["origin"] = Origin(files, self._values(row)).to_json()
            except Exception as error:  # whatever is wrong with one scan must not cost the others
                results[row["frame_id"]]["error"] = reason(error)
        for frame_id, labelled in self._label(frames):
            try:
                if isinstance(labelled, Exception):
                    raise labelled
                results[frame_id]["histogram"] = self._write(frame_id, labelled)
            except Exception as error:
                results[frame_id]["error"] = reason(error)
        return pa.Table.from_pylist([{"frame_id": name, **result} for name, result in results.items()], _RESULT)

    def _values(self, row: dict[str, Any]) -> dict[str, str]:
        return {**json.loads(row["values"]), "read_as": self.job.read_as_digest}

    def _read(self, row: dict[str, Any]) -> Keyframe:
        if self.frames is not None:
            return self.frames[row["position"]]
        if row["dataset"]:
            frame = Keyframe(row["frame_id"], row["dataset"], "", "", 0, row["points_uri"])
            return decode(frame, self.job.read_as)
        return decode_scan(row["points_uri"], row["columns"])

    def _label(self, frames: dict[str, Keyframe]) -> Iterator[tuple[str, ScanLabels | Exception]]:
        try:
            yield from zip(frames, self._forward(list(frames.values())), strict=True)
            return
        except Exception as error:
            if len(frames) < 2:
                yield from ((name, error) for name in frames)
                return
        for name, frame in frames.items():  # one scan spoilt the forward of all, or together they need too much memory
            yield from self._label({name: frame})

    def _forward(self, frames: list[Keyframe]) -> list[ScanLabels]:
        return label_frames(self.segmentor, frames, self.sensor, self.use_intensity, self.device)

    def _write(self, frame_id: str, scan: ScanLabels) -> list[int]:
        path = self.job.path(frame_id)
        confidence = confidence_bytes(scan.confidence)
        storage.write_bytes(storage.join(self.job.out, confidence_path(path)), confidence)
        labels = label_bytes(scan.labels, self.taxonomy, self.job.file_format)
        storage.write_bytes(storage.join(self.job.out, path), labels)  # last: its presence means done
        return np.bincount(scan.labels, minlength=self.taxonomy.num_classes).tolist()
