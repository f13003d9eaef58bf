"""Turns of process trees, with processes that count."""

import os
import signal
import subprocess
import sys
import time

import pytest

from tests.bench.process_tree import workers_of
from tests.bench.turns import Tree, taking_turns

COUNTER = """
import subprocess, sys, time
if len(sys.argv) > 2:  # the work is a grandchild's
    sys.exit(subprocess.call([sys.executable, "-c", sys.argv[2], sys.argv[1]]))
file, until = open(sys.argv[1], "a", buffering=1), time.monotonic() + 90
while time.monotonic() < until:
    print(time.time(), file=file)
    time.sleep(0.01)
"""


def test_one_tree_at_a_time_works_and_both_are_let_go(tmp_path):
    files = [tmp_path / "one", tmp_path / "other"]
    commands = [[sys.executable, "-c", COUNTER, str(file), COUNTER] for file in files]
    children = [subprocess.Popen(command) for command in commands]
    trees = [Tree(child.pid, file.exists) for child, file in zip(children, files, strict=True)]
    try:
        with taking_turns(trees, turn_s=0.2):
            until = time.monotonic() + 60
            while time.monotonic() < until and min(len(tree.paused_s) for tree in trees) < 3:
                time.sleep(0.1)
        assert [tree.working_s(0.0, 1.0) for tree in trees] == [1.0, 1.0]
        held = [tree.paused_s for tree in trees]
        assert all(len(part) >= 3 for part in held)
        for file, pauses in zip(files, held, strict=True):
            counted = [float(line) for line in file.read_text().splitlines()]
            # a moment passes between the note and the signal, and the last line may be half done
            wrong = [t for t in counted for since, until in pauses if since + 0.15 < t < until - 0.05]
            assert wrong == []
        before = [len(file.read_text().splitlines()) for file in files]
        time.sleep(1.0)
        assert all(len(file.read_text().splitlines()) > count for file, count in zip(files, before, strict=True))
    finally:
        for child in children:
            for process in workers_of(child.pid):
                os.kill(process, signal.SIGKILL)
            child.wait()


def test_time_held_is_no_time_of_work():
    tree = Tree(0, lambda: True, [(1.0, 2.0), (4.0, 6.0)])
    assert tree.working_s(0.0, 10.0) == pytest.approx(7.0)
    assert tree.working_s(1.5, 5.0) == pytest.approx(2.0)
