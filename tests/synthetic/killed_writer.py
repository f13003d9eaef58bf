"""A writer of one scene that is killed in the middle of a file, and what lies there then."""

import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

_WRITER = """
import os, signal, sys
from importlib import import_module
from pathlib import Path
from ray_lidarseg.synthetic.options import with_options
from ray_lidarseg.synthetic.presets import PRESETS
from ray_lidarseg.synthetic.scene import Scene

root, layout, preset, left = sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])
rename = os.replace

def rename_or_die(*names):
    global left
    left -= 1
    if left < 0:
        os.kill(os.getpid(), signal.SIGKILL)
    rename(*names)

os.replace = rename_or_die
options = dict(text.split("=") for text in sys.argv[5:])
scene = Scene(with_options(PRESETS[preset], options), 0, 0)
import_module(f"ray_lidarseg.synthetic.{layout}_writer").write_scene(Path(root), scene)
"""


def write_and_die(root: Path, layout: str, preset: str, options: Mapping[str, object], num_files: int) -> None:
    """Writes scene 0 of a preset in a child process, killed in its file after ``num_files``."""
    settings = [f"{name}={value}" for name, value in options.items()]
    command = [sys.executable, "-c", _WRITER, str(root), layout, preset, str(num_files), *settings]
    bare = {**os.environ, "PYTHONPATH": ""}  # no shape checks: they cost a start of seconds
    assert subprocess.run(command, check=False, env=bare).returncode == -signal.SIGKILL


def files(root: Path) -> dict[Path, bytes]:
    """All files below a folder, by their place in it."""
    return {file.relative_to(root): file.read_bytes() for file in root.rglob("*") if file.is_file()}


def is_part(file: Path) -> bool:
    """Whether this is a half-written file, under its temporary name."""
    return file.name.startswith(".unfinished-")
