"""What `prepare` decides before and after its pipeline; none of it may start Ray."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyarrow import fs

from ray_lidarseg.datasets.decode import decode
from ray_lidarseg.datasets.shards import PreparedFrames, read_catalog, shard_entries, write_shard
from ray_lidarseg.errors import DataError, StorageError
from ray_lidarseg.index import index
from ray_lidarseg.prepare import PrepareReport, decoding, pipeline, prepare
from ray_lidarseg.prepare.stage_report import Progress, Result
from ray_lidarseg.sample import Keyframe

LOCAL = fs.LocalFileSystem()
COUNT = 5


@pytest.fixture(autouse=True)
def no_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    def connect() -> None:
        raise AssertionError("Ray was started")

    monkeypatch.setattr(pipeline, "connect", connect)


@pytest.fixture
def source(tmp_path: Path) -> str:
    """The index of five labelled scans in SemanticKITTI's layout."""
    for number in range(COUNT):
        for name, content in (
            (f"velodyne/{number:06d}.bin", np.full((3, 4), 0.5 + number / 10, np.float32)),
            (f"labels/{number:06d}.label", np.full(3, 40, np.uint32)),
        ):
            file = tmp_path / "data" / "sequences" / "00" / name
            file.parent.mkdir(parents=True, exist_ok=True)
            content.tofile(file)
    index("semantickitti", str(tmp_path / "data"), str(tmp_path / "index.parquet"))
    return str(tmp_path / "index.parquet")


@pytest.fixture
def out(source: str, tmp_path: Path) -> str:
    """All five frames in two shards, no catalog yet: what a driver leaves that was killed at its last line."""
    frames = [decode(Keyframe.from_row(row)) for row in pq.read_table(source).to_pylist()]
    for part in (frames[:3], frames[3:]):
        write_shard(LOCAL, str(tmp_path / "out"), part)
    return str(tmp_path / "out")


def test_with_all_frames_there_only_the_catalog_is_written(source: str, out: str, capsys) -> None:
    Path(out, ".unfinished-shard-x.parquet-0").write_bytes(b"half a shard")
    assert prepare(source, out) == PrepareReport(done=0, skipped=COUNT, failed=0)
    assert capsys.readouterr().out == f"{out}: 0 frames prepared, {COUNT} were there already, 0 failed\n"
    assert sorted(path.name for path in Path(out).iterdir() if "shard" not in path.name) == [
        "catalog.parquet",
        "failures.jsonl",
    ]
    assert not list(Path(out).glob(".unfinished*"))
    frames = PreparedFrames(LOCAL, out, read_catalog(LOCAL, out))
    assert frames.catalog.frame_id == tuple(f"00/{number:06d}" for number in range(COUNT))
    assert [frames[number].labels.tolist() for number in range(COUNT)] == [[8, 8, 8]] * COUNT


def test_frames_of_another_index_stay_and_are_mentioned(source: str, out: str, capsys) -> None:
    pq.write_table(pq.read_table(source).slice(0, 3), source)
    assert prepare(source, out) == PrepareReport(done=0, skipped=3, failed=0)
    assert "2 of other indexes are there, too" in capsys.readouterr().out
    assert len(read_catalog(LOCAL, out)) == COUNT


@pytest.mark.parametrize(
    ("column", "now", "message"),
    [
        ("split", "val", r"holds frame 00/00000. with split train, the index says val: prepare this index into a new"),
        ("scene", "01", r"with scene 00, the index says 01"),
        ("labels_uri", "", r"with labels_uri .*labels/00000..label, the index says \(none\)"),
        ("points_uri", "/x/000000.bin", r"with points_uri .*velodyne/00000..bin, the index says /x/000000.bin"),
    ],
)
def test_an_index_that_changed_since_is_noticed(source: str, out: str, column: str, now: str, message: str) -> None:
    table = pq.read_table(source)
    position, metadata = table.schema.get_field_index(column), table.schema.metadata
    changed = table.set_column(position, column, pa.array([now] * COUNT)).replace_schema_metadata(metadata)
    pq.write_table(changed, source)
    with pytest.raises(DataError, match=message):
        prepare(source, out)


def test_a_torn_shard_is_named_with_the_remedy(source: str, out: str) -> None:
    torn = Path(out, next(iter(shard_entries(LOCAL, out)))["shard"])
    torn.write_bytes(torn.read_bytes()[:100])
    with pytest.raises(DataError, match=rf"{torn.name} is not a whole Parquet file .*delete it and run"):
        prepare(source, out)


def test_an_index_that_is_missing(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none.parquet is missing: run `ray-lidarseg index` to the end first"):
        prepare(str(tmp_path / "none.parquet"), str(tmp_path / "out"))


def test_a_folder_that_cannot_be_written(source: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match=r"cannot write .*a part of the path is a file, not a folder"):
        prepare(source, str(tmp_path / "file" / "out"))


@pytest.mark.parametrize("ratio", [5.0, -0.1, float("nan")])
def test_a_ratio_that_is_none(source: str, tmp_path: Path, ratio: float) -> None:
    with pytest.raises(DataError, match=rf"--max-failed-ratio {ratio:g} is no share of the frames: expected 0 … 1"):
        prepare(source, str(tmp_path / "new"), max_failed_ratio=ratio)
    assert not (tmp_path / "new").exists()


def failing(num_failed: int, total: int, limit: float) -> Progress:
    progress = Progress("o", total, limit, waiting=set())
    for number in range(num_failed):
        progress.add(Result(f"f{number}", f"reason {number}"))
    return progress


def test_one_bad_frame_of_three_is_more_than_a_hundredth_and_the_message_says_what_is_enough() -> None:
    message = (
        r"(?s)^1 of 3 frames cannot .*share 0.01 .*\n  f0: reason 0\n.*o/failures.jsonl.*--max-failed-ratio 0.34 or"
    )
    with pytest.raises(DataError, match=message):
        failing(1, 3, limit=0.01).stop_if_too_many_failed()
    failing(1, 3, limit=0.34).stop_if_too_many_failed()


@pytest.mark.parametrize(("total", "limit"), [(100, 0.29), (100, 0.57), (10, 0.1), (7, 1.0), (5, 0.0)])
def test_exactly_the_share_that_may_fail_passes_and_one_more_does_not(total: int, limit: float) -> None:
    allowed = round(limit * total)
    assert not failing(allowed, total, limit).too_many_failed
    assert failing(allowed + 1, total, limit).too_many_failed


def test_a_block_of_the_pipeline_gives_one_result_a_row_and_writes_the_good_ones(source: str, tmp_path: Path) -> None:
    """The function Ray runs, called by hand: what is bad about a frame is a value, not an exception."""
    rows = pq.read_table(source)
    for number, content in ((0, b""), (2, b"x")):
        (tmp_path / "data/sequences/00/velodyne" / f"{number:06d}.bin").write_bytes(content)
    points = np.full((3, 4), 0.5, np.float32)
    points[1, 0] = np.nan
    points.tofile(tmp_path / "data/sequences/00/velodyne/000004.bin")
    results = decoding._prepare_rows(rows, str(tmp_path / "new"), None).to_pylist()
    assert [bool(row["error"]) for row in results] == [True, False, True, False, False]
    assert [row["num_nonfinite"] for row in results] == [0, 0, 0, 0, 1]
    assert [entry["frame_id"][-1] for entry in shard_entries(LOCAL, str(tmp_path / "new"))] == ["1", "3", "4"]


def test_a_shard_that_cannot_be_written_is_the_reason_of_each_of_its_frames(source: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    results = decoding._prepare_rows(pq.read_table(source), str(tmp_path / "file" / "out"), None).to_pylist()
    assert all(row["error"].startswith("cannot write its shard: ") for row in results)


def test_failures_name_frame_files_and_reason(source: str, tmp_path: Path) -> None:
    progress, _ = decoding.progress_of(decoding.listed_frames(source), str(tmp_path), 1.0)
    progress.add(Result("00/000003", "is an empty scan"))
    progress.write_failures()
    (line,) = (tmp_path / "failures.jsonl").read_text().splitlines()
    folder = tmp_path / "data" / "sequences" / "00"
    assert json.loads(line) == {
        "frame_id": "00/000003",
        "points_uri": str(folder / "velodyne" / "000003.bin"),
        "labels_uri": str(folder / "labels" / "000003.label"),
        "reason": "is an empty scan",
    }
