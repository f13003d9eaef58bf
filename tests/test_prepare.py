"""What `prepare` decides before and after its pipeline; none of it may start Ray."""

import errno
import json
import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyarrow import fs

from ray_lidarseg.datasets import parquet_files
from ray_lidarseg.datasets.catalog import read_catalog, shard_entries
from ray_lidarseg.datasets.decode import decode
from ray_lidarseg.datasets.prepared_frames import PreparedFrames
from ray_lidarseg.datasets.shards import write_shard
from ray_lidarseg.errors import DataError, StorageError, TornFileError
from ray_lidarseg.index import index
from ray_lidarseg.prepare import PrepareReport, decoding, pipeline, prepare
from ray_lidarseg.prepare.stage_report import Progress, Result
from ray_lidarseg.sample import Keyframe
from ray_lidarseg.storage.lock import held
from tests.prepare.camera_log import decode_here

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


def _tear(out: str) -> Path:
    torn = Path(out, next(iter(shard_entries(LOCAL, out)))["shard"])
    torn.write_bytes(torn.read_bytes()[:100])
    return torn


def test_a_torn_shard_is_deleted_and_its_frames_are_prepared_again(source: str, out: str, inline, capsys) -> None:
    frames = [entry["frame_id"] for entry in shard_entries(LOCAL, out)]
    torn = _tear(out)
    report = prepare(source, out)
    assert report.done == COUNT - report.skipped > 0
    assert f"{out}: torn and deleted: {torn.name}; what they held is prepared again" in capsys.readouterr().out
    assert list(read_catalog(LOCAL, out).frame_id) == sorted(frames)
    assert prepare(source, out).skipped == COUNT


def test_where_only_failed_frames_are_wanted_a_torn_shard_is_named_with_the_remedy(source: str, out: str) -> None:
    torn = _tear(out)
    with pytest.raises(TornFileError, match=rf"{torn.name} is not a whole Parquet file .*delete it and run"):
        prepare(source, out, retry_failed=True)
    assert torn.exists()


def test_a_torn_index_costs_no_shard(source: str, out: str) -> None:
    before = sorted(Path(out).iterdir())
    Path(source).write_bytes(Path(source).read_bytes()[:100])
    with pytest.raises(TornFileError, match=r"index.parquet is not a whole Parquet file"):
        prepare(source, out)
    assert {*before} <= {*Path(out).iterdir()}


def test_a_disk_that_cannot_be_read_costs_no_shard(source: str, out: str, monkeypatch) -> None:
    def unread(file: object, pre_buffer: bool) -> None:
        raise OSError(errno.EIO, "Input/output error")

    before = sorted(Path(out).glob("shard-*"))
    with monkeypatch.context() as broken:
        broken.setattr(parquet_files, "_opened", unread)
        with pytest.raises(DataError, match="Input/output error") as caught:
            decoding.decoded_frames({}, out)
    assert not isinstance(caught.value, TornFileError)
    assert sorted(Path(out).glob("shard-*")) == before


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
    listed = decoding.listed_frames(source)
    progress = decoding.progress_of(listed, decoding.decoded_frames(listed, str(tmp_path)), str(tmp_path), 1.0)
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


@pytest.fixture
def inline(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Frames are decoded in this process; gives the ids that were."""
    return decode_here(monkeypatch)


def labels_of(out: str) -> list[set[int]]:
    """Class ids of each frame, by the catalog, and of all rows of all shards."""
    frames = PreparedFrames(LOCAL, out, read_catalog(LOCAL, out))
    listed = sorted((entry["frame_id"], entry["shard"]) for entry in shard_entries(LOCAL, out))
    assert [frame_id for frame_id, _ in listed] == list(frames.catalog.frame_id), "an old row is still there"
    return [set(frames[number].labels.tolist()) for number in range(len(frames))]


def label_file(folder: Path, number: int) -> Path:
    return folder / "data" / "sequences" / "00" / "labels" / f"{number:06d}.label"


def same_times(file: Path, content: bytes) -> None:
    """Writes a file as an archive that sets times would."""
    before = file.stat()
    file.write_bytes(content)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))


@pytest.mark.parametrize("write", [Path.write_bytes, same_times])
def test_corrected_labels_are_taken_and_the_other_frames_stay(source, tmp_path, inline, capsys, write) -> None:
    out = str(tmp_path / "new")
    assert prepare(source, out).done == COUNT
    car = np.full(3, 10, np.uint32).tobytes()
    for number in (1, 3):
        write(label_file(tmp_path, number), car)
    inline.clear()
    assert prepare(source, out) == PrepareReport(done=2, skipped=3, failed=0)
    assert inline == ["00/000001", "00/000003"]
    said = capsys.readouterr().out
    assert "2 frames changed since they were prepared: 00/000001 (000001.label), 00/000003 (000003.label)" in said
    assert labels_of(out) == [{8}, {0}, {8}, {0}, {8}]
    assert prepare(source, out) == PrepareReport(done=0, skipped=COUNT, failed=0)


def test_a_file_that_was_only_touched_costs_its_digest_and_one_that_is_gone_nothing(source, tmp_path, inline) -> None:
    out = str(tmp_path / "new")
    prepare(source, out)
    label_file(tmp_path, 0).touch()
    label_file(tmp_path, 1).write_bytes(label_file(tmp_path, 1).read_bytes())
    label_file(tmp_path, 2).unlink()
    inline.clear()
    assert prepare(source, out) == PrepareReport(done=0, skipped=COUNT, failed=0)
    assert inline == []


def test_a_scan_of_another_length_and_a_calibration_of_the_index_are_noticed(source, tmp_path, inline, capsys) -> None:
    out = str(tmp_path / "new")
    prepare(source, out)
    np.full((3, 4), 0.25, np.float32).tofile(tmp_path / "data/sequences/00/velodyne/000002.bin")
    table = pq.read_table(source)
    times = [time + (number == 4) for number, time in enumerate(table.column("timestamp_us").to_pylist())]
    column = pa.field("timestamp_us", pa.int64(), nullable=False)
    pq.write_table(table.set_column(table.schema.get_field_index("timestamp_us"), column, pa.array(times)), source)
    assert prepare(source, out).done == 2
    assert "00/000002 (000002.bin), 00/000004 (time); they are decoded again" in capsys.readouterr().out
    frames = PreparedFrames(LOCAL, out, read_catalog(LOCAL, out))
    assert frames[2].points.max() == 0.25
    assert frames.catalog.timestamp_us[4] == times[4]


def test_a_changed_frame_that_cannot_be_read_any_more_is_not_kept_as_it_was(source, tmp_path, inline) -> None:
    out = str(tmp_path / "new")
    prepare(source, out)
    label_file(tmp_path, 1).write_bytes(b"x")
    report = prepare(source, out, max_failed_ratio=0.2)
    assert (report.done, report.skipped, report.failed) == (0, 4, 1)
    assert "00/000001" not in read_catalog(LOCAL, out).frame_id


def test_retry_failed_leaves_changed_frames_and_says_so(source, tmp_path, inline, capsys) -> None:
    out = str(tmp_path / "new")
    prepare(source, out)
    label_file(tmp_path, 1).write_bytes(np.full(3, 10, np.uint32).tobytes())
    assert prepare(source, out, retry_failed=True).done == 0
    assert "they stay as they were until the command is given without --retry-failed" in capsys.readouterr().out
    assert labels_of(out) == [{8}] * COUNT


def test_shards_of_an_earlier_release_are_compared_by_their_times(source, out, tmp_path, inline) -> None:
    assert prepare(source, out).done == 0
    label_file(tmp_path, 1).write_bytes(np.full(3, 10, np.uint32).tobytes())
    assert prepare(source, out).done == 1
    assert labels_of(out) == [{8}, {0}, {8}, {8}, {8}]


def test_a_second_prepare_in_the_folder_is_refused(source, tmp_path) -> None:
    with held(str(tmp_path / "new"), "prepare"), pytest.raises(StorageError, match="is in use: `ray-lidarseg prepare`"):
        prepare(source, str(tmp_path / "new"))


def test_a_run_folder_is_no_folder_of_shards(source, tmp_path) -> None:
    (tmp_path / "recipe.yaml").write_text("{}")
    with pytest.raises(DataError, match="holds a training run: give the shards a folder of their own with --out"):
        prepare(source, str(tmp_path))
