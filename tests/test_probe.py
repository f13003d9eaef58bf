"""The table of protocols; its trainings run in this process, and what words say is given."""

import json
from contextlib import nullcontext

import pytest

from ray_lidarseg import probe as verb
from ray_lidarseg.errors import RunError
from ray_lidarseg.probe import probe, table
from ray_lidarseg.training.run_folder import RunFolder
from ray_lidarseg.training.trainer import train_alone
from tests.training.prepared_features import write_seen_walls
from tests.training.prepared_walls import walls_recipe


@pytest.fixture(scope="module")
def distilled(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("probe")
    walls = write_seen_walls(str(folder / "prepared"))
    recipe = walls_recipe(walls, method__name="distill", data__evidence="auto")
    return train_alone(recipe, str(folder / "distilled")).plan.run


@pytest.fixture
def trained(monkeypatch) -> list[str]:
    """Folders that were trained, in order, without Ray."""
    folders: list[str] = []

    def train(recipe, run: str) -> RunFolder:
        folders.append(run)
        return RunFolder(train_alone(recipe, run).plan.run)

    monkeypatch.setattr(verb, "train", train)
    monkeypatch.setattr(verb, "connect", nullcontext)
    monkeypatch.setattr(verb, "evaluate", lambda run, words: {"zero_shot": {"points": {"miou_ratio": 0.25}}})
    return folders


def test_the_whole_table_is_trained_printed_and_kept(distilled, trained, tmp_path, capsys):
    arguments = {"overrides": ["train.steps=1", "start.head_lr_factor=10"], "ratios": [0.5], "seeds": [0, 1]}
    rows = probe([distilled], str(tmp_path), **arguments)
    assert [(row["network"], row["protocol"], row["seed"]) for row in rows] == [
        ("distilled", "zero-shot", None),
        *(("distilled", "linear probe", seed) for seed in (0, 1)),
        *(("distilled", "fine-tuning", seed) for seed in (0, 1)),
        *(("random", "fine-tuning", seed) for seed in (0, 1)),
    ]
    assert [row["head_lr_factor"] for row in rows[1:]] == [10.0] * 4 + [1.0] * 2
    assert rows[3]["split_digest"] == rows[5]["split_digest"]  # of a seed, not of a network
    recipes = [RunFolder(folder).recipe() for folder in trained]
    assert [bool(recipe.start and recipe.start.frozen) for recipe in recipes] == [True] * 2 + [False] * 4
    assert {recipe.split.ratio for recipe in recipes[:2]} == {1.0}
    assert json.loads((tmp_path / "probe.json").read_text()) == rows
    said = capsys.readouterr().out.splitlines()
    assert said[-4].split() == ["distilled", "25.0", *said[-4].split()[2:]]
    assert said[-5].startswith("network    zero-shot  linear probe")
    assert "lr 0.001 (classifier x 10), 1 steps" in said[-2]
    again = len(trained)
    assert probe([distilled], str(tmp_path), **arguments) == rows
    assert trained[again:] == trained[:again]  # the same folders, which are finished


def test_by_hand():
    tuned = {"protocol": "fine-tuning", "ratio": 0.01, "lr": 0.1, "head_lr_factor": 1.0, "steps": 5}
    tuned |= {"split_protocol": "uniform", "split_digest": "aa", "network": "a"}
    rows = [
        {**tuned, "seed": 0, "split_seed": 0, "miou_ratio": 0.2},
        {**tuned, "seed": 1, "split_seed": 1, "miou_ratio": 0.4},
        {"network": "b", "protocol": "zero-shot", "ratio": 0.0, "seed": None, "miou_ratio": 0.5},
    ]
    assert table(rows).splitlines() == [
        "network  zero-shot  1% labels",
        "a        -          30.0 ± 14.1",
        "b        50.0       -",
        "point mIoU, %, seeds 0, 1; lr 0.1 (classifier x 1), 5 steps",
        "splits uniform 1% seed 0 aa, uniform 1% seed 1 aa",
    ]


def test_what_is_no_pre_trained_run_is_refused(distilled, tmp_path):
    with pytest.raises(RunError, match=r"no recipe.yaml"):
        probe([str(tmp_path / "nothing")], str(tmp_path))
    with pytest.raises(RunError, match="two runs have the same folder name"):
        probe([distilled, distilled], str(tmp_path))
    with pytest.raises(RunError, match="would be taken for the baseline"):
        probe([str(tmp_path / "random")], str(tmp_path))
