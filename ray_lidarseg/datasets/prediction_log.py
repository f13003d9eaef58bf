"""Which scans a folder of predictions holds labels of, what each was made of, and its points by class.

One line a scan in ``scans.jsonl``, written when its label file is there: a scan without a line counts as not labelled.
"""

import json
import os
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import astuple, dataclass
from typing import IO

from ray_lidarseg import storage
from ray_lidarseg.datasets.origin import Origin
from ray_lidarseg.datasets.work_list import NOT_KNOWN, Uncertainty
from ray_lidarseg.errors import DataError

LOG_NAME = "scans.jsonl"
_UPLOAD_EVERY_S = 10.0  # an object cannot be appended to; what a crash costs is labelled again


@dataclass(frozen=True)
class LabelledScan:
    """One scan whose label file is there.

    Attributes:
        frame_id: Its id.
        labels: Its label file, below the folder.
        num_points: Points of each class id.
        origin: What the labels were made of, beside the model.
        points_uri: The scan's own file.
        doubt: How little the model trusts the labels; of logs of earlier releases, nothing.
        num_bytes: Of the label file; of logs of earlier releases -1.
    """

    frame_id: str
    labels: str
    num_points: tuple[int, ...]
    origin: Origin
    points_uri: str = ""
    doubt: Uncertainty = NOT_KNOWN
    num_bytes: int = -1

    def to_line(self) -> str:
        """As a line of JSON."""
        content = {"frame_id": self.frame_id, "labels": self.labels, "num_points": self.num_points}
        doubt = None if self.doubt.class_id < 0 else astuple(self.doubt)
        more = {"points_uri": self.points_uri, "num_bytes": self.num_bytes, "doubt": doubt}
        more["origin"] = self.origin.to_json()
        return json.dumps({**content, **more}) + "\n"

    @staticmethod
    def from_line(line: str) -> "LabelledScan | None":
        """The inverse of ``to_line``; None for a line that a crash has torn."""
        try:
            content = json.loads(line)
            origin = Origin.from_json(content["origin"], LOG_NAME) or Origin()
            points = tuple(map(int, content["num_points"]))
            mean, low_ratio, class_id = content.get("doubt") or astuple(NOT_KNOWN)
            doubt = Uncertainty(float(mean), float(low_ratio), int(class_id))
            uri, num_bytes = str(content.get("points_uri", "")), int(content.get("num_bytes", -1))
            return LabelledScan(str(content["frame_id"]), str(content["labels"]), points, origin, uri, doubt, num_bytes)
        except (ValueError, TypeError, KeyError, DataError):
            return None


def read_log(folder: str) -> dict[str, LabelledScan]:
    """What a folder holds, by label file; nothing where there is no list, as in folders of earlier releases."""
    uri = storage.join(folder, LOG_NAME)
    if not storage.exists(uri):
        return {}
    lines = storage.read_bytes(uri).decode(errors="replace").splitlines()
    return {scan.labels: scan for scan in map(LabelledScan.from_line, lines) if scan is not None}


class PredictionLog:
    """The list while labels are written; a context manager.

    Args:
        folder: Of the predictions.
        scans: What is there already; the list is written anew with them.
    """

    def __init__(self, folder: str, scans: Iterable[LabelledScan]):
        self._uri = storage.join(folder, LOG_NAME)
        self.scans = {scan.labels: scan for scan in scans}
        self._file: IO[bytes] | None = None
        self._uploaded_s = 0.0

    def __enter__(self) -> "PredictionLog":
        """Writes what is there already."""
        self._upload()
        if storage.is_local(self._uri):
            self._file = open(storage.resolve(self._uri)[1], "ab")
        return self

    def __exit__(self, *_: object) -> None:
        """Brings the list up to date."""
        if self._file is None:
            self._upload()
            return
        with storage.explained("write", self._uri), self._file:
            os.fsync(self._file.fileno())

    def add(self, scan: LabelledScan) -> None:
        """Takes a scan whose label file is there."""
        self.scans[scan.labels] = scan
        if self._file is not None:
            with storage.explained("write", self._uri):
                self._file.write(scan.to_line().encode())
                self._file.flush()
        elif time.monotonic() - self._uploaded_s > _UPLOAD_EVERY_S:
            self._upload()

    def points_by_class(self) -> Counter[int]:
        """Points of each class id in all scans."""
        total: Counter[int] = Counter()
        for scan in self.scans.values():
            total.update(dict(enumerate(scan.num_points)))
        return total

    def _upload(self) -> None:
        storage.write_bytes(self._uri, "".join(scan.to_line() for scan in self.scans.values()).encode())
        self._uploaded_s = time.monotonic()
