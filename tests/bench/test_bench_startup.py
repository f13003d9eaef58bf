import sys
import time
from pathlib import Path

import pytest

from tests.bench.startup import spent

BUSY = """
import subprocess, sys, time
if len(sys.argv) > 1:
    child = subprocess.Popen([sys.executable, "-c", open(sys.argv[1]).read()])
began = time.process_time()
while time.process_time() - began < 0.6:
    pass
if len(sys.argv) > 1:
    child.wait()
time.sleep(0.5)
"""


def test_children_count_and_waiting_does_not(tmp_path: Path) -> None:
    program = tmp_path / "busy.py"
    program.write_text(BUSY)
    began = time.monotonic()
    row = spent([sys.executable, str(program), str(program)], tmp_path)
    assert 1.0 <= row["cpu_s"] <= 2.0  # twice 0.6 s and what Python itself takes
    assert 1.0 < row["wall_s"] <= time.monotonic() - began
    assert row["processes"] == 2


def test_a_command_that_fails_is_no_measurement(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match=r"status 3:\nwhy"):
        spent([sys.executable, "-c", "print('why'); raise SystemExit(3)"], tmp_path)
