"""The benchmark of targets on a tiny world: counts that must hold whatever is measured, and the table's arithmetic."""

import json
import sys

import numpy as np
import pytest
import torch

from ray_lidarseg.synthetic.options import with_options
from ray_lidarseg.synthetic.presets import PRESETS
from ray_lidarseg.types import IGNORE
from tests.bench import parallax
from tests.bench.parallax import (
    COUNTS,
    NUM_CLASSES,
    TARGETS,
    cells,
    class_scores,
    interval,
    of_frame,
    ratios,
    scene_of,
    view_of,
)


@pytest.fixture(scope="module")
def counts() -> dict[str, int]:
    view_of.cache_clear()
    return of_frame(scene_of(PRESETS["demo"], 9800), 9800, 3, 1.0)


def test_counts_are_possible_and_the_same_pixels_judge_all_targets(counts):
    for target in TARGETS:
        segments, kept, labelled, right, known = (counts[f"{target}_{count}"] for count in COUNTS)
        assert 0 < kept <= segments
        assert 0 < right <= labelled <= known
    assert len({counts[f"{target}_known"] for target in TARGETS}) == 1


def test_a_model_that_is_always_right_is_right_on_nearly_every_labelled_pixel(counts):
    assert all(ratios(counts, target)[1] > 0.85 for target in TARGETS)


def test_a_wrong_calibration_hurts_every_target(counts):
    wrong = of_frame(scene_of(with_options(PRESETS["demo"], {"calibration_error_deg": 8.0}), 9800), 9800, 3, 1.0)
    assert all(ratios(wrong, target)[2] < ratios(counts, target)[2] - 0.05 for target in TARGETS)


def test_quality_is_the_share_of_blocks_with_the_right_class():
    points = torch.rand(4000, 4, generator=torch.Generator().manual_seed(0)) * 100
    labels = torch.randint(0, NUM_CLASSES, (4000,), generator=torch.Generator().manual_seed(1))
    labels[:50] = IGNORE
    scores = class_scores(labels, points, 0.8, 0)
    known = labels != IGNORE
    is_right = scores.argmax(1)[known] == labels[known]
    assert is_right.float().mean() == pytest.approx(0.8, abs=0.03)
    assert scores.softmax(1).amax(1)[known].unique().tolist() == pytest.approx([0.97])
    assert not scores[~known].any()


def test_the_table_is_means_over_scenes_and_the_gain_is_of_the_same_scenes():
    def row(right: int) -> dict[str, int]:
        values = {"segments": 10, "kept": 5, "labelled": 40, "right": right, "known": 80}
        counted = {f"{target}_{count}": value for target in TARGETS for count, value in values.items()}
        return {**counted, "rendered_right": right + 4}

    said = list(cells([row(20), row(30)]))
    assert said[0] == "50.0 ± 0.0"
    assert said[1].startswith("72.5 ± ")  # (24 + 34) / 80
    assert said[-2:] == ["+10.0 ± 0.0", "+5.0 ± 0.0"]  # 4 of 40 labelled, of 80 known, in each scene
    # two scenes, 0.5 and 0.7: t(0.975, 1) = 12.706, deviation 0.1414, half width 127.06 points
    assert interval(np.array([0.5, 0.7])) == "60.0 ± 127.1"


def test_a_table_in_the_making_is_shown_without_measuring(tmp_path, monkeypatch, capsys):
    counted = dict(zip(COUNTS, (10, 5, 40, 20, 80), strict=True))
    figures = {f"{target}_{count}": value for target in TARGETS for count, value in counted.items()}
    key = {"setting": "as mounted", "value": 0.0, "quality": 1.0, "frames": len(parallax.FRAMES)}
    file = tmp_path / "rows.json"
    file.write_text(json.dumps([{**key, "seed": seed, **figures} for seed in parallax.SEEDS[:3]]))
    monkeypatch.setattr(sys, "argv", ["parallax", "--json", str(file), "--show"])
    monkeypatch.setattr(parallax, "of_scene", lambda *_: pytest.fail("it measures"))
    assert parallax.main() == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3
    assert lines[1].split()[:4] == ["as", "mounted", "100%", "3"]
