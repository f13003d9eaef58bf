"""A sweep on several nodes whose data and results lie in a bucket: the node that trains a trial is killed."""

import json
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

from ray_lidarseg import storage
from ray_lidarseg.recipe.load import override
from ray_lidarseg.training.trainer import train_alone
from tests.ray.nodes import nodes_of
from tests.ray.train_driver import results
from tests.storage.s3_server import Faults, s3_server, variables

pytestmark = pytest.mark.ray

RATES = (0.02, 0.01, 0.005)
STEPS = 12
_SECRET = "never-to-be-seen"
_LIMIT_S = 400


def _records(out: str) -> list[dict]:
    files = [f"{folder}/trial.json" for folder in storage.list_folders(f"{out}/trials")]
    return [json.loads(storage.read_bytes(file)) for file in files if storage.exists(file)]


def _has_begun(out: str) -> bool:
    """Whether a trial has logged half of its steps."""
    files = [f"{folder}/metrics.jsonl" for folder in storage.list_folders(f"{out}/trials")]
    return any(f'"step": {STEPS // 2},' in storage.read_bytes(file).decode() for file in files if storage.exists(file))


def test_a_sweep_in_a_bucket_survives_a_killed_node_and_no_number_changes(prepared, tiny, tmp_path, monkeypatch):
    pytest.importorskip("moto.server", reason="needs the moto package's S3 server")
    short = override(
        tiny,
        {
            "workers.num_workers": 1,
            "train": {"steps": STEPS, "labelled_per_step": 2, "unlabelled_per_step": 2, "log_every": 1}
            | {"evaluate_every": STEPS, "checkpoint_every": 2},
        },
    )
    (tmp_path / "rates.yaml").write_text(f"question: Which rate?\nspace: {{optim.lr: {list(RATES)}}}\n")
    with s3_server(Faults()) as endpoint:
        for name, value in {**variables(endpoint), "AWS_SECRET_ACCESS_KEY": _SECRET}.items():
            monkeypatch.setenv(name, value)
        urllib.request.urlopen(urllib.request.Request(f"{endpoint}/logs", method="PUT")).close()
        for file in Path(prepared).iterdir():
            storage.write_bytes(f"s3://logs/prepared/{file.name}", file.read_bytes())
        out, recipe = "s3://logs/sweep", override(short, {"data.prepared": "s3://logs/prepared"})
        (tmp_path / "recipe.yaml").write_text(recipe.to_yaml())
        command = [sys.executable, "-m", "ray_lidarseg.cli", "sweep", str(tmp_path / "rates.yaml")]
        command += ["--recipe", str(tmp_path / "recipe.yaml"), "--out", out]
        with nodes_of(2) as nodes, open(tmp_path / "said.txt", "w") as log:
            driver = subprocess.Popen(command, env=nodes.environment, stdout=log, stderr=subprocess.STDOUT)
            deadline = time.monotonic() + _LIMIT_S
            while not _has_begun(out) and driver.poll() is None and time.monotonic() < deadline:
                time.sleep(0.1)
            was_killed = nodes.kill("ImplicitFunc")
            driver.wait(timeout=_LIMIT_S)
        said = (tmp_path / "said.txt").read_text()
        assert was_killed > 0, said
        assert driver.returncode == 0, said
        assert [record["state"] for record in _records(out)] == ["finished"] * len(RATES), said
        assert _SECRET not in said
        assert "died: it goes on from its last checkpoint" in said
        assert "Traceback" not in said
        trained = {}
        for folder in storage.list_folders(f"{out}/trials"):
            rate = json.loads(storage.read_bytes(f"{folder}/trial.json"))["params"]["optim.lr"]
            trained[rate] = results(folder)
        assert sorted(trained) == sorted(RATES)
    for rate, lines in trained.items():
        alone = train_alone(override(short, {"optim.lr": rate}), str(tmp_path / f"alone-{rate}"))
        assert lines == results(alone.plan.run)
