"""Training of the miniature CLIP: every patch of a picture must be closest to the words for what it shows.

The dense features are those that ``foundation/clip.py`` gives: the last block attends each token to itself alone, so
that a patch speaks for its own place. They are compared with the text tower's embeddings of sentences about every
class; the softmax over the sentences is asked for the share of the patch that each class covers. The class token, with
ordinary attention, is asked for the shares in the whole picture: CLIP's own use. Rare classes weigh more: a class's
weight is its number of pixels to the power of -0.4. bf16 inside, as far as autocast goes. Source: ours, after CLIP
(arXiv 2103.00020) and MaskCLIP (arXiv 2112.01071).
"""

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import open_clip
import torch
from torch import Tensor
from torch.nn import functional

from ray_lidarseg.foundation.clip import self_attending
from ray_lidarseg.foundation.clip_architecture import MINIATURE, build_clip_miniature
from ray_lidarseg.miniature.captions import CLASSES, KINDS, Meaning, draw_sentences, kinds_of
from ray_lidarseg.miniature.crops import crop
from ray_lidarseg.miniature.fitting import Fitting, Plan
from ray_lidarseg.miniature.training_pictures import TruePicture
from ray_lidarseg.types import IGNORE

PLAN = Plan(steps=2000, peak_rate=1e-3)
_BATCH = 8
_KINDS_RATIO = 0.4
_WHOLE_WEIGHT = 0.2
_RARITY_POWER = 0.4
_HIGHEST_SCALE = 100.0  # CLIP's code


def train_clip(
    pictures: Sequence[TruePicture], held_out: Sequence[TruePicture], folder: Path, plan: Plan = PLAN
) -> Path:
    """Trains, or continues; returns the file of the best weights.

    Args:
        pictures: To learn from.
        held_out: To choose the checkpoint by: share of patches whose main class is the nearest, plus its mean over
            classes.
        folder: Of state and weights.
        plan: How long.
    """
    model = build_clip_miniature(plan.seed).train()
    weights = {meanings: _rarity(pictures, meanings) for meanings in (CLASSES, KINDS)}

    def loss(rng: np.random.Generator) -> dict[str, Tensor]:
        chosen = [crop(pictures[index], rng) for index in rng.integers(len(pictures), size=_BATCH)]
        meanings = KINDS if rng.random() < _KINDS_RATIO else CLASSES
        return batch_losses(model, chosen, meanings, draw_sentences(meanings, rng), weights[meanings])

    fitting = Fitting(model, plan, folder)
    fitting.run(loss, lambda: patch_quality(model, held_out))
    return fitting.best_file


def batch_losses(
    model: open_clip.CLIP,
    pictures: Sequence[TruePicture],
    meanings: tuple[Meaning, ...],
    sentences: Sequence[str],
    weights: Tensor,
) -> dict[str, Tensor]:
    """``patches`` and ``whole``: weighted cross-entropy between class shares and softmax over sentences.

    Args:
        model: The miniature.
        pictures: B crops.
        meanings: CLASSES or KINDS.
        sentences: One for each meaning.
        weights: float32 [len(meanings)].
    """
    shares = torch.stack([patch_shares(model, picture, meanings) for picture in pictures])
    images = torch.stack([normalised(model, picture.image) for picture in pictures])
    with torch.autocast(images.device.type, torch.bfloat16):
        patches, whole = both_features(model, images)
        text = model.encode_text(open_clip.tokenize(list(sentences)))
    scale = model.logit_scale.exp().clamp(max=_HIGHEST_SCALE)
    text = functional.normalize(text.float(), dim=-1)
    return {
        "patches": share_loss(scale * functional.normalize(patches.float(), dim=-1) @ text.T, shares, weights),
        "whole": _WHOLE_WEIGHT
        * share_loss(scale * functional.normalize(whole.float(), dim=-1) @ text.T, shares.mean(dim=1), weights),
    }


def share_loss(logits: Tensor, shares: Tensor, weights: Tensor) -> Tensor:
    """``- Σ_c w_c s_c log softmax(logits)_c / Σ_c w_c s_c`` over all rows: scalar.

    Args:
        logits: float32 [..., C].
        shares: float32 [..., C] share of each class; rows may sum to less than 1 where pixels have no class.
        weights: float32 [C].
    """
    weighted = weights * shares
    return -(weighted * logits.log_softmax(dim=-1)).sum() / weighted.sum().clamp(min=1e-6)


def both_features(model: open_clip.CLIP, images: Tensor) -> tuple[Tensor, Tensor]:
    """[B, h w, F] patches after a last block of identity attention, and [B, F] class token after an ordinary one."""
    visual = model.visual
    *first, last = visual.transformer.resblocks
    tokens = visual._embeds(images)
    for block in first:
        tokens = block(tokens)
    whole = visual.ln_post(last(tokens)[:, 0]) @ visual.proj
    alone = self_attending(last, tokens)
    return visual.ln_post(alone[:, 1:]) @ visual.proj, whole


def normalised(model: open_clip.CLIP, image: np.ndarray) -> Tensor:
    """float32 [3, h, w] at the model's size, with its mean and deviation; the aspect is not kept."""
    height, width = model.visual.image_size
    shrinks = image.shape[0] > height
    resized = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
    mean, std = (torch.tensor(MINIATURE["preprocess_cfg"][name])[:, None, None] for name in ("mean", "std"))
    return (torch.from_numpy(resized).permute(2, 0, 1) / 255 - mean) / std


def patch_shares(model: open_clip.CLIP, picture: TruePicture, meanings: tuple[Meaning, ...]) -> Tensor:
    """float32 [h w, C] share of each patch that each meaning covers."""
    ids = kinds_of(picture.classes, picture.kitti) if meanings is KINDS else picture.classes
    rows, columns = model.visual.grid_size
    height, width = ids.shape
    cell = (np.arange(height) * rows // height)[:, None] * columns + np.arange(width) * columns // width
    is_known = ids != IGNORE
    flat = cell[is_known] * len(meanings) + ids[is_known]
    count = np.bincount(flat, minlength=rows * columns * len(meanings)).reshape(rows * columns, -1)
    size = np.bincount(cell.ravel(), minlength=rows * columns)
    return torch.from_numpy((count / np.maximum(size, 1)[:, None]).astype(np.float32))


def _rarity(pictures: Sequence[TruePicture], meanings: tuple[Meaning, ...]) -> Tensor:
    """float32 [C] weights with mean 1: pixels to the power of -0.4."""
    count = np.ones(len(meanings))
    for picture in pictures[::4]:
        ids = kinds_of(picture.classes, picture.kitti) if meanings is KINDS else picture.classes
        count += np.bincount(ids[ids != IGNORE], minlength=len(meanings))
    weight = count**-_RARITY_POWER
    return torch.from_numpy((weight / weight.mean()).astype(np.float32))


@torch.no_grad()
def patch_quality(model: open_clip.CLIP, pictures: Sequence[TruePicture]) -> float:
    """Mean of the accuracy over patches and over classes, for the class that covers most of each patch."""
    text = functional.normalize(model.encode_text(open_clip.tokenize([m.words[0] for m in CLASSES])).float(), dim=-1)
    right, count = np.zeros(len(CLASSES)), np.zeros(len(CLASSES))
    for picture in pictures:
        patches, _ = both_features(model, normalised(model, picture.image)[None])
        found = (patches[0] @ text.T).argmax(dim=-1).numpy()
        shares = patch_shares(model, picture, CLASSES).numpy()
        truth = shares.argmax(axis=1)
        clear = shares.max(axis=1) > 0.5
        count += np.bincount(truth[clear], minlength=len(count))
        right += np.bincount(truth[clear & (truth == found)], minlength=len(count))
    return float((right.sum() / count.sum() + (right / np.maximum(count, 1))[count > 0].mean()) / 2)
