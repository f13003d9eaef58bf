"""Tiny CLIPs with random weights, written as open_clip's folders."""

import copy
import json
from pathlib import Path
from typing import Any

import open_clip
import torch
from safetensors.torch import save_file

VIT: dict[str, Any] = {
    "model_cfg": {
        "embed_dim": 24,
        "vision_cfg": {"image_size": [32, 48], "layers": 3, "width": 32, "head_width": 16, "patch_size": 8},
        "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
    },
    "preprocess_cfg": {"size": [32, 48], "mean": [0.5, 0.4, 0.3], "std": [0.2, 0.3, 0.4]},
}


def with_vision(**changes: Any) -> dict[str, Any]:
    config = copy.deepcopy(VIT)
    config["model_cfg"]["vision_cfg"].update(changes)
    return config


RESNET = with_vision(image_size=64, layers=[1, 1, 1, 1], width=8, head_width=64, patch_size=None)


def random_clip(config: dict[str, Any], seed: int = 0) -> open_clip.CLIP:
    """Weights far enough from zero that every branch of a block matters."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = open_clip.CLIP(**config["model_cfg"]).eval()
        for parameter in model.parameters():
            if parameter.ndim == 1:  # biases and gains start as constants
                parameter.data.add_(0.1 * torch.randn_like(parameter))
    return model


def write_clip(folder: Path, config: dict[str, Any] = VIT, seed: int = 0) -> open_clip.CLIP:
    folder.mkdir(parents=True, exist_ok=True)
    model = random_clip(config, seed)
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    weights = {key: value.contiguous().clone() for key, value in model.state_dict().items()}
    save_file(weights, folder / "open_clip_model.safetensors")
    return model
