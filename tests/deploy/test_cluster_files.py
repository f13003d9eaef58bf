"""Launcher files as `ray up` reads them, the environment of jobs, and the entry point that all jobs share."""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config
from ray.runtime_env import RuntimeEnv

from ray_lidarseg.cli import build_parser
from ray_lidarseg.runtime import cluster

FOLDER = Path(__file__).parents[2] / "cluster"
ECHO = "import json, sys; print(json.dumps(sys.argv[2:]))"


def launcher(name: str) -> dict[str, Any]:
    config = prepare_config(yaml.safe_load((FOLDER / f"{name}.yaml").read_text()))  # with defaults, as `ray up` does
    validate_config(config)
    return config


@pytest.mark.parametrize("name", ["hosts", "aws", "gcp"])
def test_launcher_files_fit_rays_schema_and_lock_the_door(name: str) -> None:
    config = launcher(name)
    (head,) = [command for command in config["head_start_ray_commands"] if "ray start --head" in command]
    (worker,) = [command for command in config["worker_start_ray_commands"] if "ray start --address" in command]
    assert "--dashboard-host=127.0.0.1" in head
    assert "--autoscaling-config=~/ray_bootstrap_config.yaml" in head
    for command in (head, worker):
        assert "RAY_AUTH_MODE=token" in command
    assert "~/.ray/auth_token" in config["file_mounts"]


def test_a_wrong_launcher_file_would_be_found() -> None:
    with pytest.raises(jsonschema.ValidationError, match="max_worker"):
        validate_config({**launcher("aws"), "max_worker": 3})


@pytest.mark.parametrize("name", ["aws", "gcp"])
def test_the_head_is_on_demand_and_workers_are_spot(name: str) -> None:
    config = launcher(name)
    types = config["available_node_types"]
    spot = {"aws": '"MarketType": "spot"', "gcp": '"preemptible": true'}[name]
    assert config["head_node_type"] == "head"
    assert types["head"]["resources"] == {"CPU": 0}
    assert {kind: spot in json.dumps(node["node_config"]) for kind, node in types.items()} == {
        "head": False,
        "cpu": True,
        "gpu": True,
    }
    assert types["gpu"]["min_workers"] == 0 < types["gpu"]["max_workers"]


def test_the_environment_of_jobs_is_the_one_workers_get_and_holds_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in cluster._FORWARDED:
        monkeypatch.delenv(name, raising=False)
    config = yaml.safe_load((FOLDER / "runtime_env.yaml").read_text())
    assert config["env_vars"] == cluster.worker_runtime_env()["env_vars"]
    RuntimeEnv(**{**config, "working_dir": "gcs://package.zip"})  # a folder becomes such a URI when it is uploaded


def arguments(verb: str, *more: str, **variables: str) -> list[str]:
    """What the entry point calls the command line with."""
    python = f"#!/bin/sh\nexec {sys.executable} -c '{ECHO}' \"$@\"\n"
    folder = Path(variables.pop("folder"))
    (folder / "python").write_text(python)
    (folder / "python").chmod(0o755)
    environment = {"PATH": f"{folder}{os.pathsep}{os.environ['PATH']}", **variables}
    command = ["bash", str(FOLDER / "job.sh"), verb, *more]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)[1:]  # -m ray_lidarseg.cli


VERBS = next(item for item in build_parser()._actions if isinstance(item, argparse._SubParsersAction)).choices


@pytest.mark.parametrize("verb", sorted(VERBS.keys() - {"recipe", "submit"}))
def test_the_entry_point_speaks_the_command_line_of_every_verb(verb: str, tmp_path: Path) -> None:
    given = arguments(verb, folder=str(tmp_path), STORE="s3://b/p", MASKS="sam", FEATURES="clip")
    parsed = build_parser().parse_args(given)
    assert parsed.verb == verb
    assert "s3://b/p" in " ".join(given)


def test_one_job_writes_where_the_next_one_reads(tmp_path: Path) -> None:
    def of(verb: str, *more: str) -> list[str]:
        return arguments(verb, *more, folder=str(tmp_path), STORE="s3://b", RUN="x", WORKERS="4")

    assert of("index")[-1] == of("prepare")[1] == of("validate")[1] == "s3://b/index.parquet"
    assert of("train", "--labels", "10%")[1:] == [
        "demo",
        "--set",
        "data.prepared=s3://b/prepared",
        "--set",
        "workers.num_workers=4",
        "--run",
        "s3://b/runs/x",
        "--labels",
        "10%",
    ]
    assert of("prepare") == ["prepare", "s3://b/index.parquet", "--out", "s3://b/prepared"]
    assert of("evaluate")[1] == of("predict")[1] == of("report")[1] == "s3://b/runs/x"


def test_without_a_store_the_entry_point_says_what_is_missing() -> None:
    command = ["bash", str(FOLDER / "job.sh"), "train"]
    done = subprocess.run(command, env={"PATH": os.environ["PATH"]}, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "STORE: where everything lies" in done.stderr
