"""The work list: least confidence by hand, and the order in which a person gets scans."""

import io

import numpy as np
import pyarrow.csv as csv
import pyarrow.parquet as pq
import pytest

from ray_lidarseg.datasets.origin import Origin
from ray_lidarseg.datasets.prediction_log import LabelledScan
from ray_lidarseg.datasets.work_list import NOT_KNOWN, Uncertainty, uncertainty, work_list, work_list_files


def test_least_confidence_by_hand():
    found = uncertainty(np.array([0, 0, 2, 1], np.uint8), np.array([0.9, 0.7, 0.4, 0.0], np.float32))
    assert found.mean == pytest.approx((0.1 + 0.3 + 0.6) / 3)
    assert found.low_ratio == pytest.approx(1 / 3)
    assert found.class_id == 0, "of classes as large as the largest: one point says little"


def test_the_least_certain_class_needs_points():
    labels = np.repeat(np.array([0, 1, 2], np.uint8), [50, 20, 19])
    confidence = np.repeat(np.array([0.9, 0.8, 0.1], np.float32), [50, 20, 19])
    assert uncertainty(labels, confidence).class_id == 1


def test_nothing_is_known_where_no_point_was_seen():
    assert uncertainty(np.zeros(3, np.uint8), np.zeros(3, np.float32)) is NOT_KNOWN
    assert uncertainty(np.zeros(0, np.uint8), np.zeros(0, np.float32)) is NOT_KNOWN


def scan(name: str, doubt: Uncertainty) -> LabelledScan:
    return LabelledScan(name, f"{name}.label", (3, 4), Origin(), f"{name}.bin", doubt)


def test_the_least_certain_scan_comes_first_and_the_unknown_last():
    scans = [scan("b", Uncertainty(0.2, 0.0, 1)), scan("z", NOT_KNOWN), scan("a", Uncertainty(0.2, 0.1, 0))]
    table = work_list([*scans, scan("c", Uncertainty(0.5, 0.3, 1))], ("car", "road"))
    assert table.column("frame_id").to_pylist() == ["c", "a", "b", "z"]
    assert table.column("rank").to_pylist() == [1, 2, 3, 4]
    assert table.to_pylist()[0] == {
        "rank": 1,
        "frame_id": "c",
        "uncertainty": 0.5,
        "low_confidence_ratio": 0.3,
        "least_certain_class": "road",
        "num_points": 7,
        "points_uri": "c.bin",
        "labels": "c.label",
    }
    assert table.to_pylist()[3]["uncertainty"] is None
    files = work_list_files(table)
    assert pq.read_table(io.BytesIO(files["work_list.parquet"])).equals(table)
    assert csv.read_csv(io.BytesIO(files["work_list.csv"])).column("frame_id").to_pylist() == ["c", "a", "b", "z"]


def test_a_scan_keeps_its_doubt_in_the_log():
    for each in (scan("a", Uncertainty(0.25, 0.5, 1)), scan("b", NOT_KNOWN)):
        assert LabelledScan.from_line(each.to_line()) == each or each.doubt is NOT_KNOWN
    read = LabelledScan.from_line(scan("b", NOT_KNOWN).to_line())
    assert read is not None
    assert read.doubt.class_id == -1
