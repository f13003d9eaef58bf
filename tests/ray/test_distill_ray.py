"""Distil, evaluate by words and structure, probe: the verbs on a real local Ray."""

import json
from pathlib import Path

import numpy as np
import pytest

from ray_lidarseg.datasets.evidence import TextEmbeddings
from ray_lidarseg.errors import DataError, RunError
from ray_lidarseg.evaluate import describe, evaluate
from ray_lidarseg.probe import probe
from ray_lidarseg.train import train
from tests.training.prepared_features import DIM, LOWER, UPPER, WORDS, write_seen_walls
from tests.training.prepared_walls import walls_recipe

pytestmark = pytest.mark.ray


@pytest.fixture(scope="module")
def distilled(tmp_path_factory, local_ray) -> str:
    folder = tmp_path_factory.mktemp("distill")
    walls = write_seen_walls(str(folder / "prepared"))
    changes = {"method__name": "distill", "data__evidence": "auto", "method__gather": True}
    rhythm = {"train__steps": 60, "train__evaluate_every": 60, "train__checkpoint_every": 60, "optim__lr": 0.01}
    return train(walls_recipe(walls, **changes, **rhythm, workers__use_gpu="no"), str(folder / "distilled")).uri


def test_evaluate_scores_words_images_and_structure(distilled):
    found = evaluate(distilled)
    assert found["zero_shot"]["images"]["iou_ratio"][LOWER] == 1.0  # a teacher that is never wrong
    for name in ("points", "ensemble"):
        assert found["zero_shot"][name]["iou_ratio"][UPPER] > 0.9
    assert found["models"]["student"]["point"]["iou_ratio"][UPPER] > 0.9
    structure = found["structure"]
    assert structure["source_tolerance"] == pytest.approx(1.0, abs=1e-3)
    assert structure["alignment_gap"] < 0.3
    assert sum(structure["counts"]) == 120  # all points of both validation scans
    assert len(found["plane"]) == 120
    assert "uniformity" in describe(found).splitlines()[-1]
    assert json.loads(Path(distilled, "evaluation", "val.json").read_text()) == json.loads(json.dumps(found))


def test_other_words_take_the_place_of_its_own(distilled, tmp_path):
    swapped = WORDS.embeddings.copy()
    swapped[[LOWER, UPPER]] = swapped[[UPPER, LOWER]]
    file = tmp_path / "words.npz"
    file.write_bytes(TextEmbeddings(swapped, WORDS.class_idx, WORDS.names).to_bytes())
    assert evaluate(distilled, words=str(file))["zero_shot"]["points"]["iou_ratio"][UPPER] == 0.0
    narrow = TextEmbeddings(np.eye(DIM, 5, dtype=np.float32), WORDS.class_idx, WORDS.names)
    file.write_bytes(narrow.to_bytes())
    with pytest.raises(DataError, match=r"embeddings of length 5 of 16 classes, the network speaks 16 of 16"):
        evaluate(distilled, words=str(file))


def test_probe_prints_the_whole_table_and_resumes(distilled, tmp_path, capfd):
    arguments = {"overrides": ["train.steps=2", "start.head_lr_factor=10"], "ratios": [0.5], "seeds": [0]}
    rows = probe([distilled], str(tmp_path), **arguments)
    said = capfd.readouterr().out
    assert [(row["network"], row["protocol"]) for row in rows] == [
        ("distilled", "zero-shot"),
        ("distilled", "linear probe"),
        ("distilled", "fine-tuning"),
        ("random", "fine-tuning"),
    ]
    assert rows[1]["ratio"] == 1.0
    assert [row["head_lr_factor"] for row in rows[1:]] == [10.0, 10.0, 1.0]
    assert rows[2]["split_digest"] == rows[3]["split_digest"]
    assert "network    zero-shot  linear probe  50% labels" in said
    assert json.loads((tmp_path / "probe.json").read_text()) == rows
    assert probe([distilled], str(tmp_path), **arguments) == rows
    assert capfd.readouterr().out.count("is finished") == 3


def test_what_is_no_pre_trained_run_is_refused(distilled, tmp_path):
    with pytest.raises(RunError, match=r"no recipe.yaml"):
        probe([str(tmp_path / "nothing")], str(tmp_path))
    with pytest.raises(RunError, match="two runs have the same folder name"):
        probe([distilled, distilled], str(tmp_path))
