"""What cells are compared by: results, and nothing that a clock or the order of work decides."""

import json
import os
from pathlib import Path

from pyarrow import fs

from ray_lidarseg.datasets.shards import write_shard
from tests.bench.faults import _NOTHING_THERE, FAULTS, VERBS, _bytes, _is_idle, _metrics, _shards
from tests.ray.conftest import keyframe


def test_a_run_is_compared_by_its_numbers_and_not_by_its_speed(tmp_path: Path):
    def run(name: str, **values: object) -> dict:
        (tmp_path / name).mkdir()
        line = {"kind": "train", "step": 1, "loss_total": 2.0, "scans_per_s": 1.0, **values}
        (tmp_path / name / "metrics.jsonl").write_text(json.dumps(line) + "\n")
        return _metrics(str(tmp_path / name))

    assert run("one") == run("slow", scans_per_s=9.0)
    assert run("two") != run("other", loss_total=2.1)


def test_prepared_frames_are_compared_by_row_and_not_by_shard(tmp_path: Path):
    frames = [keyframe(index, "train") for index in range(3)]
    for name, groups in (("a", (frames,)), ("b", (frames[2:], frames[:2])), ("c", (frames[:2],))):
        for group in groups:
            write_shard(fs.LocalFileSystem(), str(tmp_path / name), group)
    one, other, less = (_shards(str(tmp_path / name)) for name in "abc")
    assert len(one) == 3
    assert one == other
    assert one != less


def test_files_are_compared_by_their_bytes_and_locks_not_at_all(tmp_path: Path):
    for name, content in (("a/x.label", b"1"), ("b/x.label", b"1"), ("b/in-use.json", b"?"), ("c/x.label", b"2")):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(content)
    one, locked, other = (_bytes(str(tmp_path / name)) for name in "abc")
    assert one == locked
    assert one != other


def test_only_cells_with_nothing_to_strike_are_not_run():
    assert all(verb in VERBS and fault in FAULTS for verb, fault in _NOTHING_THERE)
    assert len(_NOTHING_THERE) == 3
    assert not _is_idle(os.getpid())
    assert _is_idle(2**22 + 1)  # no such process
