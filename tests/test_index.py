from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from ray_lidarseg.errors import DataError, StorageError
from ray_lidarseg.index import index
from ray_lidarseg.sample import SCHEMA_VERSION, Keyframe


def kitti(root: Path, sequences: tuple[str, ...] = ("00", "08"), count: int = 3) -> str:
    for name in sequences:
        for number in range(count):
            for folder, suffix in (("velodyne", "bin"), ("labels", "label")):
                file = root / "sequences" / name / folder / f"{number:06d}.{suffix}"
                file.parent.mkdir(parents=True, exist_ok=True)
                np.zeros(4, np.float32).tofile(file)
    return str(root)


def test_rows_come_back_as_key_frames(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = str(tmp_path / "deep" / "index.parquet")
    assert index("semantickitti", kitti(tmp_path / "data"), out) == 6
    table = pq.read_table(out)
    assert table.schema.metadata[b"ray_lidarseg.schema_version"] == str(SCHEMA_VERSION).encode()
    frames = [Keyframe.from_row(row) for row in table.to_pylist()]
    assert [frame.frame_id for frame in frames][2:4] == ["00/000002", "08/000000"]
    assert all(Path(frame.points_uri).is_file() and Path(frame.labels_uri).is_file() for frame in frames)
    assert all(len(frame.points) == 0 for frame in frames)
    assert "6 key-frames" in (said := capsys.readouterr().out)
    assert "train 3 (3 with labels), val 3 (3 with labels)" in said


def test_the_class_map_is_printed_and_what_does_not_fit_is_named(tmp_path: Path, capsys) -> None:
    root = kitti(tmp_path / "data", count=1)
    np.array([40], np.uint32).tofile(tmp_path / "data" / "sequences" / "00" / "labels" / "000000.label")
    np.array([77], np.uint32).tofile(tmp_path / "data" / "sequences" / "08" / "labels" / "000000.label")
    index("semantickitti", root, str(tmp_path / "index.parquet"))
    said = capsys.readouterr().out
    assert "class map, 2 label files (raw id → class id → name: points)" in said
    assert "40 →   8 → road" in said
    assert "warning: in 2 label files, raw ids seen but not mapped: 77 (1 points)" in said
    assert "warning: in 2 label files, classes never seen: car, bicycle" in said


def test_a_relative_root_becomes_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kitti(tmp_path / "data")
    monkeypatch.chdir(tmp_path)
    index("semantickitti", "data", "index.parquet")
    row = pq.read_table(tmp_path / "index.parquet").to_pylist()[0]
    assert row["points_uri"] == str(tmp_path / "data/sequences/00/velodyne/000000.bin")


def test_a_failing_index_leaves_the_old_file(tmp_path: Path) -> None:
    out = tmp_path / "index.parquet"
    index("semantickitti", kitti(tmp_path / "data"), str(out))
    before = out.read_bytes()
    (tmp_path / "data" / "sequences" / "08" / "times.txt").write_text("0.0\n")
    with pytest.raises(DataError, match=r"times.txt has 1 lines"):
        index("semantickitti", str(tmp_path / "data"), str(out))
    assert out.read_bytes() == before


@pytest.mark.parametrize(
    ("dataset", "root", "message"),
    [
        ("semantickitti", "nowhere", "nowhere is not a folder: give the root of a semantickitti data set"),
        ("nuscenes", ".", r"holds no folder v1.0-mini"),
        ("waymo", ".", "unknown data set 'waymo': expected one of nuscenes, semantickitti"),
    ],
)
def test_roots_that_are_not_data_sets(tmp_path: Path, monkeypatch, dataset: str, root: str, message: str) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match=message):
        index(dataset, root, "index.parquet")
    assert not (tmp_path / "index.parquet").exists()


def test_a_data_set_without_frames(tmp_path: Path) -> None:
    (tmp_path / "sequences" / "00" / "velodyne").mkdir(parents=True)
    with pytest.raises(DataError, match="holds no key-frames of semantickitti"):
        index("semantickitti", str(tmp_path), str(tmp_path / "index.parquet"))


def test_an_output_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match="cannot write"):
        index("semantickitti", kitti(tmp_path / "data"), str(tmp_path / "file" / "index.parquet"))
