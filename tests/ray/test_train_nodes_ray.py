"""Training on several nodes: one is killed, or announced to be taken away; the head is started again."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ray_lidarseg.recipe.load import override
from ray_lidarseg.recipe.schema import Recipe
from ray_lidarseg.training import checkpoints
from ray_lidarseg.training.run_folder import RunFolder
from tests.ray.nodes import Nodes, nodes_of
from tests.ray.train_driver import DRIVER, results, wait_for_step

pytestmark = pytest.mark.ray

NOTICE_S = 3.0


@pytest.fixture(scope="module")
def nodes() -> Iterator[Nodes]:
    with nodes_of(3) as nodes:
        yield nodes


def _begin(recipe: Recipe, run: Path, nodes: Nodes) -> subprocess.Popen[str]:
    file = run.with_suffix(".yaml")
    file.write_text(recipe.to_yaml())
    command = [sys.executable, "-c", DRIVER, str(file), str(run)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen(command, env=nodes.environment, **pipes)


def test_a_killed_node_costs_steps_and_no_number_changes(nodes, undisturbed, tiny, tmp_path):
    driver = _begin(tiny, tmp_path / "run", nodes)
    wait_for_step(tmp_path / "run", 7)
    assert nodes.kill("RayTrainWorker") == 2  # one worker a node
    said, _ = driver.communicate(timeout=400)
    assert driver.returncode == 0, said
    assert "back to the last checkpoint" in said
    assert results(tmp_path / "run") == results(undisturbed)


def test_an_announced_loss_is_no_failure(nodes, undisturbed, tiny, tmp_path):
    if nodes.left < 3:
        nodes.restart()
    driver = _begin(override(tiny, {"workers.max_failures": 0}), tmp_path / "run", nodes)
    wait_for_step(tmp_path / "run", 7)
    nodes.take_away("RayTrainWorker", NOTICE_S)
    said, _ = driver.communicate(timeout=400)
    assert driver.returncode == 0, said
    assert results(tmp_path / "run") == results(undisturbed)


def test_an_elastic_run_goes_on_with_the_nodes_that_are_left(nodes, undisturbed, tiny, tmp_path):
    """Of two nodes one is left: from there one worker takes each step."""
    while nodes.left > 2:
        assert nodes.kill("ray::"), "a node without a process cannot be found: this would never end"
    recipe = override(tiny, {"workers.num_workers": [1, 2]})
    driver = _begin(recipe, tmp_path / "run", nodes)
    wait_for_step(tmp_path / "run", 7)
    nodes.kill("RayTrainWorker")
    said, _ = driver.communicate(timeout=400)
    assert driver.returncode == 0, said
    assert said.index("training on 2 worker(s)") < said.index("training on 1 worker(s)")
    lines = [line for line in results(tmp_path / "run") if line["kind"] == "train"]
    assert [line["step"] for line in lines] == list(range(1, 21))
    assert checkpoints.steps(str(tmp_path / "run"))[-1] == 20


def test_a_head_that_is_started_again_takes_the_same_command(nodes, undisturbed, tiny, tmp_path):
    run = tmp_path / "run"
    if nodes.left < 2:  # other tests had theirs killed
        nodes.restart()
    driver = _begin(tiny, run, nodes)
    wait_for_step(run, 7)
    nodes.restart()
    said, _ = driver.communicate(timeout=200)
    assert driver.returncode != 0, said  # the raylet it was connected to is gone, and Ray ends it
    assert not RunFolder(str(run)).is_finished()
    said, _ = _begin(tiny, run, nodes).communicate(timeout=400)
    assert results(run) == results(undisturbed), said
