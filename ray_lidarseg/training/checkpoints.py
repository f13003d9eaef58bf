"""Checkpoints: one file of tensors and plain values per folder ``checkpoints/step_XXXXXXXX``.

The newest folder whose file is whole counts, whoever wrote it: a process killed while writing leaves a torn file (its
index, at the end, is missing), and then the one before counts.
"""

import io
import pickle
import re
import zipfile
from typing import Any

import torch

from ray_lidarseg import storage
from ray_lidarseg.errors import RunError

FOLDER = "checkpoints"
FILE = "state.pt"
VERSION = 1
_NAME = re.compile(r"step_(\d{8})$")
_TORN = (RuntimeError, EOFError, zipfile.BadZipFile, pickle.UnpicklingError, KeyError)


def folder_name(step: int) -> str:
    """The folder of the checkpoint after ``step`` steps: the same at every attempt, so a repeated one replaces it."""
    return f"step_{step:08d}"


def pack(state: dict[str, Any]) -> bytes:
    """A checkpoint's file content."""
    buffer = io.BytesIO()
    torch.save({"version": VERSION, **state}, buffer)
    return buffer.getvalue()


def unpack(data: bytes, device: torch.device | str = "cpu") -> dict[str, Any]:
    """The inverse of ``pack``; runs no code that the file may hold.

    Raises:
        RunError: The file is torn, or of another version.
    """
    try:
        state = torch.load(io.BytesIO(data), map_location=device, weights_only=True)
        version = state["version"]
    except _TORN as error:
        raise RunError(f"the checkpoint is not whole ({type(error).__name__}): use an earlier one") from error
    if version != VERSION:
        raise RunError(f"the checkpoint has version {version}, this release reads {VERSION}: use the matching release")
    return state


def write(run: str, step: int, content: bytes) -> None:
    """Stores what ``pack`` gave as the checkpoint after ``step`` steps."""
    storage.write_bytes(storage.join(run, FOLDER, folder_name(step), FILE), content)


def steps(run: str) -> list[int]:
    """Steps of the run's checkpoint folders, ascending; a folder may still be torn."""
    names = (folder.rstrip("/").rsplit("/", 1)[-1] for folder in storage.list_folders(storage.join(run, FOLDER)))
    return sorted(int(match[1]) for name in names if (match := _NAME.match(name)))


def load(run: str, step: int, device: torch.device | str = "cpu") -> dict[str, Any]:
    """The checkpoint after ``step`` steps.

    Raises:
        RunError: There is none, or it is torn.
    """
    file = storage.join(run, FOLDER, folder_name(step), FILE)
    if step not in steps(run) or not storage.exists(file):
        there = ", ".join(map(str, steps(run))) or "none"
        raise RunError(f"{run} has no checkpoint after {step} steps; there are: {there}")
    return unpack(storage.read_bytes(file), device)


def load_latest(run: str, device: torch.device | str = "cpu", at_most: int | None = None) -> dict[str, Any] | None:
    """The newest whole checkpoint, after at most so many steps; None where there is none."""
    for step in reversed(steps(run)):
        if at_most is None or step <= at_most:
            try:
                return load(run, step, device)
            except RunError:
                continue
    return None


def prune(run: str, keep: int) -> None:
    """Deletes all but the newest ``keep`` checkpoints: Ray forgets those written just before a crash."""
    for step in steps(run)[:-keep]:
        storage.remove_folder(storage.join(run, FOLDER, folder_name(step)))
