"""From a training's best weights to the files in the package: float16, safetensors, and open_clip's own config."""

import json
from pathlib import Path

import torch

from ray_lidarseg.errors import DataError
from ray_lidarseg.foundation.clip_architecture import MINIATURE
from ray_lidarseg.foundation.clip_checkpoint import CONFIG_FILE
from ray_lidarseg.foundation.weight_files import load_weights, save_weights

SAM_FILE, CLIP_FOLDER = "sam_miniature.safetensors", "clip_miniature"
_CLIP_FILE = "open_clip_model.safetensors"


def ship_sam(best: Path, weights: Path) -> Path:
    """Writes the miniature SAM into the folder of weights; its path.

    Raises:
        DataError: There are no trained weights.
    """
    weights.mkdir(parents=True, exist_ok=True)
    return _halved(best, weights / SAM_FILE, "sam")


def ship_clip(best: Path, weights: Path) -> Path:
    """Writes the miniature CLIP, config and weights, into the folder of weights; its folder.

    Raises:
        DataError: There are no trained weights.
    """
    folder = weights / CLIP_FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    _halved(best, folder / _CLIP_FILE, "clip")
    (folder / CONFIG_FILE).write_text(json.dumps(MINIATURE, indent=1) + "\n")
    return folder


def _halved(best: Path, target: Path, stage: str) -> Path:
    if not best.is_file():
        raise DataError(f"no trained weights at {best}: run `python -m ray_lidarseg.miniature {stage}` first")
    tensors = {name: value.to(torch.float16) for name, value in load_weights(best).items()}
    save_weights(tensors, target)
    target.chmod(0o644)  # safetensors writes for the owner alone; these are package data
    return target
