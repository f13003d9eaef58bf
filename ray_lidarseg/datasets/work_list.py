"""Which scans a person should label next: those whose predictions are least certain, as Parquet and CSV."""

import io
import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.csv as csv
import pyarrow.parquet as pq
from jaxtyping import Float, UInt8

if TYPE_CHECKING:
    from ray_lidarseg.datasets.prediction_log import LabelledScan

WORK_LIST_NAME = "work_list"

_LOW = 0.5  # below, the model holds another class than its own answer, or several together, for likelier; ours
_LEAST_POINTS = 20  # ours: of fewer points the mean of a class says little
_SCHEMA = pa.schema(
    [
        ("rank", pa.int64()),
        ("frame_id", pa.string()),
        ("uncertainty", pa.float64()),
        ("low_confidence_ratio", pa.float64()),
        ("least_certain_class", pa.string()),
        ("num_points", pa.int64()),
        ("points_uri", pa.string()),
        ("labels", pa.string()),
    ]
)


@dataclass(frozen=True)
class Uncertainty:
    """How little a model trusts its labels of one scan; NaN and -1 where it saw no point.

    Attributes:
        mean: Mean of ``1 - p`` over the points the model saw, p the probability of the label. Source: least confidence,
            Settles, "Active learning literature survey", 2009, section 3.1, averaged over points.
        low_ratio: Share of these points with p below one half.
        class_id: Predicted class whose points are least certain on average, among classes of at least 20 points.
    """

    mean: float = math.nan
    low_ratio: float = math.nan
    class_id: int = -1


NOT_KNOWN = Uncertainty()
"""Of a scan whose labels nothing is known of."""


def uncertainty(labels: UInt8[np.ndarray, "P"], confidence: Float[np.ndarray, "P"]) -> Uncertainty:
    """Of a scan's labels and their probabilities; a confidence of 0 marks a point that the model could not see."""
    is_seen = confidence > 0
    if not is_seen.any():
        return NOT_KNOWN
    doubt, count = 1.0 - confidence[is_seen].astype(np.float64), np.bincount(labels[is_seen])
    total = np.bincount(labels[is_seen], doubt)
    by_class = np.where(count >= min(_LEAST_POINTS, count.max()), total / np.maximum(count, 1), -1.0)
    return Uncertainty(float(doubt.mean()), float((doubt > 1.0 - _LOW).mean()), int(by_class.argmax()))


def least_certain(scans: Iterable["LabelledScan"]) -> list["LabelledScan"]:
    """The least certain first; those without one usable point, which nothing is known of, last."""
    return sorted(scans, key=lambda scan: (-np.nan_to_num(scan.doubt.mean, nan=-1.0), scan.frame_id))


def work_list(scans: Iterable["LabelledScan"], class_names: tuple[str, ...]) -> pa.Table:
    """One row a scan, in the order of ``least_certain``."""
    rows = [
        {
            "rank": rank,
            "frame_id": scan.frame_id,
            "uncertainty": None if scan.doubt.class_id < 0 else scan.doubt.mean,
            "low_confidence_ratio": None if scan.doubt.class_id < 0 else scan.doubt.low_ratio,
            "least_certain_class": class_names[scan.doubt.class_id] if scan.doubt.class_id >= 0 else "",
            "num_points": sum(scan.num_points),
            "points_uri": scan.points_uri,
            "labels": scan.labels,
        }
        for rank, scan in enumerate(least_certain(scans), start=1)
    ]
    return pa.Table.from_pylist(rows, _SCHEMA)


def work_list_files(table: pa.Table) -> dict[str, bytes]:
    """The list as files, by name."""
    parquet, text = io.BytesIO(), io.BytesIO()
    pq.write_table(table, parquet)
    csv.write_csv(table, text)
    return {f"{WORK_LIST_NAME}.parquet": parquet.getvalue(), f"{WORK_LIST_NAME}.csv": text.getvalue()}
