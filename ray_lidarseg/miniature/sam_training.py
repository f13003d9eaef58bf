"""Training of the miniature SAM: one point in a true segment must give that segment.

Batches of pictures and points in them through the very modules of segment-anything, the decoder in the arrangement of
`foundation/mask_decoding.py` that gives the same numbers for less arithmetic; losses in ``mask_losses``. Only the three
answers that automatic masks use are trained, not the single one of ``multimask_output=False``. Half of the points are
drawn evenly over the segments, half evenly over the pixels: small things and the grid of the automatic masks both
count. Segments are objects and stuff alike (road, pavement, facade, sky). bf16 inside, as far as autocast goes.
Source: losses as in the paper, everything else ours.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from segment_anything.modeling import Sam

from ray_lidarseg.foundation.mask_decoding import NUM_MASKS, ImageTokens, attend, upscale
from ray_lidarseg.foundation.sam_architecture import build_sam
from ray_lidarseg.miniature.crops import crop, resize_classes
from ray_lidarseg.miniature.fitting import Fitting, Plan
from ray_lidarseg.miniature.mask_losses import affinity_loss, mask_iou, prompt_losses
from ray_lidarseg.miniature.training_pictures import TruePicture

PLAN = Plan(steps=4000, peak_rate=1e-3)
_BATCH, _PROMPTS, _CELLS = 2, 10, 96
_LOW_RATIO = 2  # input pixels for one pixel of the low-resolution logits
_TOKEN_LOW_PX = 4  # such pixels for one token
_MIN_LOW_PX = 25  # 100 input pixels
_CHOICE_PROMPTS = 12
_POSITION_SCALE = 0.5


@dataclass(frozen=True)
class Prompted:
    """One picture as the model takes it, and prompts with their answers, for the part of the square that holds image.

    Attributes:
        image: float32 [3, S, S], normalised and padded.
        points: float32 [K, 2] (x, y) in the input frame.
        segments: int64 [h, w] truth on the raster of the low-resolution logits, 0 where a pixel has none; h and w are
            whole tokens.
        target: bool [K, h, w].
        valid: bool [h, w], what is not padding.
    """

    image: torch.Tensor
    points: torch.Tensor
    segments: torch.Tensor
    target: torch.Tensor
    valid: torch.Tensor


@dataclass(frozen=True)
class Answers:
    """What the model says to one ``Prompted``.

    Attributes:
        embedding: float32 [F, g, g].
        logits: float32 [K, 3, h, w].
        predicted_iou: float32 [K, 3].
    """

    embedding: torch.Tensor
    logits: torch.Tensor
    predicted_iou: torch.Tensor


def train_sam(
    pictures: Sequence[TruePicture], held_out: Sequence[TruePicture], folder: Path, plan: Plan = PLAN
) -> Path:
    """Trains, or continues; returns the file of the best weights.

    Args:
        pictures: To learn from.
        held_out: To choose the checkpoint by: mean IoU of the best answer to single points.
        folder: Of state and weights.
        plan: How long.
    """
    torch.manual_seed(plan.seed)
    sam = build_sam("miniature").train()
    place_tokens(sam)
    fitting = Fitting(sam, plan, folder)
    rng = np.random.default_rng(plan.seed)
    exam = [prompted(sam, picture, rng, _CHOICE_PROMPTS) for picture in held_out]

    def loss(rng: np.random.Generator) -> dict[str, torch.Tensor]:
        chosen = rng.integers(len(pictures), size=_BATCH)
        return batch_losses(sam, [prompted(sam, crop(pictures[i], rng), rng, _PROMPTS) for i in chosen], rng)

    fitting.run(loss, lambda: float(best_ious(sam, exam).mean()))
    return fitting.best_file


@torch.no_grad()
def place_tokens(sam: Sam) -> None:
    """Starts the encoder's position embedding as the prompts' own, instead of zeros: it knows places from the start."""
    position = sam.prompt_encoder.get_dense_pe()[0].permute(1, 2, 0)
    sam.image_encoder.pos_embed[0, :, :, : position.shape[-1]] = _POSITION_SCALE * position


def prompted(sam: Sam, picture: TruePicture, rng: np.random.Generator, num_prompts: int) -> Prompted:
    """The picture with its longest side at the model's size, and ``num_prompts`` points in its segments."""
    size = sam.image_encoder.img_size
    scale = size / max(picture.classes.shape)
    height, width = (min(size, int(side * scale + 0.5)) for side in picture.classes.shape)
    image = cv2.resize(picture.image, (width, height), interpolation=cv2.INTER_LINEAR)
    low_height, low_width = height // _LOW_RATIO, width // _LOW_RATIO
    whole = tuple(-(-side // _TOKEN_LOW_PX) * _TOKEN_LOW_PX for side in (low_height, low_width))
    segments, valid = np.zeros(whole, np.int64), np.zeros(whole, bool)
    segments[:low_height, :low_width] = resize_classes(picture.segments, (low_height, low_width))
    valid[:low_height, :low_width] = True
    points, chosen = _draw_points(segments, rng, num_prompts)
    with torch.no_grad():
        tensor = sam.preprocess(torch.from_numpy(image).permute(2, 0, 1).float())
    target = torch.from_numpy(segments[None] == chosen[:, None, None])
    return Prompted(tensor, torch.from_numpy(points), torch.from_numpy(segments), target, torch.from_numpy(valid))


def _draw_points(segments: np.ndarray, rng: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray]:
    """float32 [K, 2] points in input pixels, int64 [K] their segments."""
    sizes = np.bincount(segments.ravel())
    sizes[0] = 0
    large = np.flatnonzero(sizes >= _MIN_LOW_PX)
    by_area = sizes[large] / sizes[large].sum()
    chosen = rng.choice(large, count, p=0.5 * by_area + 0.5 / len(large))
    order = np.argsort(segments.ravel(), kind="stable")
    start = np.cumsum(np.bincount(segments.ravel())) - np.bincount(segments.ravel())
    pixel = order[start[chosen] + (rng.random(count) * sizes[chosen]).astype(np.int64)]
    within = rng.integers(_LOW_RATIO, size=(count, 2))
    points = np.stack([pixel % segments.shape[1], pixel // segments.shape[1]], axis=1) * _LOW_RATIO + within
    return points.astype(np.float32), chosen


def batch_losses(sam: Sam, batch: Sequence[Prompted], rng: np.random.Generator) -> dict[str, torch.Tensor]:
    """``mask``, ``iou`` and ``affinity``, means over a batch; ``rng`` draws the cells that are compared."""
    parts = [_losses(entry, said, rng) for entry, said in zip(batch, answers(sam, batch), strict=True)]
    return {name: torch.stack([part[name] for part in parts]).mean() for name in parts[0]}


def _losses(entry: Prompted, said: Answers, rng: np.random.Generator) -> dict[str, torch.Tensor]:
    at_centres = entry.segments[_TOKEN_LOW_PX // 2 :: _TOKEN_LOW_PX, _TOKEN_LOW_PX // 2 :: _TOKEN_LOW_PX]
    rows, columns = at_centres.shape
    cells = torch.from_numpy(rng.integers(rows * columns, size=_CELLS))
    affinity = affinity_loss(said.embedding[:, :rows, :columns], at_centres, cells)
    return {**prompt_losses(said.logits, said.predicted_iou, entry.target, entry.valid), "affinity": affinity}


def answers(sam: Sam, batch: Sequence[Prompted]) -> list[Answers]:
    """Encodes the images together and decodes the prompts of each."""
    device_type = next(sam.parameters()).device.type
    with torch.autocast(device_type, torch.bfloat16):
        embeddings = sam.image_encoder(torch.stack([entry.image for entry in batch]))
        return [_decode(sam, one, entry) for one, entry in zip(embeddings, batch, strict=True)]


def _decode(sam: Sam, embedding: torch.Tensor, entry: Prompted) -> Answers:
    labels = torch.ones(len(entry.points), 1, device=entry.points.device)
    sparse, dense = sam.prompt_encoder(points=(entry.points[:, None], labels), boxes=None, masks=None)
    tokens = (embedding + dense[0]).flatten(1).T
    position = sam.prompt_encoder.get_dense_pe()[0].flatten(1).T
    decoded = attend(sam.mask_decoder, ImageTokens(tokens, position, tuple(embedding.shape[1:])), sparse)
    rows, columns = (side // _TOKEN_LOW_PX for side in entry.valid.shape)
    every = torch.ones(len(sparse), NUM_MASKS, dtype=torch.bool, device=sparse.device)
    logits = upscale(sam.mask_decoder, decoded, every, rows, columns).unflatten(0, (-1, NUM_MASKS))
    return Answers(embedding.float(), logits.float(), decoded.predicted_iou.float())


@torch.no_grad()
def best_ious(sam: Sam, exam: Sequence[Prompted]) -> torch.Tensor:
    """float32 [K] IoU, on the low-resolution raster, of the best of three answers to each prompt."""
    found = []
    for entry in exam:
        inside = (answers(sam, [entry])[0].logits > 0) & entry.valid
        found.append(mask_iou(inside, entry.target[:, None].expand_as(inside)).max(dim=1).values)
    return torch.cat(found)
