import json
from pathlib import Path

from tests.bench.sweep import _has_a_step_twice, _over


def _trial(out: Path, name: str, state: str, steps: list[int]) -> None:
    folder = out / "trials" / name
    folder.mkdir(parents=True)
    (folder / "trial.json").write_text(json.dumps({"state": state}))
    lines = [{"kind": "train", "step": step} for step in steps] + [{"kind": "evaluate", "step": steps[-1]}]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_what_is_over_and_what_was_trained_twice_is_seen(tmp_path: Path) -> None:
    _trial(tmp_path, "whole", "finished", [1, 2, 3])
    _trial(tmp_path, "again", "stopped", [1, 2, 2])
    _trial(tmp_path, "gap", "running", [1, 3])
    assert _over(tmp_path) == {"whole", "again"}
    assert [_has_a_step_twice(tmp_path, name) for name in ("whole", "again", "gap")] == [False, True, True]
