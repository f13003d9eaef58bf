"""The shapes of Segment Anything models: the three published ones, and a miniature that runs on a laptop and in tests.

Source: "Segment Anything" (arXiv 2304.02643) through the classes of the `segment-anything` package. The miniature is
ours: the same classes, small enough for one CPU core; `ray_lidarseg/foundation/weights` holds its weights.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any, Literal, get_args

import torch
from segment_anything import sam_model_registry
from segment_anything.modeling import ImageEncoderViT, MaskDecoder, PromptEncoder, Sam, TwoWayTransformer

from ray_lidarseg.errors import DataError

Architecture = Literal["vit_b", "vit_l", "vit_h", "miniature"]
ARCHITECTURES: tuple[Architecture, ...] = get_args(Architecture)

_PATCHES = "image_encoder.patch_embed.proj.weight"
_DEPTH_OF_WIDTH: dict[tuple[int, int], Architecture] = {
    (768, 12): "vit_b",
    (1024, 24): "vit_l",
    (1280, 32): "vit_h",
    (96, 4): "miniature",
}
"""(width, depth) of the image encoder: the authors' code, the last line ours."""

_MINIATURE = {"image_size": 256, "patch": 8, "width": 96, "depth": 4, "heads": 3, "window": 8, "prompt_width": 64}
"""Ours: 32 x 32 tokens, so low-resolution masks of 128 x 128, one mask pixel for two pixels of the 256-pixel input."""


def build_sam(name: str) -> Sam:
    """A model with random weights, in evaluation mode.

    Raises:
        DataError: There is no architecture of that name.
    """
    if name == "miniature":
        return _build_miniature().eval()
    if name not in ARCHITECTURES:
        raise DataError(f"{name!r} is no SAM architecture; choose one of {', '.join(ARCHITECTURES)}")
    return sam_model_registry[name]().eval()


def detect_architecture(state: Mapping[str, Any]) -> Architecture:
    """The architecture whose image encoder has the width and depth of these weights.

    Raises:
        DataError: The weights are not SAM's, or of a SAM nobody here knows; says what was found.
    """
    patches = state.get(_PATCHES)
    if not isinstance(patches, torch.Tensor) or patches.ndim != 4:
        some = ", ".join(sorted(map(str, state))[:3]) or "nothing"
        raise DataError(
            f"not a SAM checkpoint: expected the tensor {_PATCHES!r}, found {len(state)} entries ({some} …)"
        )
    width, depth = patches.shape[0], _num_blocks(state)
    found = _DEPTH_OF_WIDTH.get((width, depth))
    if found is None:
        known = ", ".join(f"{name} ({w} wide, {d} deep)" for (w, d), name in _DEPTH_OF_WIDTH.items())
        raise DataError(f"a SAM image encoder {width} wide and {depth} blocks deep is none of {known}")
    return found


def _num_blocks(state: Mapping[str, Any]) -> int:
    prefix = "image_encoder.blocks."
    return len({key[len(prefix) :].split(".")[0] for key in state if key.startswith(prefix)})


def _build_miniature() -> Sam:
    size, patch, prompt_width = _MINIATURE["image_size"], _MINIATURE["patch"], _MINIATURE["prompt_width"]
    grid = (size // patch, size // patch)
    return Sam(
        image_encoder=ImageEncoderViT(
            img_size=size,
            patch_size=patch,
            embed_dim=_MINIATURE["width"],
            depth=_MINIATURE["depth"],
            num_heads=_MINIATURE["heads"],
            out_chans=prompt_width,
            norm_layer=partial(torch.nn.LayerNorm, eps=1e-6),
            use_rel_pos=True,
            window_size=_MINIATURE["window"],
            global_attn_indexes=(2,),
        ),
        prompt_encoder=PromptEncoder(
            embed_dim=prompt_width, image_embedding_size=grid, input_image_size=(size, size), mask_in_chans=16
        ),
        mask_decoder=MaskDecoder(
            transformer_dim=prompt_width,
            transformer=TwoWayTransformer(depth=2, embedding_dim=prompt_width, num_heads=2, mlp_dim=256),
            iou_head_hidden_dim=prompt_width,
        ),
    )
