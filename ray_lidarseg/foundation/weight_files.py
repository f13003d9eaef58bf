"""Files of named tensors with a digest of them in their metadata, compared when they are read."""

import hashlib
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from ray_lidarseg.errors import DataError

_KEY = "tensors_sha256"


def save_weights(tensors: Mapping[str, torch.Tensor], path: Path) -> None:
    """Writes a ``.safetensors`` file that any reader of these files reads, too."""
    save_file(dict(tensors), path, metadata={"format": "pt", _KEY: _digest(tensors)})


def load_weights(path: Path) -> dict[str, torch.Tensor]:
    """Reads a ``.safetensors`` file; one without a digest, of others or of an earlier release, as it is.

    Raises:
        DataError: The tensors are not those that were written.
        SafetensorError: The file is truncated, or no such file.
    """
    with safe_open(path, framework="pt") as file:
        expected = (file.metadata() or {}).get(_KEY, "")
    tensors = load_file(path)
    if expected and expected != _digest(tensors):
        raise DataError(f"{path} has changed since it was written (bits have flipped): copy or download it again")
    return tensors


def check_weights(path: Path) -> None:
    """What ``load_weights`` checks, for a file that another library loads; files of other kinds pass.

    Raises:
        DataError: See ``load_weights``.
    """
    if path.suffix == ".safetensors":
        load_weights(path)


def _digest(tensors: Mapping[str, torch.Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(tensors):
        value = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name} {value.dtype} {list(value.shape)}\n".encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
