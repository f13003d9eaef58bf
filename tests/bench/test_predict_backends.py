"""What the comparison of sparse backends concludes."""

import numpy as np
import pytest

from tests.bench import predict_backends
from tests.bench.predict_backends import alike, verdict

ROW = {"model": "minkunet", "backend": "spconv", "scans_per_s": 2.0, "cpu_s": 0.5, "alike_ratio": 1.0}


@pytest.mark.parametrize(
    ("ratio", "is_good", "said"),
    [
        (1.0, True, "minkunet spconv 2.00 scans/s, 0.50 CPU s a scan"),
        (0.9995, True, "0.50 CPU s a scan"),
        (0.99, False, "OTHER labels (99.00% alike)"),
        (0.0, False, "OTHER labels (0.00% alike)"),
    ],
)
def test_other_labels_are_a_failure(ratio, is_good, said):
    found, sentence = verdict([{**ROW, "backend": "torch"}, {**ROW, "alike_ratio": ratio}])
    assert found == is_good
    assert sentence.endswith(said)


def test_labels_are_compared_point_by_point_and_file_by_file(tmp_path):
    for folder, values in (("one", [1, 2, 3, 4]), ("same", [1, 2, 3, 4]), ("other", [1, 2, 3, 0]), ("short", [1])):
        place = tmp_path / folder / "lidarseg" / "val"
        place.mkdir(parents=True)
        np.array(values, np.uint8).tofile(place / "f_lidarseg.bin")
    found = [alike(tmp_path / "one", tmp_path / name) for name in ("same", "other", "short", "absent")]
    assert found == [1.0, 0.75, 0.0, 0.0]


def test_backends_take_turns_and_the_first_one_judges(monkeypatch, tmp_path):
    calls = []
    speeds = iter([1.0, 9.0, 3.0, 7.0, 2.0, 8.0])

    def speed(way, actors, run, index, out):
        calls.append((way, actors, run))
        return {"scans_per_s": next(speeds), "cpu_s": 1.0, "load_average": 0.0}

    monkeypatch.setattr(predict_backends.predict, "scans_index", lambda *_: tmp_path)
    monkeypatch.setattr(predict_backends.predict, "run_folder", lambda folder, model, backend: backend)
    monkeypatch.setattr(predict_backends.predict, "speed_of", speed)
    monkeypatch.setattr(predict_backends, "alike", lambda one, other: float(one == other))
    monkeypatch.setattr("sys.argv", ["predict_backends", "--folder", str(tmp_path)])
    rows = predict_backends.measure(predict_backends._arguments(), "spvcnn")
    assert [run for *_, run in calls] == ["torch", "spconv"] * 3
    assert {name: row["scans_per_s"] for name, row in rows.items()} == {"torch": 2.0, "spconv": 8.0}
    assert {name: row["alike_ratio"] for name, row in rows.items()} == {"torch": 1.0, "spconv": 0.0}
