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
from ray_lidarseg.datasets.point_clouds import cloud_bytes
from ray_lidarseg.datasets.prediction_log import LabelledScan
from ray_lidarseg.datasets.scans import decode_scan
from ray_lidarseg.datasets.sensor import resolve_sensor
from ray_lidarseg.datasets.submission import confidence_bytes, confidence_path, label_bytes
from ray_lidarseg.datasets.work_list import uncertainty
from ray_lidarseg.errors import DataError, reason
from ray_lidarseg.models.inference import ScanLabels, label_frames
from ray_lidarseg.predict.job import Job
from ray_lidarseg.predict.scan_rows import prepared_frames
from ray_lidarseg.runtime import pool
from ray_lidarseg.sample import ImageSensor, Keyframe
from ray_lidarseg.storage.stamps import recorded
from ray_lidarseg.training.inference_options import load_models

_RESULT = pa.schema(
    [
        ("frame_id", pa.string()),
        ("error", pa.string()),
        ("line", pa.string()),
    ]
)


class Labeller:
    """One actor: reads, labels and writes its scans; never raises."""

    def __init__(self, job: Job, prepared: str):
        self.job = job
        self.device = pool.own_device()
        models, recipe, _ = load_models(job.run, job.step, self.device, job.options)
        self.segmentor = models[recipe.method.deployed]
        self.sensor, self.use_intensity = resolve_sensor(recipe.data), recipe.data.use_intensity
        self.taxonomy = dataset_of(job.data).taxonomy
        self.frames = prepared_frames(prepared) if prepared else None

    def __call__(self, rows: pa.Table) -> pa.Table:
        """One result a row: what was wrong with the scan, or its line of the list of labelled scans."""
        frames: dict[str, Keyframe] = {}
        origins: dict[str, Origin] = {}
        results = {row["frame_id"]: {"error": "", "line": ""} for row in rows.to_pylist()}
        for row in rows.to_pylist():
            try:
                with recorded() as files:
                    frames[row["frame_id"]] = self._read(row)
                origins[row["frame_id"]] = Origin(files, self._values(row))
            except Exception as error:  # whatever is wrong with one scan must not cost the others
                results[row["frame_id"]]["error"] = reason(error)
        for frame_id, labelled in self._label(frames):
            try:
                if isinstance(labelled, Exception):
                    raise labelled
                results[frame_id]["line"] = self._write(frames[frame_id], labelled, origins[frame_id]).to_line()
            except Exception as error:
                results[frame_id]["error"] = reason(error)
        return pa.Table.from_pylist([{"frame_id": name, **result} for name, result in results.items()], _RESULT)

    def _values(self, row: dict[str, Any]) -> dict[str, str]:
        return {**json.loads(row["values"]), "read_as": self.job.read_as_digest}

    def _read(self, row: dict[str, Any]) -> Keyframe:
        frame = self._read_any(row)
        if not len(frame.points) and not isinstance(self.sensor, ImageSensor):
            raise DataError(f"{row['frame_id']} holds no points: there is nothing to label")
        return frame

    def _read_any(self, row: dict[str, Any]) -> Keyframe:
        if self.frames is not None:
            return self.frames[row["position"]]
        if not row["dataset"]:
            return decode_scan(row["points_uri"], row["columns"])
        is_compared = self.job.is_cloud and self.job.knows_truth(row["dataset"])
        labels_uri = row.get("labels_uri", "") if is_compared else ""
        frame = Keyframe(row["frame_id"], row["dataset"], "", "", 0, row["points_uri"], labels_uri)
        return decode(frame, self.job.read_as)

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

    def _write(self, frame: Keyframe, scan: ScanLabels, origin: Origin) -> LabelledScan:
        path = self.job.path(frame.frame_id)
        if self.job.is_cloud:
            truth = frame.labels if self.job.knows_truth(frame.dataset) else frame.labels[:0]
            content = cloud_bytes(
                frame.points, scan.labels, scan.confidence, truth, self.taxonomy, self.job.file_format
            )
        else:
            confidence = confidence_bytes(scan.confidence)
            storage.write_bytes(storage.join(self.job.out, confidence_path(path)), confidence)
            content = label_bytes(scan.labels, self.taxonomy, self.job.file_format)
        storage.write_bytes(storage.join(self.job.out, path), content)  # last: its presence means done
        counts = np.bincount(scan.labels, minlength=self.taxonomy.num_classes).tolist()
        doubt = uncertainty(scan.labels, scan.confidence)
        return LabelledScan(frame.frame_id, path, tuple(counts), origin, frame.points_uri, doubt, len(content))
