"""An elastic training takes a node that joins the cluster."""

import re
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from ray_lidarseg.recipe.load import override
from tests.ray.nodes import Nodes, nodes_of
from tests.ray.train_driver import DRIVER, results, wait_for_step

pytestmark = pytest.mark.ray

_LIMIT_S = 400.0
_OFTEN = """
from unittest import mock
mock.patch("ray_lidarseg.train._RESIZE_EVERY_S", 2.0).start()
"""
"""An elastic run asks every minute whether there is room for more workers."""


@pytest.fixture
def nodes():
    with nodes_of(3) as nodes:
        yield nodes


def test_an_elastic_run_takes_a_node_that_joins(nodes: Nodes, tiny, tmp_path):
    """The group begins again with two at the last checkpoint: each step is there once, taken by one or by two."""
    while nodes.left > 1:
        nodes.kill("ray::")
    run, endless = tmp_path / "run", {"train.steps": 10_000, "train.evaluate_every": 10_000}
    file = run.with_suffix(".yaml")
    file.write_text(override(tiny, {"workers.num_workers": [1, 2], **endless}).to_yaml())
    command = [sys.executable, "-c", _OFTEN + DRIVER, str(file), str(run)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    driver = subprocess.Popen(command, env=nodes.environment, **pipes)
    limit = threading.Timer(_LIMIT_S, driver.kill)  # a line that never comes must not hold the suite
    limit.start()
    try:
        wait_for_step(run, 7)
        nodes.add()
        assert driver.stdout is not None
        counts = []
        while 2 not in counts and (line := driver.stdout.readline()):
            counts += [int(count) for count in re.findall(r"training on (\d+) worker", line)]
        wait_for_step(run, max(_steps(run)) + 2)
    finally:
        limit.cancel()
        driver.kill()
        driver.communicate()
    assert counts == [1, 2]
    steps = _steps(run)
    assert steps == list(range(1, len(steps) + 1))


def _steps(run: Path) -> list[int]:
    return [line["step"] for line in results(run) if line["kind"] == "train"]
