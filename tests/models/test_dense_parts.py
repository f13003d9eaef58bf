"""Compiled dense parts: same scores and gradients, few compilations, a word where there is nothing to compile."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from ray_lidarseg.errors import ResourceError
from ray_lidarseg.models import dense_parts
from ray_lidarseg.models.build import build_segmentor
from ray_lidarseg.models.ema import EMATeacher
from ray_lidarseg.recipe.load import override
from ray_lidarseg.recipe.schema import Recipe
from tests.models.compiled_fidnet import SENSOR, model

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def found() -> dict:
    """What ``compiled_fidnet`` prints."""
    root = Path(__file__).parents[2]
    command = [sys.executable, "-m", "tests.models.compiled_fidnet"]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    run = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr[-4000:]
    return json.loads(run.stdout.splitlines()[-1])


def test_scores_and_gradients_are_those_of_the_model_as_it_is(found):
    assert found["graphs"] == 2  # maps and scores, each whole
    assert found["difference"] < 1e-4


def test_batches_of_other_sizes_are_not_compiled_anew(found):
    """Numbers of occupied pixels never repeat, so one graph a batch would be 60 by the end."""
    counts = found["counts"]
    assert 4 <= counts[1] <= 24
    assert counts[-1] == counts[1], counts


def test_a_network_without_dense_parts_says_so():
    settings = {"model.name": "minkunet", "model.depth": 14, "model.width_factor": 0.25}
    sparse = build_segmentor(override(Recipe(), settings), SENSOR, 4)
    with pytest.warns(UserWarning, match=r"compile_dense has no effect: this model's layers are sparse"):
        dense_parts.compile_dense(sparse, CPU)
    assert not sparse.is_compiled


def test_a_missing_compiler_is_named_before_the_first_step(monkeypatch):
    monkeypatch.setattr("shutil.which", lambda name: None)
    with pytest.raises(ResourceError, match=r"neither g\+\+ nor clang\+\+ .* workers\.compile_dense=false"):
        dense_parts.compile_dense(model(), CPU)


def test_a_state_is_the_same_and_a_copy_is_compiled_too():
    network = model()
    names = list(network.state_dict())
    dense_parts.compile_dense(network, CPU)
    assert list(network.state_dict()) == names
    assert EMATeacher(network, 0.9, "copy").model.is_compiled
