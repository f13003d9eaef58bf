"""The table of protocols; its trainings run in this process, and what words say is given."""

import json
import shutil
from contextlib import nullcontext

import pytest

from ray_lidarseg import probe as verb
from ray_lidarseg.errors import RecipeError, RunError
from ray_lidarseg.probe import probe, table
from ray_lidarseg.recipe.load import override
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
    source = RunFolder(distilled).checkpoint()
    assert {(row["start_step"], row["start_sha256"]) for row in rows[:5]} == {(source["step"], source["sha256"])}
    assert {(row["start_step"], row["start_sha256"]) for row in rows[5:]} == {(None, "")}
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


def test_another_pre_training_in_the_same_folder_is_probed_anew(distilled, trained, tmp_path):
    run = tmp_path / "distilled"
    shutil.copytree(distilled, run)

    def tuned() -> dict:
        arguments = {"overrides": ["train.steps=1"], "ratios": [0.5], "seeds": [0], "linear": False}
        return probe([str(run)], str(tmp_path / "out"), **arguments)[1]

    before = tuned()
    shutil.rmtree(run)
    train_alone(override(RunFolder(distilled).recipe(), {"seed": 3}), str(run))
    after = tuned()
    assert after["start_sha256"] == RunFolder(str(run)).checkpoint()["sha256"] != before["start_sha256"]
    assert after["run"] != before["run"]
    assert after["run"].endswith(after["start_sha256"][:8])


@pytest.mark.parametrize(
    ("change", "instead"),
    [
        ("split.ratio=0.5", "say --ratios"),
        ("split.seed=1", "say --seeds"),
        ("seed=1", "say --seeds"),
        ("name=other", "by its folder's name"),
    ],
)
def test_what_the_table_sets_itself_is_refused(distilled, tmp_path, change, instead):
    with pytest.raises(
        RecipeError, match=rf"probe sets .* itself, so {change} has no effect: leave it out, .*{instead}"
    ):
        probe([distilled], str(tmp_path), overrides=[change])


def test_a_list_of_frames_has_no_shares(distilled, tmp_path):
    with pytest.raises(RecipeError, match=r"split.protocol=list names its frames.*another split.protocol"):
        probe([distilled], str(tmp_path), overrides=["split.protocol=list", "split.frames=[f0]"])


def test_small_shares_have_columns_of_their_own():
    tuned = {"network": "a", "protocol": "fine-tuning", "seed": 0, "lr": 0.1, "head_lr_factor": 1.0, "steps": 5}
    tuned |= {"split_protocol": "uniform", "split_seed": 0, "split_digest": "aa", "miou_ratio": 0.2}
    lines = table([{**tuned, "ratio": ratio} for ratio in (0.001, 0.005, 0.07)]).splitlines()
    assert lines[0] == "network  0.1% labels  0.5% labels  7% labels"
    assert "uniform 0.1% seed 0" in lines[-1]


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
