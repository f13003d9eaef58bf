"""Checkpoints: one file of tensors and plain values per folder ``checkpoints/step_XXXXXXXX``.

The newest folder whose file is whole counts, whoever wrote it: a process killed while writing leaves a torn file (its
index, at the end, is missing), a bad disk one with flipped bits (its digest, at the very end, differs); then the one
before counts.
"""

import hashlib
import io
import re
from typing import Any

import torch

from ray_lidarseg import storage
from ray_lidarseg.errors import RunError

FOLDER = "checkpoints"
FILE = "state.pt"
VERSION = 1
_NAME = re.compile(r"step_(\d{8})$")
_DIGEST = re.compile(rb"\nsha256:([0-9a-f]{64})\n$")  # behind the archive, where torch.load does not mind it
_DIGEST_BYTES = len("\nsha256:\n") + 64
_ZIP_END, _ZIP_END_BYTES = b"PK\x05\x06", 22  # where a file of an earlier release ends


def folder_name(step: int) -> str:
    """The folder of the checkpoint after ``step`` steps: the same at every attempt, so a repeated one replaces it."""
    return f"step_{step:08d}"


def pack(state: dict[str, Any]) -> bytes:
    """A checkpoint's file content: what ``torch.save`` writes, and the digest of it."""
    buffer = io.BytesIO()
    torch.save({"version": VERSION, **state}, buffer)
    return buffer.getvalue() + b"\nsha256:%s\n" % hashlib.sha256(buffer.getbuffer()).hexdigest().encode()


def unpack(data: bytes, device: torch.device | str = "cpu") -> dict[str, Any]:
    """The inverse of ``pack``; runs no code that the file may hold. Files of earlier releases have no digest.

    Returns:
        The state, with the digest of the file's content under ``sha256``.

    Raises:
        RunError: The file is torn, has changed since it was written, or is of another version.
    """
    content, sha256 = _checked(data)
    try:
        state = torch.load(io.BytesIO(content), map_location=device, weights_only=True)
        version = state["version"]
    except Exception as error:  # unpickling a torn file, or one that holds no mapping, ends in anything
        raise RunError(f"the checkpoint is not whole ({type(error).__name__}): use an earlier one") from error
    if version != VERSION:
        raise RunError(f"the checkpoint has version {version}, this release reads {VERSION}: use the matching release")
    return {**state, "sha256": sha256}


def _checked(data: bytes) -> tuple[memoryview, str]:
    """The archive in a file's content, and its digest."""
    expected = _DIGEST.search(data[-_DIGEST_BYTES:])
    if not expected and not data[-_ZIP_END_BYTES:].startswith(_ZIP_END):
        raise RunError("the checkpoint is not whole (its end is missing): use an earlier one")
    content = memoryview(data)[: len(data) - _DIGEST_BYTES] if expected else memoryview(data)
    sha256 = hashlib.sha256(content).hexdigest()
    if expected and expected[1].decode() != sha256:
        raise RunError("the checkpoint is not whole (its digest differs: bits have flipped): use an earlier one")
    return content, sha256


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
    """The newest whole checkpoint, after at most so many steps; None where there is none. Says which are damaged."""
    for step in reversed(steps(run)):
        if at_most is None or step <= at_most:
            try:
                return load(run, step, device)
            except RunError as error:
                print(f"{run}, step {step}: {error}; the one before is taken", flush=True)
    return None


def prune(run: str, keep: int, best_step: int = 0, writing: int | None = None) -> None:
    """Deletes all but the newest ``keep`` checkpoints and the best one; one that is being written does not count."""
    for step in [step for step in steps(run) if step != writing][:-keep]:
        if step != best_step:
            storage.remove_folder(storage.join(run, FOLDER, folder_name(step)))
