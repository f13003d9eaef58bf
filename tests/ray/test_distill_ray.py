"""Distil, and evaluate by words and structure: the verbs on a real local Ray."""

import json
from pathlib import Path

import numpy as np
import pytest

from ray_lidarseg.datasets.evidence import TextEmbeddings
from ray_lidarseg.errors import DataError
from ray_lidarseg.evaluate import describe, evaluate
from ray_lidarseg.train import train
from tests.training.prepared_features import DIM, LOWER, UPPER, WORDS, write_seen_walls
from tests.training.prepared_walls import walls_recipe

pytestmark = pytest.mark.ray


@pytest.fixture(scope="module")
def distilled(tmp_path_factory, local_ray) -> str:
    folder = tmp_path_factory.mktemp("distill")
    walls = write_seen_walls(str(folder / "prepared"))
    changes = {"method__name": "distill", "data__evidence": "auto", "method__gather": True}  # of both workers
    rhythm = {"train__steps": 60, "train__evaluate_every": 60, "train__checkpoint_every": 60, "optim__lr": 0.01}
    return train(walls_recipe(walls, **changes, **rhythm, workers__use_gpu="no"), str(folder / "distilled")).uri


def test_evaluate_scores_words_images_and_structure(distilled):
    found = evaluate(distilled)
    assert found["zero_shot"]["images"]["iou_ratio"][LOWER] == 1.0  # a teacher that is never wrong
    for name in ("points", "ensemble"):
        assert found["zero_shot"][name]["iou_ratio"][UPPER] > 0.5
    assert found["models"]["student"]["point"]["iou_ratio"][UPPER] > 0.5
    structure = found["structure"]
    assert structure["source_tolerance"] == pytest.approx(1.0, abs=1e-3)
    assert structure["alignment_gap"] < 0.6
    assert sum(structure["counts"]) == 120  # all points of both validation scans
    assert len(found["plane"]) == 120
    assert "uniformity" in describe(found).splitlines()[-1]
    assert json.loads(Path(distilled, "evaluation", "val.json").read_text()) == json.loads(json.dumps(found))


def test_other_words_take_the_place_of_its_own(distilled, tmp_path):
    swapped = WORDS.embeddings.copy()
    swapped[[LOWER, UPPER]] = swapped[[UPPER, LOWER]]
    file = tmp_path / "words.npz"
    file.write_bytes(TextEmbeddings(swapped, WORDS.class_idx, WORDS.names).to_bytes())
    assert evaluate(distilled, words=str(file))["zero_shot"]["points"]["iou_ratio"][UPPER] < 0.2
    assert json.loads(Path(distilled, "evaluation", "words-val.json").read_text())["words"] == str(file)
    narrow = TextEmbeddings(np.eye(DIM, 5, dtype=np.float32), WORDS.class_idx, WORDS.names)
    file.write_bytes(narrow.to_bytes())
    with pytest.raises(DataError, match=r"embeddings of length 5 of 16 classes, the network speaks 16 of 16"):
        evaluate(distilled, words=str(file))
