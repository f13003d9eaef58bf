"""The miniature CLIP: open_clip's own vision transformer and text transformer, small enough for one CPU core."""

from typing import Any, Final

import torch

MINIATURE_SIZE_PX: Final = (112, 200)
"""Height and width the miniature's image tower sees: nearly 16:9, 14 x 25 patches of 8 pixels."""

MINIATURE: Final[dict[str, Any]] = {
    "model_cfg": {
        "embed_dim": 64,
        "vision_cfg": {
            "image_size": list(MINIATURE_SIZE_PX),
            "patch_size": 8,
            "width": 128,
            "layers": 4,
            "head_width": 32,
        },
        "text_cfg": {
            "context_length": 77,
            "vocab_size": 49408,  # of the stock tokenizer; its table is most of the model
            "width": 32,
            "heads": 2,
            "layers": 2,
        },
    },
    "preprocess_cfg": {
        "size": list(MINIATURE_SIZE_PX),
        "mode": "RGB",
        "mean": [0.48145466, 0.4578275, 0.40821073],
        "std": [0.26862954, 0.26130258, 0.27577711],
        "interpolation": "bicubic",
        "resize_mode": "squash",
    },
}
"""Content of the miniature's ``open_clip_config.json``. Mean and std: CLIP's own; all sizes: ours."""


def build_clip_miniature(seed: int = 0) -> torch.nn.Module:
    """The miniature ``open_clip.CLIP`` with random weights, the same for the same seed; 2.5 million parameters.

    Saved as ``open_clip_config.json`` (``MINIATURE``) and ``open_clip_model.safetensors`` in one folder, it loads with
    open_clip's ``local-dir:``.
    """
    import open_clip

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return open_clip.CLIP(**MINIATURE["model_cfg"])
