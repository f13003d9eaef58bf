"""A sweep on the page: combinations, figures, and folders with pieces missing."""

import io

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from ray_lidarseg.report.page import report
from ray_lidarseg.report.sweep_charts import importance, label_efficiency, parallel_coordinates
from ray_lidarseg.report.sweep_section import is_sweep, sweep_panel

STUDY = {"study": {"question": "Why?", "metric": "point_miou_ratio", "mode": "max"}, "recipe": {}}


def _rows():
    return [
        {
            "trial": f"{index}",
            "state": "finished" if index < 7 else "stopped",
            "space.split.ratio": (0.01, 0.1)[index // 4],
            "space.method": ("supervised", "lasermix")[index // 2 % 2],
            "seed": index % 2,
            "step": 100 if index < 7 else 10,
            "point_miou_ratio": (0.10, 0.12, 0.20, 0.24, 0.30, 0.30, 0.50, 0.60)[index],
            "seconds": 1800.0,
            "cost": 0.5,
            "reason": "",
        }
        for index in range(8)
    ]


def _write(folder, rows=None, study=STUDY):
    folder.mkdir(exist_ok=True)
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows or _rows()), sink)
    (folder / "trials.parquet").write_bytes(sink.getvalue())
    (folder / "study.yaml").write_text(yaml.safe_dump(study))
    return str(folder)


def test_combinations_are_ranked_whole_ones_first(tmp_path):
    panel = sweep_panel(_write(tmp_path / "sweep"))
    assert panel.header == ["split.ratio", "method", "trials", "finished", "point_miou_ratio, %", "steps"]
    assert panel.rows == [
        ["0.1", "supervised", "2", "2", "30.0 ± 0.0", "100"],
        ["0.01", "lasermix", "2", "2", "22.0 ± 2.8", "100"],
        ["0.01", "supervised", "2", "2", "11.0 ± 1.4", "100"],
        ["0.1", "lasermix", "2", "1", "50.0", "100"],
    ]
    assert panel.facts == [("trials", "7 finished, 1 stopped"), ("time", "4.00 h of training"), ("cost", "4.00")]
    assert [chart.caption for chart in panel.charts] == [
        "Label efficiency",
        "Parallel coordinates",
        "Parameter importance",
    ]
    assert panel.notes == ["charts are of the 7 of 8 trials that got to their last step"]


def test_the_page_shows_sweeps_beside_runs(tmp_path):
    folder = _write(tmp_path / "sweep")
    assert is_sweep(folder)
    assert not is_sweep(str(tmp_path))
    report([folder], str(tmp_path / "page.html"))
    page = (tmp_path / "page.html").read_text()
    assert "Sweep · sweep" in page
    assert "Why?" in page
    assert "22.0 ± 2.8" in page


@pytest.mark.parametrize(
    ("damage", "note"),
    [
        (lambda folder: (folder / "study.yaml").unlink(), "no study.yaml"),
        (lambda folder: (folder / "study.yaml").write_text("study: {}"), "no 'question'"),
        (lambda folder: (folder / "trials.parquet").write_bytes(b"PAR1"), "is no Parquet table"),
        (lambda folder: _write(folder, [{"trial": "a"}]), "has no column state of string"),
        (lambda folder: _write(folder, [{**row, "space.method": [1]} for row in _rows()]), "neither text nor numbers"),
        (
            lambda folder: _write(folder, study={"study": {**STUDY["study"], "metric": "m"}}),
            "has no column m of double",
        ),
    ],
)
def test_a_damaged_sweep_is_a_note(tmp_path, damage, note):
    folder = tmp_path / "sweep"
    _write(folder)
    damage(folder)
    panel = sweep_panel(str(folder))
    assert not panel.rows
    assert note in panel.notes[0]


def test_importance_is_the_corrected_share_between_groups():
    # two groups, means 1 and 3, within 4 x 1² = 4 over 2, total 4 x 1² + 4 = 8 over 3: 1 - 2 / (8 / 3) = 1 / 4
    assert importance(["a", "a", "b", "b"], [0, 2, 2, 4]) == pytest.approx(0.25)
    assert importance(["a", "a", "b", "b"], [1, 1, 2, 2]) == 1.0
    assert importance(["a", "b", "a", "b"], [1, 1, 2, 2]) == 0.0
    assert importance([0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8], [1, 1, 2, 2, 3, 3, 4, 4]) == 1.0
    assert importance(["a", "a"], [1, 2]) is None
    assert importance(["a", "b"], [1, 2]) is None
    assert importance(["a", "a", "b"], [1, 1, 1]) is None


def test_charts_are_left_out_where_they_say_nothing():
    rows = [{"split.ratio": 0.1, "method": "a", "m": 0.5}]
    assert label_efficiency(rows, ["split.ratio", "method"], "m") is None
    assert parallel_coordinates(rows, ["split.ratio", "method"], "m") is None
