"""The verb `archive` on folders as `predict` leaves them."""

import json
import zipfile
from pathlib import Path

import numpy as np
import pytest

from ray_lidarseg.archive import archive
from ray_lidarseg.cli import main
from ray_lidarseg.datasets.parquet_files import parquet_bytes
from ray_lidarseg.datasets.semantickitti import CLASSES
from ray_lidarseg.datasets.shards import keyframe_table
from ray_lidarseg.datasets.submission import label_bytes
from ray_lidarseg.errors import DataError
from ray_lidarseg.sample import Keyframe

NUM_POINTS = 7


@pytest.fixture
def said(tmp_path: Path) -> Path:
    """Two scans of sequence 08 with labels, confidence beside them, and the index that lists them."""
    frames = []
    for number in range(2):
        scan = tmp_path / f"{number:06d}.bin"
        np.ones((NUM_POINTS, 4), np.float32).tofile(scan)
        frames.append(Keyframe(f"08/{number:06d}", "semantickitti", "08", "val", number, str(scan)))
        file = tmp_path / "said" / "sequences" / "08" / "predictions" / f"{number:06d}.label"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(label_bytes(np.full(NUM_POINTS, number, np.uint8), CLASSES, "label"))
        file.with_suffix(".confidence.npy").write_bytes(b"")
    (tmp_path / "index.parquet").write_bytes(parquet_bytes(keyframe_table(frames), 8))
    write_summary(tmp_path / "said")
    return tmp_path / "said"


def write_summary(folder: Path, **more: str) -> None:
    summary = {"file_format": "label", "split": "val", "dataset": "semantickitti", "num_scans": 2, **more}
    (folder / "predictions.json").write_text(json.dumps(summary))


def test_an_archive_of_a_part_is_only_written_when_asked_for(said, tmp_path, capsys):
    arguments = ["archive", str(said), "--index", str(tmp_path / "index.parquet"), "--out", str(tmp_path / "a.zip")]
    assert main(arguments) == 2
    assert "08 has 2 scans, expected 4071; its server would refuse the archive" in capsys.readouterr().err
    assert not (tmp_path / "a.zip").exists()
    assert main([*arguments, "--partial"]) == 0
    assert "2 scans of semantickitti val, 14 points" in capsys.readouterr().out
    labels = [name for name in zipfile.ZipFile(tmp_path / "a.zip").namelist() if not name.endswith("/")]
    assert labels == [f"sequences/08/predictions/{number:06d}.label" for number in range(2)]


def test_a_broken_rule_leaves_no_archive(said, tmp_path):
    np.zeros(NUM_POINTS, "<u4").tofile(said / "sequences" / "08" / "predictions" / "000001.label")
    with pytest.raises(DataError, match=r"000001\.label holds ids \[0\]"):
        archive(str(said), str(tmp_path / "index.parquet"), str(tmp_path / "a.zip"), partial=True)
    assert not [file for file in tmp_path.iterdir() if "zip" in file.name]


def test_missing_labels_are_named_before_anything_is_written(said, tmp_path):
    (said / "sequences" / "08" / "predictions" / "000000.label").unlink()
    with pytest.raises(DataError, match=r"1 of 2 scans have no labels, for example sequences/08/predictions/000000"):
        archive(str(said), str(tmp_path / "index.parquet"), str(tmp_path / "a.zip"), partial=True)


@pytest.mark.parametrize(
    ("summary", "message"),
    [
        ({"file_format": "las"}, "takes format label, these are las"),
        ({"split": "test"}, "lists no frame of split 'test'"),
        (
            {"dataset": "nuscenes", "file_format": "lidarseg"},
            "lists frames of semantickitti, the predictions are of nus",
        ),
    ],
)
def test_predictions_that_do_not_fit(said, tmp_path, summary, message):
    write_summary(said, **summary)
    with pytest.raises(DataError, match=message):
        archive(str(said), str(tmp_path / "index.parquet"), str(tmp_path / "a.zip"))


def test_a_folder_that_predict_did_not_write(tmp_path):
    with pytest.raises(
        DataError, match=r"has no predictions\.json: expected a folder that `ray-lidarseg predict` wrote"
    ):
        archive(str(tmp_path), "index.parquet", str(tmp_path / "a.zip"))
