"""Runs that distil, without Ray: they learn without a label, resume, and start others."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from ray_lidarseg.errors import RecipeError, RunError
from ray_lidarseg.export import export
from ray_lidarseg.foundation.weight_files import load_weights
from ray_lidarseg.recipe.load import override
from ray_lidarseg.training.run_folder import RunFolder, load_method
from ray_lidarseg.training.trainer import train_alone
from tests.training.prepared_features import LOWER, UPPER, write_seen_walls
from tests.training.prepared_walls import walls_recipe


@pytest.fixture(scope="module")
def walls(tmp_path_factory) -> str:
    return write_seen_walls(str(tmp_path_factory.mktemp("prepared")))


def distilling(walls: str, **changes):
    return walls_recipe(walls, **{"method__name": "distill", "data__evidence": "auto", **changes})


@pytest.fixture(scope="module")
def distilled(walls, tmp_path_factory) -> str:
    # Batch statistics follow the weights: after half the steps it hangs on seed and order of sums what was learned.
    recipe = distilling(walls, train__steps=120, train__evaluate_every=120, train__checkpoint_every=60, optim__lr=0.01)
    return train_alone(recipe, str(tmp_path_factory.mktemp("runs") / "distilled")).plan.run


def test_it_learns_the_classes_from_images_and_words_alone(distilled):
    folder = RunFolder(distilled)
    lines = folder.metrics()
    trained = [line for line in lines if line["kind"] == "train"]
    assert trained[-1]["paired_cosine"] > trained[0]["paired_cosine"] + 0.3
    assert trained[-1]["pairs_count"] == 4  # two walls in each of two scans
    split = folder.manifest()["split"]
    assert (split["protocol"], split["num_labelled"], split["num_unlabelled"]) == ("none", 0, 4)
    scores = next(line for line in lines if line["kind"] == "evaluate")
    assert scores["point_iou_ratio"][LOWER] > 0.5
    assert scores["point_iou_ratio"][UPPER] > 0.5


def test_a_run_that_was_cut_off_ends_the_same(distilled, tmp_path):
    recipe = RunFolder(distilled).recipe()
    whole = load_method(distilled)[0].state_dict()
    shutil.copytree(distilled, tmp_path / "run")
    shutil.rmtree(Path(tmp_path, "run", "checkpoints", "step_00000120"))
    manifest = Path(tmp_path, "run", "manifest.json")
    manifest.write_text(manifest.read_text().replace('"is_finished": true', '"is_finished": false'))
    train_alone(recipe, str(tmp_path / "run"))
    again = load_method(str(tmp_path / "run"))[0].state_dict()
    assert all(torch.equal(value, again[name]) for name, value in whole.items() if isinstance(value, torch.Tensor))


@pytest.mark.parametrize("method", ["supervised", "lasermix", "lasermix_pp"])
def test_its_network_starts_any_method_with_a_fresh_classifier(walls, distilled, method, tmp_path):
    evidence = {"data__evidence": "auto"} if method == "lasermix_pp" else {}
    recipe = override(
        walls_recipe(walls, method__name=method, seed=7, train__steps=1, **evidence), {"start": {"run": distilled}}
    )
    loop = train_alone(override(recipe, {"optim.lr": 1e-12}), str(tmp_path / "run")).loop
    before, after = load_method(distilled)[0].student, loop.method.student
    for (name, old), new in zip(before.named_parameters(), after.parameters(), strict=True):
        is_close = torch.allclose(old, new, atol=1e-6)
        assert is_close != before.is_of_head(name) or name.endswith("bias"), name
    assert all(parameter.requires_grad for parameter in after.parameters())


def test_a_checkpoint_of_another_width_is_one_clear_error(walls, distilled, tmp_path):
    recipe = override(walls_recipe(walls, model__width_factor=0.25), {"start": {"run": distilled}})
    with pytest.raises(RunError, match=r"does not fit: \d+ of \d+ weights of the backbone differ"):
        train_alone(recipe, str(tmp_path / "run"))
    with pytest.raises(RunError, match=r"no recipe.yaml in .*nowhere"):
        train_alone(override(walls_recipe(walls), {"start": {"run": str(tmp_path / "nowhere")}}), str(tmp_path / "run"))


def test_without_words_it_trains_and_is_not_scored(tmp_path):
    walls = write_seen_walls(str(tmp_path / "prepared"), words=None)
    run = train_alone(distilling(walls), str(tmp_path / "run")).plan.run
    assert {line["kind"] for line in RunFolder(run).metrics()} == {"train"}
    with pytest.raises(RunError, match="distilled from features without text"):
        load_method(run)[0].classifier  # noqa: B018


def test_without_features_it_says_how_to_get_them(walls, tmp_path):
    with pytest.raises(RecipeError, match=r"method distill learns from image features.*--masks and --features"):
        train_alone(distilling(walls, data__evidence=""), str(tmp_path / "run"))


def test_an_export_starts_runs_and_its_card_says_what_it_is_of(walls, distilled, tmp_path):
    card = export(distilled, str(tmp_path / "out"), teacher_licence="CC-BY")
    for said in (
        "method distill",
        "relational",
        "| licence of the teacher | CC-BY |",
        "4 scans without and 0 with",
        "16 numbers",
    ):
        assert said in card
    assert "nothing yet: run `ray-lidarseg evaluate`" in card
    assert (tmp_path / "out" / "README.md").read_text() == card
    weights = load_weights(tmp_path / "out" / "model.safetensors")
    assert weights["projection.weight"].shape[0] == 16
    assert not any(name.startswith("classifier") for name in weights)
    recipe = override(
        walls_recipe(walls, train__steps=1), {"start": {"file": str(tmp_path / "out" / "model.safetensors")}}
    )
    assert train_alone(recipe, str(tmp_path / "run")).loop.step == 1
    assert "not stated" in export(distilled, str(tmp_path / "other"))


def test_the_card_of_a_fine_tuned_network_names_where_it_comes_from(walls, distilled, tmp_path):
    recipe = override(walls_recipe(walls, train__steps=1), {"start": {"run": distilled}})
    middle = train_alone(recipe, str(tmp_path / "middle")).plan.run
    run = train_alone(override(recipe, {"start": {"run": middle}}), str(tmp_path / "run")).plan.run
    source = RunFolder(middle).checkpoint()
    card = export(run, str(tmp_path / "out"), teacher_licence="CC-BY")
    for said in (
        f"| started from | {middle}, step 1, sha256 {source['sha256']} |",
        "16 numbers a segment",
        "| licence of the teacher | CC-BY |",
    ):
        assert said in card
    shutil.rmtree(middle)
    card = export(run, str(tmp_path / "out"), teacher_licence="CC-BY")
    assert "| started from |" in card
    assert "| teacher |" not in card
    assert "| licence of the teacher | CC-BY |" in card


def test_the_card_gives_no_figures_of_other_weights(walls, tmp_path):
    run = train_alone(walls_recipe(walls, train__steps=2), str(tmp_path / "run")).plan.run
    scores = {"student": {"point": {"miou_ratio": 0.25}}}
    found = {"step": 2, "frames": 2, "split": "val", "deployed": "student", "models": scores}
    RunFolder(run).write("evaluation/val.json", json.dumps(found).encode())
    assert "| point mIoU | 25.0% on 2 frames of val |" in export(run, str(tmp_path / "out"))
    card = export(run, str(tmp_path / "out"), which=1)
    assert "| measured | at step 2, not of these weights: run `ray-lidarseg evaluate` and export again |" in card
    assert "25.0%" not in card
