"""SigLIP 2 through open_clip, on a random miniature of its architecture: a timm tower with attention pooling."""

import json
from pathlib import Path

import numpy as np
import open_clip
import pytest
import timm
import torch
from safetensors.torch import save_file
from timm.models import register_model
from timm.models.vision_transformer import VisionTransformer

from ray_lidarseg.errors import DataError
from ray_lidarseg.foundation.build import build_features
from ray_lidarseg.foundation.clip import ClipImages
from ray_lidarseg.foundation.clip_checkpoint import load_clip
from ray_lidarseg.foundation.settings import ClipFeatures
from ray_lidarseg.foundation.teachers import TextTeacher, as_objects

_NAME = "vit_miniature_siglip"
_KNOWN = open_clip.get_model_config("ViT-B-16-SigLIP2")
CONFIG = {
    "model_cfg": {
        **_KNOWN,
        "embed_dim": 24,
        "vision_cfg": {**_KNOWN["vision_cfg"], "image_size": 32, "timm_model_name": _NAME},
        "text_cfg": {**_KNOWN["text_cfg"], "vocab_size": 90, "width": 24, "heads": 2, "layers": 1},
    },
    "preprocess_cfg": {"mean": [0.5] * 3, "std": [0.5] * 3},
}


def vit_miniature_siglip(pretrained: bool = False, **changes) -> VisionTransformer:
    """As timm's SigLIP towers, with small numbers."""
    for unused in ("pretrained_cfg", "pretrained_cfg_overlay", "cache_dir"):
        changes.pop(unused, None)
    size = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 2}
    return VisionTransformer(**{**size, "class_token": False, "global_pool": "map", "num_classes": 0, **changes})


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    if not timm.is_model(_NAME):
        vit_miniature_siglip.__module__ = "timm.models.vision_transformer"
        register_model(vit_miniature_siglip)
    place = tmp_path_factory.mktemp("siglip")
    content = dict(CONFIG["model_cfg"])
    content.pop("custom_text")
    torch.manual_seed(0)
    model = open_clip.CustomTextCLIP(**content)
    for parameter in model.visual.parameters():
        parameter.data.add_(0.05 * torch.randn_like(parameter))
    (place / "open_clip_config.json").write_text(json.dumps(CONFIG))
    save_file({key: value.contiguous().clone() for key, value in model.state_dict().items()},
              place / "open_clip_model.safetensors")  # fmt: skip
    return place


def _settings(folder: Path, **changes) -> ClipFeatures:
    return ClipFeatures(checkpoint=f"local-dir:{folder}", **changes)


def test_a_patch_is_what_the_pool_says_of_it_alone(folder):
    teacher = build_features(_settings(folder, image_size=(32, 32)), "cpu")
    image = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
    found = teacher({"image": as_objects([image])})["features"][0]
    assert found.shape == (4, 4, 24)
    model, _ = load_clip(_settings(folder))
    pixels = (torch.from_numpy(image).permute(2, 0, 1)[None].float() / 255 - 0.5) / 0.5
    with torch.no_grad():
        trunk = model.visual.trunk
        tokens = trunk.forward_features(pixels)
        for place in (0, 7):  # the whole model's own head, on a sequence of one token
            alone = model.visual.head(trunk.forward_head(tokens[:, place : place + 1]))
            np.testing.assert_allclose(found.reshape(16, 24)[place], alone[0].numpy(), atol=2e-5)


def test_its_texts_need_a_tokenizer_of_their_own_so_it_is_a_teacher_without_words(folder):
    teacher = build_features(_settings(folder), "cpu")
    assert isinstance(teacher, ClipImages)
    assert not isinstance(teacher, TextTeacher)
    assert teacher.image_size == (32, 56)  # wide, as every square checkpoint
    image = np.zeros((90, 160, 3), np.uint8)
    assert teacher({"image": as_objects([image])})["features"][0].shape == (4, 7, 24)


def test_a_timm_tower_that_pools_otherwise_is_refused(tmp_path):
    config = {**CONFIG, "model_cfg": {**CONFIG["model_cfg"]}}
    config["model_cfg"]["vision_cfg"] = {**CONFIG["model_cfg"]["vision_cfg"], "timm_pool": "avg"}
    (tmp_path / "open_clip_config.json").write_text(json.dumps(config))
    save_file({"any": torch.zeros(1)}, tmp_path / "open_clip_model.safetensors")
    with pytest.raises(DataError, match=r"an image tower of timm that pools by 'avg'.*use --features timm"):
        build_features(ClipFeatures(checkpoint=f"local-dir:{tmp_path}"), "cpu")
