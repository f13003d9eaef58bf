import json

import pytest

from ray_lidarseg.errors import RunError
from ray_lidarseg.recipe.load import override
from ray_lidarseg.recipe.schema import FREE_KEYS, Recipe
from ray_lidarseg.training import checkpoints
from ray_lidarseg.training.completion import complete_paths
from ray_lidarseg.training.run_folder import RunFolder, differing_keys


@pytest.fixture
def folder(tmp_path):
    run = RunFolder(str(tmp_path / "run"))
    run.write("recipe.yaml", Recipe().to_yaml().encode())
    return run


def test_no_run_there_says_what_was_expected(tmp_path):
    run = RunFolder(str(tmp_path))
    assert not run.belongs_to(Recipe())
    assert not run.is_finished()
    for read in (run.recipe, run.manifest, run.metrics):
        with pytest.raises(RunError, match="expected a folder that `ray-lidarseg train` wrote"):
            read()
    with pytest.raises(RunError, match="no checkpoint yet"):
        run.checkpoint()


def test_the_recipe_comes_back_as_it_was(folder):
    assert folder.recipe() == Recipe()
    assert folder.belongs_to(Recipe())


def test_another_recipe_is_refused_with_the_keys_that_differ(folder):
    other = override(Recipe(), {"method.confidence": 0.5, "seed": 7, "workers.num_workers": 4})
    with pytest.raises(
        RunError, match=r"seed \(0 there, 7 here\), method.confidence \(0.95 there, 0.5 here\)"
    ) as caught:
        folder.belongs_to(other)
    assert "workers" not in str(caught.value)


def test_another_method_is_refused_without_listing_everything(folder):
    with pytest.raises(RunError, match=r"method.name \('lasermix' there, 'supervised' here\)"):
        folder.belongs_to(override(Recipe(), {"method.name": "supervised"}))


def test_workers_and_rhythm_may_change_when_a_run_is_continued(folder):
    changes = {"workers.num_workers": 4, "train.checkpoint_every": 5, "train.log_every": 7, "name": "other"}
    assert folder.belongs_to(override(Recipe(), changes))


def test_the_keys_left_out_are_those_the_fingerprint_leaves_out():
    recipe = Recipe()
    values = {key: value for key, value in recipe.train.model_dump().items() if isinstance(value, int)}
    for key in set(values) - {"labelled_per_step", "unlabelled_per_step"}:  # these two only change together
        changed = override(recipe, {f"train.{key}": not values[key] if values[key] is False else values[key] + 16})
        is_free = changed.fingerprint == recipe.fingerprint
        assert is_free == (f"train.{key}" in FREE_KEYS), key
        assert differing_keys(recipe, changed) == ([] if is_free else [f"train.{key}"])
    assert override(recipe, {"name": "x", "workers.max_failures": 9}).fingerprint == recipe.fingerprint


def test_a_torn_last_line_is_left_out(folder):
    folder.write("metrics.jsonl", b'{"step": 1}\n{"step": 2}\n{"st')
    assert folder.metrics() == [{"step": 1}, {"step": 2}]


def test_finished_is_what_the_manifest_says(folder):
    folder.write("manifest.json", json.dumps({"is_finished": False}).encode())
    assert not folder.is_finished()
    folder.write("manifest.json", json.dumps({"is_finished": True}).encode())
    assert folder.is_finished()


def test_checkpoints_by_number_or_latest(folder):
    for step in (5, 10):
        name = f"{checkpoints.FOLDER}/{checkpoints.folder_name(step)}/{checkpoints.FILE}"
        folder.write(name, checkpoints.pack({"step": step}))
    assert folder.checkpoint()["step"] == 10
    assert folder.checkpoint("5")["step"] == folder.checkpoint(5)["step"] == 5
    with pytest.raises(RunError, match="expected 'latest', 'best' or a number of steps"):
        folder.checkpoint("newest")
    with pytest.raises(RunError, match="no validation frame was evaluated in"):
        folder.checkpoint("best")
    ratios = {5: 0.4, 10: 0.3}
    lines = [{"kind": "evaluate", "step": n, "model": "teacher", "point_miou_ratio": r} for n, r in ratios.items()]
    folder.write("metrics.jsonl", "".join(json.dumps(line) + "\n" for line in lines).encode())
    assert folder.checkpoint("best")["step"] == 5
    with pytest.raises(RunError, match="there are: 5, 10"):
        folder.checkpoint(7)


def test_the_shards_of_a_run_are_named_by_a_place_that_means_the_same_everywhere(tmp_path, monkeypatch):
    run = RunFolder(str(tmp_path / "run"))
    (tmp_path / "p").mkdir()
    monkeypatch.chdir(tmp_path)
    assert run.prepared(complete_paths(override(Recipe(), {"data.prepared": "p/"}))) == str(tmp_path / "p")
    with pytest.raises(RunError, match=r"kept data.prepared=p as it was typed: give the folder with --prepared"):
        run.prepared(override(Recipe(), {"data.prepared": "p"}))
    with pytest.raises(RunError, match=r"beside the shards of /moved/p, which are not there .*--prepared"):
        run.prepared(override(Recipe(), {"data.prepared": "/moved/p"}))
    with pytest.raises(RunError, match=r"names no shards \(data.prepared\)"):
        run.prepared(Recipe())


def test_one_folder_written_three_ways_is_one_recipe(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    written = ("p", "./p", "p/", f"{tmp_path}/p", f"file://{tmp_path}/p")
    recipes = [complete_paths(override(Recipe(), {"data.prepared": place})) for place in written]
    assert len({recipe.fingerprint for recipe in recipes}) == 1
    assert {recipe.data.prepared for recipe in recipes} == {f"{tmp_path}/p"}
    lists = [
        complete_paths(override(Recipe(), {"split": {"protocol": "list", "file": place}}))
        for place in ("a.txt", "./a.txt")
    ]
    assert {recipe.split.file for recipe in lists} == {f"{tmp_path}/a.txt"}


def test_a_folder_of_shards_is_no_run_folder(tmp_path):
    (tmp_path / "catalog.parquet").write_bytes(b"")
    with pytest.raises(RunError, match="holds prepared shards: give the run a folder of its own with --run"):
        RunFolder(str(tmp_path)).belongs_to(Recipe())
