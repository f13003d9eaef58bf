"""CLIP as a dense image teacher with words: patch features by identity attention in the last block.

MaskCLIP (Zhou et al., ECCV 2022, "Extract Free Dense Labels from CLIP"): CLIP aligns only the pooled token with text;
when in the last block every token attends to itself alone, each patch goes through the same value path as the pooled
token and lands in the joint space:

    x = tokens before the last block,   v = W_o (W_v ln_1(x) + b_v) + b_o
    identity:  y = x + v,   y = y + mlp(ln_2(y))        (MaskCLIP's code: residual and MLP stay)
    value:     y = v                                     (neither, as ClearCLIP argues)
    feature = ln_post(y) · W_proj

``identity`` equals the last block under an attention mask that is 0 on the diagonal and -∞ elsewhere. For the ResNets
the features are ``c_proj(v_proj(·))`` of the attention pool at every cell of the last stage (MaskCLIP).

The image is squashed to ``image_size``, so that the patches cover all of it, and the position embeddings are resized
with it (bicubic). Left open by the papers: the size away from 224 x 416 (SLidR, CLIP2Scene); ours keeps that aspect for
square checkpoints of any size.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float32
from torch import Tensor
from torch.nn import functional

from ray_lidarseg.errors import DataError
from ray_lidarseg.foundation.clip_checkpoint import load_clip
from ray_lidarseg.foundation.image_tensors import image_tensor, precision_of
from ray_lidarseg.foundation.settings import ClipFeatures
from ray_lidarseg.foundation.teachers import Batch, in_batches
from ray_lidarseg.sparse.products import fast

_WIDE_ASPECT = 416 / 224  # SLidR's and CLIP2Scene's input
_SENTENCE_BATCH = 256  # ours
_RESNET_STRIDE = 32


class Clip:
    """An open_clip model as an image and text teacher.

    Args:
        settings: Checkpoint, input size and last block.
        device: Where the model runs.

    Attributes:
        feature_dim: F, the dimension images and texts share.
        image_size: Height and width the image tower sees.

    Raises:
        DataError: The checkpoint cannot be used, or the input size is not a multiple of the patch.
    """

    def __init__(self, settings: ClipFeatures, device: str = "cpu") -> None:
        self.settings = settings
        model, self._preprocess = load_clip(settings)
        kind = (
            "trunk" if hasattr(model.visual, "trunk") else "vit" if hasattr(model.visual, "transformer") else "resnet"
        )
        tower: _VitTower | _ResNetTower | _AttentionPooledTower = {
            "trunk": _AttentionPooledTower,
            "vit": _VitTower,
            "resnet": _ResNetTower,
        }[kind](model.visual, settings)
        self._model: Any = model.to(device).requires_grad_(False)
        self._tower = tower
        self._device = torch.device(device)
        self.image_size = tower.image_size
        self.feature_dim = tower.feature_dim

    def __call__(self, batch: Batch) -> dict[str, np.ndarray]:
        """See ``ImageTeacher``."""
        return in_batches(self.dense, list(batch["image"]), self.settings.image_batch)

    @torch.inference_mode()
    def dense(self, images: Sequence[np.ndarray]) -> Float32[np.ndarray, "B h w F"]:
        """Patch features of uint8 [H, W, 3] images in one forward."""
        pixels = image_tensor(images, self.image_size, self._preprocess, self._device)
        with fast(), precision_of(self.settings.precision, self._device):
            features = self._tower(pixels)
        return features.float().cpu().numpy()

    @torch.inference_mode()
    def embed_text(self, prompts: Sequence[Sequence[str]]) -> Float32[np.ndarray, "K F"]:
        """See ``TextTeacher``; always in float32.

        Raises:
            DataError: A list without a sentence.
        """
        import open_clip

        empty = [position for position, sentences in enumerate(prompts) if not sentences]
        if empty:
            raise DataError(f"expected at least one sentence a prompt, got none for prompts {empty}")
        tokens = open_clip.SimpleTokenizer(context_length=self._model.context_length)(
            [sentence for sentences in prompts for sentence in sentences]
        )
        parts = [
            self._model.encode_text(part.to(self._device), normalize=True) for part in tokens.split(_SENTENCE_BATCH)
        ]
        of_prompts = torch.cat(parts).float().split([len(sentences) for sentences in prompts])
        return functional.normalize(torch.stack([part.mean(0) for part in of_prompts]), dim=1).cpu().numpy()


class _VitTower:
    """Dense features of an open_clip ``VisionTransformer``; its position embeddings are resized in place."""

    def __init__(self, visual: Any, settings: ClipFeatures) -> None:
        blocks = visual.transformer.resblocks
        if len(blocks) < 2 or type(blocks[-1]).__name__ != "ResidualAttentionBlock":
            raise DataError(
                f"{settings.checkpoint}: expected a ViT of two or more plain residual attention blocks, got "
                f"{len(blocks)} of {type(blocks[-1]).__name__}; use another CLIP, such as ViT-B-16"
            )
        self.image_size = _input_size(settings, tuple(visual.image_size), tuple(visual.patch_size))
        self.feature_dim = int(visual.proj.shape[1])
        self._visual, self._keeps_residual = visual, settings.last_block == "identity"
        self._grid = tuple(side // patch for side, patch in zip(self.image_size, visual.patch_size, strict=True))
        resized = resize_positions(visual.positional_embedding.data, visual.grid_size, self._grid)
        visual.positional_embedding = torch.nn.Parameter(resized, requires_grad=False)

    def __call__(self, pixels: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B h w F"]:
        return vit_features(self._visual, pixels, self._keeps_residual).unflatten(1, self._grid)


class _AttentionPooledTower:
    """Dense features of a timm tower that pools by attention, as SigLIP and SigLIP 2: each patch is pooled by itself.

    The pool's softmax over one token is 1, so a patch goes the value path of the pooled image, as in ``_VitTower``.
    """

    def __init__(self, visual: Any, settings: ClipFeatures) -> None:
        trunk = visual.trunk
        if getattr(trunk, "attn_pool", None) is None:
            raise DataError(
                f"{settings.checkpoint}: its timm tower does not pool by attention, so what its patches mean beside "
                "words is not known; use SigLIP, a ViT such as ViT-B-16, or --features timm"
            )
        patch = tuple(trunk.patch_embed.patch_size)
        self.image_size = _input_size(settings, tuple(trunk.patch_embed.img_size), patch)
        trunk.set_input_size(img_size=self.image_size)  # resizes the position embeddings
        self.feature_dim = int(trunk.num_features)
        self._visual = visual
        self._grid = tuple(side // step for side, step in zip(self.image_size, patch, strict=True))

    def __call__(self, pixels: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B h w F"]:
        trunk = self._visual.trunk
        tokens = trunk.forward_features(pixels)
        alone = trunk.attn_pool(tokens.flatten(0, 1)[:, None])
        return self._visual.head(trunk.head(trunk.fc_norm(alone))).unflatten(0, (len(pixels), *self._grid))


class ClipImages:
    """The image tower alone, of a model whose texts need a tokenizer that is not CLIP's: a teacher without words.

    Args:
        settings: As of ``Clip``.
        device: Where the model runs.

    Attributes:
        feature_dim: F.
        image_size: Height and width the image tower sees.
    """

    def __init__(self, settings: ClipFeatures, device: str = "cpu") -> None:
        self._clip = Clip(settings, device)
        self.feature_dim, self.image_size = self._clip.feature_dim, self._clip.image_size

    def __call__(self, batch: Batch) -> dict[str, np.ndarray]:
        """See ``ImageTeacher``."""
        return self._clip(batch)


class _ResNetTower:
    """Dense features of an open_clip ``ModifiedResNet``: convolutions take any size."""

    def __init__(self, visual: Any, settings: ClipFeatures) -> None:
        side = visual.image_size
        own = tuple(side) if isinstance(side, tuple | list) else (side, side)
        self.image_size = _input_size(settings, own, (_RESNET_STRIDE, _RESNET_STRIDE))
        self.feature_dim = int(visual.attnpool.c_proj.out_features)
        self._visual = visual

    def __call__(self, pixels: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B h w F"]:
        stages = self._visual.forward_intermediates(pixels, indices=[4], intermediates_only=True)
        cells = stages["image_intermediates"][0].permute(0, 2, 3, 1)
        pool = self._visual.attnpool
        return pool.c_proj(pool.v_proj(cells))


def vit_features(visual: Any, pixels: Float[Tensor, "B 3 H W"], keeps_residual: bool = True) -> Float[Tensor, "B L F"]:
    """Features of the patches, row by row, in the space of the texts; gradients flow, so it can be trained, too.

    Args:
        visual: Open_clip's ``VisionTransformer`` of two or more blocks.
        pixels: Normalised images of the size its position embeddings are for.
        keeps_residual: See ``self_attending``.
    """
    blocks = visual.transformer.resblocks
    before = visual.forward_intermediates(
        pixels, indices=[len(blocks) - 2], stop_early=True, intermediates_only=True, output_fmt="NLC"
    )["image_intermediates"][0]
    return visual.ln_post(self_attending(blocks[-1], before, keeps_residual)) @ visual.proj


def self_attending(block: Any, tokens: Float[Tensor, "B L D"], keeps_residual: bool = True) -> Float[Tensor, "B L D"]:
    """A residual attention block in which every token attends to itself alone; see the module's text.

    Args:
        block: ``ResidualAttentionBlock`` of open_clip.
        tokens: [B, L, D] what enters the block.
        keeps_residual: MaskCLIP's code (True), or the value alone.
    """
    width = tokens.shape[-1]
    weight, bias = block.attn.in_proj_weight, block.attn.in_proj_bias  # rows: queries, keys, values
    value = functional.linear(block.ln_1(tokens), weight[2 * width :], bias[2 * width :])
    value = block.attn.out_proj(value)
    if not keeps_residual:
        return value
    attended = tokens + block.ls_1(value)
    return attended + block.ls_2(block.mlp(block.ln_2(attended)))


def resize_positions(
    positions: Float[Tensor, "L D"], grid: tuple[int, int], new_grid: tuple[int, ...]
) -> Float[Tensor, "M D"]:
    """Position embeddings of another patch grid: bicubic, the class token's stays.

    open_clip's own resizing takes every grid for a square; this one knows the shape.

    Args:
        positions: [1 + h·w, D], class token first.
        grid: h, w they are for.
        new_grid: h', w' they shall be for.
    """
    if tuple(grid) == tuple(new_grid):
        return positions
    token, patches = positions[:1], positions[1:]
    image = patches.T.reshape(1, -1, *grid)
    resized = functional.interpolate(image, size=tuple(new_grid), mode="bicubic", antialias=True, align_corners=False)
    return torch.cat([token, resized.flatten(2)[0].T])


def _input_size(settings: ClipFeatures, own: tuple[int, ...], patch: tuple[int, ...]) -> tuple[int, int]:
    """Height and width the tower sees; see ``ClipFeatures.image_size``."""
    height, width = own
    if settings.image_size is None and height == width:
        width = round(width * _WIDE_ASPECT / patch[1]) * patch[1]
    height, width = settings.image_size or (height, width)
    if height % patch[0] or width % patch[1]:
        raise DataError(
            f"features.image_size={height},{width}: expected multiples of this model's patch, {patch[0]} x {patch[1]} "
            f"pixels; for example {max(1, round(height / patch[0])) * patch[0]},"
            f"{max(1, round(width / patch[1])) * patch[1]}"
        )
    return height, width
