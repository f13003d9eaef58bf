"""What cells are compared by: results, and nothing that a clock or the order of work decides."""

import json
import os
from pathlib import Path

from pyarrow import fs

from ray_lidarseg.datasets.shards import write_shard
from tests.bench.fault_verbs import (
    VERBS,
    difference,
    digests,
    evaluations,
    run_numbers,
    shard_rows,
    trials,
    trials_over,
    verbs_in,
)
from tests.bench.faults import _NOTHING_THERE, FAULTS, _is_idle
from tests.ray.conftest import keyframe


def test_a_run_is_compared_by_its_numbers_and_not_by_its_speed(tmp_path: Path):
    def run(name: str, **values: object) -> list:
        (tmp_path / name).mkdir()
        line = {"kind": "train", "step": 1, "loss_total": 2.0, "scans_per_s": 1.0, **values}
        (tmp_path / name / "metrics.jsonl").write_text(json.dumps(line) + "\n")
        return run_numbers(str(tmp_path / name))

    assert run("one") == run("slow", scans_per_s=9.0)
    assert run("two") != run("other", loss_total=2.1)


def test_prepared_frames_are_compared_by_row_and_not_by_shard(tmp_path: Path):
    frames = [keyframe(index, "train") for index in range(3)]
    for name, groups in (("a", (frames,)), ("b", (frames[2:], frames[:2])), ("c", (frames[:2],))):
        for group in groups:
            write_shard(fs.LocalFileSystem(), str(tmp_path / name), group)
    one, other, less = (shard_rows(str(tmp_path / name)) for name in "abc")
    assert len(one) == 3
    assert one == other
    assert one != less


def test_files_are_compared_by_their_bytes_and_locks_not_at_all(tmp_path: Path):
    for name, content in (("a/x.label", b"1"), ("b/x.label", b"1"), ("b/in-use.json", b"?"), ("c/x.label", b"2")):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(content)
    one, locked, other = (digests(str(tmp_path / name)) for name in "abc")
    assert one == locked
    assert one != other


def test_evaluations_are_compared_by_their_numbers_whichever_commit_scored(tmp_path: Path):
    for name, commit, miou in (("a", "1", 0.5), ("b", "2", 0.5), ("c", "1", 0.6)):
        (tmp_path / name / "evaluation").mkdir(parents=True)
        content = json.dumps({"commit": commit, "miou_ratio": miou})
        (tmp_path / name / "evaluation" / "train.json").write_text(content)
        (tmp_path / name / "recipe.yaml").write_text(name)
    one, later, other = (evaluations(str(tmp_path / name)) for name in "abc")
    assert one == later != {}
    assert one != other


def _trial(out: Path, name: str, state: str, *steps: int, speed: float = 1.0) -> None:
    folder = out / "trials" / name
    folder.mkdir(parents=True, exist_ok=True)
    record = {"state": state, "evaluations": [{"step": step} for step in steps], "seconds": speed}
    (folder / "trial.json").write_text(json.dumps(record))
    lines = [json.dumps({"kind": "train", "step": step, "scans_per_s": speed}) + "\n" for step in steps]
    (folder / "metrics.jsonl").write_text("".join(lines))


def test_a_sweep_is_compared_by_its_trials_and_what_is_over_may_not_be_trained_again(tmp_path: Path):
    for out, speed in ((tmp_path / "whole", 1.0), (tmp_path / "struck", 9.0)):
        _trial(out, "a", "finished", 1, 2, speed=speed)
        _trial(out, "b", "running", 1, speed=speed)
    whole, struck = str(tmp_path / "whole"), str(tmp_path / "struck")
    assert trials(whole) == trials(struck)
    assert set(done := trials_over(struck)) == {"a"}
    _trial(tmp_path / "struck", "b", "finished", 1, 2)
    assert trials(whole) != trials(struck)  # one more is over
    assert done.items() <= trials_over(struck).items()
    _trial(tmp_path / "struck", "a", "finished", 1, 2, speed=3.0)  # trained again, with the same numbers
    assert not done.items() <= trials_over(struck).items()
    (tmp_path / "struck" / "trials" / "a" / "trial.json").write_text("{torn")
    assert set(trials(struck)) == {"b"}


def test_what_differs_is_named():
    lines = {"a": {"lines": [{"step": 1}, {"step": 2}]}}
    assert difference(lines, {"a": {"lines": [{"step": 1}, {"step": 2}]}}) == ""
    assert difference(lines, {"a": {"lines": [{"step": 1}, {"step": 3}]}}) == "/a/lines/1/step: 2 undisturbed, 3 here"
    assert difference(lines, {}) == f"/a: {lines['a']} undisturbed, None here"


def test_only_cells_with_nothing_to_strike_are_not_run(tmp_path: Path):
    assert set(verbs_in(tmp_path, os.getpid(), 1)) == set(VERBS)
    assert all(verb in VERBS and fault in FAULTS for verb, fault in _NOTHING_THERE)
    assert len(_NOTHING_THERE) == 3
    assert not _is_idle(os.getpid())
    assert _is_idle(2**22 + 1)  # no such process
