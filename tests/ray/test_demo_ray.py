"""The main job as a user runs it, on the tiny world: every verb, then the same command again."""

import json
from pathlib import Path

import numpy as np
import pytest

from ray_lidarseg.demo import METHODS, demo

pytestmark = pytest.mark.ray


def _files(folder: Path, pattern: str) -> dict[str, float]:
    return {str(file): file.stat().st_mtime for file in folder.rglob(pattern)}


def test_demo_runs_every_verb_and_the_same_command_repeats_no_work(tmp_path: Path, capsys) -> None:
    page = demo(out=str(tmp_path), steps=4, seed=0, preset="tiny", ratio=0.25)
    html = page.read_text()
    table = [
        line.split() for line in capsys.readouterr().out.splitlines() if line.split()[:1] and line.split()[0] in METHODS
    ]
    assert [line[0] for line in table[-3:]] == list(METHODS)
    for method, said in zip(METHODS, table[-3:], strict=True):
        run = tmp_path / "runs" / method
        lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        assert [line["step"] for line in lines if line["kind"] == "evaluate"][-1] == 4
        assert json.loads((run / "manifest.json").read_text())["split"]["digest"] in html
        found = json.loads((run / "evaluation" / "val.json").read_text())
        assert float(said[1]) == round(100 * found["models"][found["deployed"]]["point"]["miou_ratio"], 1)
        (last,) = [line for line in lines if line["kind"] == "diagnose"][-1:]
        assert said[2:] == [f"{100 * last[found['deployed'] + '_unlabelled_miou_ratio']:.1f}", "(12", "of", "them)"]
    assert sorted(folder.name.partition("-")[0] for folder in (tmp_path / "prepared" / "layers").iterdir()) == [
        "features",
        "masks",
        "pairs",
    ]
    assert "zero-shot" in html.lower()
    predictions = sorted((tmp_path / "predictions").rglob("*_lidarseg.bin"))
    assert len(predictions) == 4  # two validation scenes of two key-frames
    labels = np.fromfile(predictions[0], np.uint8)
    assert labels.min() >= 1
    assert labels.max() <= 16
    before = _files(tmp_path, "*.bin") | _files(tmp_path, "shard-*.parquet") | _files(tmp_path, "step_*/*")
    demo(out=str(tmp_path), steps=4, seed=0, preset="tiny", ratio=0.25)
    after = _files(tmp_path, "*.bin") | _files(tmp_path, "shard-*.parquet") | _files(tmp_path, "step_*/*")
    assert after == before
