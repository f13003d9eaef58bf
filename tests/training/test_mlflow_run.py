"""A run in MLflow: against a local file store where the package is installed, and what is said where it is not."""

import sys
from pathlib import Path

import pytest

from ray_lidarseg.errors import RecipeError, ResourceError
from ray_lidarseg.recipe.load import override
from ray_lidarseg.recipe.schema import Recipe
from ray_lidarseg.training.completion import complete_paths
from ray_lidarseg.training.mlflow_run import FILE, MLflowRun, require
from ray_lidarseg.training.run_folder import RunFolder
from ray_lidarseg.training.trainer import train_alone
from tests.training.prepared_walls import walls_recipe, write_walls


def test_without_the_package_one_line_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "mlflow", None)
    with pytest.raises(ResourceError, match=r'needs the package mlflow.*pip install "ray-lidarseg\[mlflow\]"'):
        require("mlflow:http://127.0.0.1:9")
    require("")


@pytest.mark.parametrize(
    ("tracking", "said"),
    [
        ("wandb:project", "expected mlflow:URI"),
        ("mlflow:", "expected mlflow:URI"),
        ("mlflow:http://u:p@h", "credentials"),
    ],
)
def test_what_is_no_tracker_is_refused(tracking, said):
    with pytest.raises(RecipeError, match=said):
        override(Recipe(), {"tracking": tracking})


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("mlflow:runs/of ours", "mlflow:{here}/runs/of ours"),
        ("mlflow:file:runs", "mlflow:file:{here}/runs"),
        ("mlflow:sqlite:///runs.db", "mlflow:sqlite:///{here}/runs.db"),
        ("mlflow:~/runs", "mlflow:{home}/runs"),
        *((kept, kept) for kept in ("mlflow:/runs", "mlflow:file:///runs", "mlflow:sqlite:////runs.db")),
        *((kept, kept) for kept in ("mlflow:http://host:5000", "mlflow:databricks", "mlflow:databricks://profile", "")),
    ],
)
def test_a_tracker_is_one_place_from_every_folder(written, meant, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tracking = complete_paths(override(Recipe(), {"tracking": written})).tracking
    assert tracking == meant.format(here=tmp_path, home=Path.home())
    monkeypatch.chdir("/")
    assert complete_paths(override(Recipe(), {"tracking": tracking})).tracking == tracking


def test_the_tracker_decides_no_result():
    assert override(Recipe(), {"tracking": "mlflow:runs"}).fingerprint == Recipe().fingerprint


def _history(client, run_id, key):
    return [(point.step, point.value) for point in client.get_metric_history(run_id, key)]


def test_a_whole_run_and_one_that_is_continued(tmp_path):
    mlflow = pytest.importorskip("mlflow", reason="needs the optional package mlflow")
    uri = f"file:{tmp_path}/mlruns"
    walls = write_walls(str(tmp_path / "prepared"))
    recipe = walls_recipe(walls, name="walls", tracking=f"mlflow:{uri}")
    folder = RunFolder(train_alone(recipe, str(tmp_path / "run")).plan.run)
    client = mlflow.MlflowClient(uri)
    (run,) = client.search_runs([client.get_experiment_by_name("walls").experiment_id])
    assert (run.info.status, run.data.tags["fingerprint"]) == ("FINISHED", recipe.fingerprint)
    assert run.data.params["train.steps"] == "4"
    losses = [(line["step"], line["loss_total"]) for line in folder.metrics() if line["kind"] == "train"]
    assert _history(client, run.info.run_id, "train/loss_total") == losses
    assert [step for step, _ in _history(client, run.info.run_id, "student/point_miou_ratio")] == [4]

    again = MLflowRun(folder, recipe)  # another attempt, from the checkpoint of step 3
    for step in (4, 5):
        again.record({"kind": "train", "step": step, "loss_total": 1.0})
    assert len(client.search_runs([run.info.experiment_id])) == 1
    assert _history(client, run.info.run_id, "train/loss_total") == [*losses, (5, 1.0)]
    assert client.get_run(run.info.run_id).info.status == "RUNNING"
    assert uri in (tmp_path / "run" / FILE).read_text()


def test_a_server_that_goes_down_costs_its_lines_only(tmp_path, capsys):
    pytest.importorskip("mlflow", reason="needs the optional package mlflow")
    recipe = override(Recipe(), {"tracking": f"mlflow:file:{tmp_path}/mlruns", "name": "r"})
    run = MLflowRun(RunFolder(str(tmp_path / "run")), recipe)
    run._tracking = "mlflow:http://127.0.0.1:9"
    for step in (1, 2):
        run.record({"kind": "train", "step": step, "loss_total": 1.0})
    assert capsys.readouterr().out.count("the run goes on, and metrics.jsonl has every line") == 1
