"""The pipeline from an index to shards: bad files, resuming after a kill, and what training reads afterwards."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from pyarrow import fs

from ray_lidarseg.datasets.catalog import read_catalog, shard_entries
from ray_lidarseg.datasets.prepared_frames import PreparedFrames
from ray_lidarseg.datasets.shards import list_shards
from ray_lidarseg.errors import DataError
from ray_lidarseg.index import index
from ray_lidarseg.prepare import PrepareReport, prepare

pytestmark = pytest.mark.ray
LOCAL = fs.LocalFileSystem()
COUNT = 20
SCAN, LABELS = "sequences/00/velodyne/{:06d}.bin", "sequences/00/labels/{:06d}.label"


def scan(number: int) -> np.ndarray:
    points = np.random.default_rng(number).uniform(-20, 20, (50 + number, 4)).astype(np.float32)
    points[:, 3] = 0.5
    return points


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Twenty labelled scans in SemanticKITTI's layout."""
    root = tmp_path / "data"
    for number in range(COUNT):
        for name, content in ((SCAN, scan(number)), (LABELS, np.full(50 + number, 40, np.uint32))):
            file = root / name.format(number)
            file.parent.mkdir(parents=True, exist_ok=True)
            content.tofile(file)
    return root


def indexed(data: Path) -> str:
    out = str(data.parent / "index.parquet")
    index("semantickitti", str(data), out)
    return out


def failures(out: str) -> dict[str, str]:
    lines = [json.loads(line) for line in Path(out, "failures.jsonl").read_text().splitlines()]
    return {line["frame_id"]: line["reason"] for line in lines}


def assert_complete(out: str, missing: tuple[int, ...] = ()) -> None:
    frames = PreparedFrames(LOCAL, out, read_catalog(LOCAL, out))
    there = [number for number in range(COUNT) if number not in missing]
    assert frames.catalog.frame_id == tuple(f"00/{number:06d}" for number in there)
    listed = [entry["frame_id"] for entry in shard_entries(LOCAL, out)]
    assert sorted(listed) == sorted(frames.catalog.frame_id), "a frame is in two shards, or a shard is not listed"
    for position, number in enumerate(there):
        np.testing.assert_array_equal(frames[position].points[:, :3], scan(number)[:, :3])
        assert set(frames[position].labels.tolist()) == {8}
    kinds = {path.suffix for path in Path(out).iterdir()}
    assert kinds == {".parquet", ".jsonl"}, "leftovers"


def test_every_frame_once_and_nothing_to_do_the_second_time(data: Path, local_ray) -> None:
    source, out = indexed(data), str(data.parent / "out")
    assert prepare(source, out) == PrepareReport(done=COUNT, skipped=0, failed=0)
    assert_complete(out)
    assert len(list_shards(LOCAL, out)) == 3  # 20 frames, at most 8 a shard
    before = {path.name: path.stat().st_mtime_ns for path in Path(out).glob("shard-*")}
    assert prepare(source, out) == PrepareReport(done=0, skipped=COUNT, failed=0)
    assert {path.name: path.stat().st_mtime_ns for path in Path(out).glob("shard-*")} == before


def _spoil(data: Path) -> dict[int, str]:
    """Six frames that cannot be read, one that can with two bad points; returns the reasons to expect."""
    (data / SCAN.format(1)).write_bytes(scan(1).tobytes()[:-3])
    np.zeros(3, np.uint32).tofile(data / LABELS.format(4))
    np.full(57, 3, np.uint32).tofile(data / LABELS.format(7))
    (data / SCAN.format(9)).unlink()
    (data / LABELS.format(12)).unlink()
    (data / SCAN.format(15)).write_bytes(b"")
    points = scan(18)
    points[2:4, 3] = np.nan
    points.tofile(data / SCAN.format(18))
    return {
        1: "is truncated",
        4: "has 12 bytes, expected 216",
        7: "unknown semantickitti label ids [3]",
        9: "no such file",
        12: "no such file",
        15: "is an empty scan",
    }


def test_bad_frames_cost_themselves_and_are_tried_again(data: Path, local_ray, capsys) -> None:
    source, out = indexed(data), str(data.parent / "out")
    reasons = _spoil(data)
    report = prepare(source, out, max_failed_ratio=0.3)
    assert report == PrepareReport(done=14, skipped=0, failed=6, nonfinite_points=2)
    assert "2 points are not finite" in capsys.readouterr().out
    found = failures(out)
    assert found.keys() == {f"00/{number:06d}" for number in reasons}
    for number, reason in reasons.items():
        assert reason in found[f"00/{number:06d}"]
        assert f"{number:06d}." in found[f"00/{number:06d}"], "the file is not named"
    assert_complete(out, missing=tuple(reasons))
    for number in reasons:
        scan(number).tofile(data / SCAN.format(number))
        np.full(50 + number, 40, np.uint32).tofile(data / LABELS.format(number))
    assert prepare(source, out) == PrepareReport(done=6, skipped=14, failed=0)
    assert failures(out) == {}
    assert_complete(out)


def test_too_many_bad_frames_stop_it_and_finished_shards_stay(data: Path, local_ray) -> None:
    source, out = indexed(data), str(data.parent / "out")
    _spoil(data)
    message = (
        r"(?s)^5 of 20 frames cannot be prepared, more than the share 0.2 .*00/0000.*--max-failed-ratio 0.25 or more"
    )
    with pytest.raises(DataError, match=message):
        prepare(source, out, max_failed_ratio=0.2)
    assert not Path(out, "catalog.parquet").exists()
    assert len(failures(out)) == 5
    finished = sum(1 for _ in shard_entries(LOCAL, out))
    report = prepare(source, out, max_failed_ratio=0.3)
    assert (report.done, report.skipped, report.failed) == (14 - finished, finished, 6)


DRIVER = """
import sys
from ray_lidarseg.prepare import prepare
prepare(sys.argv[1], sys.argv[2])
"""


def test_a_killed_driver_loses_nothing(data: Path, tmp_path: Path, local_ray) -> None:
    """One scan is a pipe that never delivers, so the first driver cannot finish before it is killed."""
    source, out = indexed(data), str(data.parent / "out")
    (data / SCAN.format(3)).unlink()
    os.mkfifo(data / SCAN.format(3))
    driver = subprocess.Popen([sys.executable, "-c", DRIVER, source, out], start_new_session=True)
    try:
        _wait_for_shards(driver, out, count=2)
    finally:
        driver.send_signal(signal.SIGKILL)
        driver.wait()
    assert not Path(out, "catalog.parquet").exists()
    Path(out, ".unfinished-shard-x.parquet-0").write_bytes(b"half a shard")
    finished = sum(1 for _ in shard_entries(LOCAL, out))
    assert 0 < finished < COUNT
    (data / SCAN.format(3)).unlink()
    scan(3).tofile(data / SCAN.format(3))
    assert prepare(source, out) == PrepareReport(done=COUNT - finished, skipped=finished, failed=0)
    assert_complete(out)


def _wait_for_shards(driver: subprocess.Popen, out: str, count: int) -> None:
    deadline = time.monotonic() + 240
    while len(list_shards(LOCAL, out)) < count:
        assert driver.poll() is None, "the driver ended before it was killed"
        assert time.monotonic() < deadline, "no shards appeared"
        time.sleep(0.1)


LETHAL_DRIVER = """
import sys, tempfile
import ray
from ray_lidarseg.prepare import prepare

def spoil_worker():
    import os
    import ray_lidarseg.prepare.decoding as verb
    decode = verb.decode
    verb.decode = lambda frame, *rest: os._exit(1) if frame.frame_id == "00/000002" else decode(frame, *rest)

ray.init(address="local", num_cpus=2, include_dashboard=False, runtime_env={"worker_process_setup_hook": spoil_worker})
report = prepare(sys.argv[1], sys.argv[2], max_failed_ratio=0.25)
sys.exit(0 if (report.done, report.failed) == (3, 1) else 1)
"""


def test_a_frame_that_kills_every_process_that_reads_it_costs_itself(data: Path) -> None:
    for number in range(4, COUNT):
        (data / SCAN.format(number)).unlink()
    out = str(data.parent / "out")
    command = [sys.executable, "-c", LETHAL_DRIVER, indexed(data), out]
    subprocess.run(command, env={**os.environ, "RAY_AUTH_MODE": "disabled"}, check=True, timeout=400)
    assert failures(out) == {"00/000002": "its worker process died 3 times (out of memory?)"}
    assert_complete(out, missing=(2, *range(4, COUNT)))
