"""Automatic masks: every prompt of a batch of images through segment-anything, and what survives as index maps.

In the order of the work: images resized and padded into the model's square, encoded together; prompts decoded in
batches; masks judged by predicted IoU before they are upscaled at all, by stability first on low-resolution logits, and
those that pass or nearly pass at the image's size; duplicate boxes dropped; survivors painted into one map. Nothing but
that map leaves the device.

Against segment-anything's own generator the masks are the same up to rounding, but for those that the first, coarse
test of stability drops although they would pass the exact one: it lets masks pass that miss the threshold by
``STABILITY_SLACK``. `tests/bench/sam_masks.py` measures how many differ. Only whole images are prompted (the
generator's ``crop_n_layers=0``, its default), and holes are left alone (its ``min_mask_region_area=0``).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Int32, UInt8, UInt16
from PIL import Image
from segment_anything.modeling import Sam
from torch import Tensor

from ray_lidarseg.foundation.mask_decoding import ImageTokens, attend, upscale
from ray_lidarseg.foundation.mask_fit import UPSCALING, Fit, fit
from ray_lidarseg.foundation.mask_painting import index_map
from ray_lidarseg.foundation.mask_scoring import distinct, measure, stability_scores
from ray_lidarseg.sparse.products import fast

STABILITY_SLACK = 0.05
"""How far below the threshold the stability of a low-resolution mask may lie for it to be measured exactly. Ours."""

_CPU_TOKENS = 1 << 14
"""Image tokens decoded at once on a CPU, all prompts together, so that they stay in a core's cache. Ours, measured."""

_PIXELS_AT_ONCE = {"cpu": 1 << 20, "cuda": 1 << 28}
"""Pixels of enlarged masks: in a core's cache, or 1 GiB of float32 on a GPU. Ours."""


@dataclass(frozen=True)
class Thresholds:
    """What a mask must reach; defaults are the authors' code's. 0 switches a test off, as there.

    Attributes:
        pred_iou: The model's own guess of the mask's IoU must be higher.
        stability: Stability score must be at least this.
        stability_offset: Logit by which the cut is shifted for that score.
        nms_iou: Of two masks whose boxes overlap more, the better stays.
    """

    pred_iou: float = 0.88
    stability: float = 0.95
    stability_offset: float = 1.0
    nms_iou: float = 0.7


@dataclass(frozen=True)
class Candidates:
    """Masks of an image that passed the thresholds.

    Attributes:
        logits: Low-resolution masks.
        scores: Predicted IoU.
        boxes: (x0, y0, x1, y1) in pixels of the image, or of the size it is measured at.
        areas: Such pixels.
    """

    logits: Float[Tensor, "N h w"]
    scores: Float[Tensor, " N"]
    boxes: Float[Tensor, "N 4"]
    areas: Int32[Tensor, " N"]

    def select(self, is_kept: Bool[Tensor, " N"]) -> "Candidates":
        """Those marked."""
        return Candidates(self.logits[is_kept], self.scores[is_kept], self.boxes[is_kept], self.areas[is_kept])


@torch.inference_mode()
def generate(
    sam: Sam,
    images: Sequence[UInt8[np.ndarray, "_ _ 3"]],
    points: Sequence[Float32[np.ndarray, "_ 2"]],
    thresholds: Thresholds,
    prompt_batch: int,
    precision: torch.dtype = torch.float32,
    measured_px: int = 0,
) -> list[UInt16[np.ndarray, "_ _"]]:
    """Index maps of images, encoded in one batch.

    Args:
        sam: The model, in evaluation mode, float32 weights, on any device.
        images: RGB, of any sizes.
        points: For each image where it is prompted, (u, v) in its pixels.
        thresholds: What a mask must reach.
        prompt_batch: Prompts decoded at once; a CPU takes fewer where its cache is too small for them.
        precision: float32, or bfloat16 for the matrix products of encoder and decoder. Softmax, layer norms (but for
            the two of the encoder's neck), positional encodings and predicted IoU stay float32; float16 overflows in
            ViT-H (segment-anything issues 540 and 696).
        measured_px: Masks are measured and painted at the image's shape with a longer side of so many pixels, where it
            is longer than that, and the map is enlarged to the image by its nearest pixel; 0: at the image's own size.
            Measuring takes most of the time on a CPU where images are large and the model is small.

    Returns:
        For each image ids 1 … N in order of falling area, 0 = no mask.
    """
    maps = []
    found = survivors(sam, images, points, thresholds, prompt_batch, precision, measured_px)
    for one, image in zip(found, images, strict=True):
        where = fit(sam, *image.shape[:2]).measured_at(measured_px)
        painted = index_map(one.logits, one.areas, *_enlarging(where, sam.device), _masks_at_once(where, sam.device))
        maps.append(_at_size_of(image, painted.cpu().numpy().astype(np.uint16)))
    return maps


@torch.inference_mode()
def survivors(
    sam: Sam,
    images: Sequence[UInt8[np.ndarray, "_ _ 3"]],
    points: Sequence[Float32[np.ndarray, "_ 2"]],
    thresholds: Thresholds,
    prompt_batch: int,
    precision: torch.dtype = torch.float32,
    measured_px: int = 0,
) -> list[Candidates]:
    """What ``generate`` paints: for each image the masks that pass the thresholds, without duplicates."""
    fits = [fit(sam, *image.shape[:2]) for image in images]
    embeddings = encode(sam, images, fits, precision)
    found = [
        candidates(sam, embedding, where, asked, thresholds, prompt_batch, precision, measured_px)
        for embedding, where, asked in zip(embeddings, fits, points, strict=True)
    ]
    return _without_duplicates(found, thresholds.nms_iou)


@torch.inference_mode()
def encode(
    sam: Sam, images: Sequence[UInt8[np.ndarray, "_ _ 3"]], fits: Sequence[Fit], precision: torch.dtype
) -> Float[Tensor, "B F h w"]:
    """Image embeddings of the batch."""
    square = sam.image_encoder.img_size
    batch = torch.zeros(len(images), 3, square, square, device=sam.device)
    for row, image, where in zip(batch, images, fits, strict=True):
        rows, columns = where.inner
        resized = np.array(Image.fromarray(image).resize((columns, rows), Image.Resampling.BILINEAR))
        pixels = torch.from_numpy(resized).to(sam.device).permute(2, 0, 1)
        row[:, :rows, :columns] = (pixels - sam.pixel_mean) / sam.pixel_std
    with fast(), _products_in(precision, sam.device):
        return sam.image_encoder(batch).float()


@torch.inference_mode()
def candidates(
    sam: Sam,
    embedding: Float[Tensor, "F h w"],
    where: Fit,
    points: Float32[np.ndarray, "K 2"],
    thresholds: Thresholds,
    prompt_batch: int,
    precision: torch.dtype = torch.float32,
    measured_px: int = 0,
) -> Candidates:
    """Masks of one image that pass predicted IoU and stability; duplicates are still among them.

    Args:
        sam: The model.
        embedding: Of this image.
        where: How the image lies in the square.
        points: (u, v) in image pixels.
        thresholds: What a mask must reach.
        prompt_batch: As in ``generate``.
        precision: As in ``generate``.
        measured_px: As in ``generate``; boxes and areas are in pixels of that size.
    """
    rows, columns = where.token_rows_columns
    parts = [(embedding.new_zeros(0, UPSCALING * rows, UPSCALING * columns), embedding.new_zeros(0))]
    shared = _image_tokens(sam, embedding)
    for some in _prompt_tokens(sam, where, points).split(_batch(prompt_batch, shared)) if len(points) else ():
        with _products_in(precision, embedding.device):
            decoded = attend(sam.mask_decoder, shared, some)
            is_good = _is_above(decoded.predicted_iou, thresholds.pred_iou)
            logits = upscale(sam.mask_decoder, decoded, is_good, rows, columns)
        is_promising = _is_promising(logits, where, thresholds)
        parts.append((logits[is_promising], decoded.predicted_iou[is_good][is_promising]))
    logits, scores = (torch.cat(each) for each in zip(*parts, strict=True))
    return _passing(logits, scores, where.measured_at(measured_px), thresholds)


def _at_size_of(image: UInt8[np.ndarray, "H W 3"], painted: UInt16[np.ndarray, "_ _"]) -> UInt16[np.ndarray, "H W"]:
    """The map with the pixels of the image, each the nearest one's segment."""
    height, width = image.shape[:2]
    if painted.shape == (height, width):
        return painted
    return cv2.resize(painted, (width, height), interpolation=cv2.INTER_NEAREST_EXACT)


def _is_above(predicted_iou: Tensor, threshold: float) -> Tensor:
    return predicted_iou > threshold if threshold > 0 else torch.ones_like(predicted_iou, dtype=torch.bool)


def _is_promising(logits: Float[Tensor, "N h w"], where: Fit, thresholds: Thresholds) -> Bool[Tensor, " N"]:
    """Whether a mask is stable enough at low resolution, without the square's padding, to be enlarged."""
    rows, columns = where.mask_rows_columns
    coarse = stability_scores(logits[:, :rows, :columns], thresholds.stability_offset)
    return coarse >= thresholds.stability - STABILITY_SLACK


def _passing(logits: Tensor, scores: Tensor, where: Fit, thresholds: Thresholds) -> Candidates:
    """Those masks that are stable at the image's size, and not empty there."""
    enlarging = _enlarging(where, logits.device)
    found = measure(logits, *enlarging, thresholds.stability_offset, _masks_at_once(where, logits.device))
    is_kept = (found.stability >= thresholds.stability) & (found.areas > 0)
    return Candidates(logits, scores, found.boxes, found.areas).select(is_kept)


def _without_duplicates(found: Sequence[Candidates], max_iou: float) -> list[Candidates]:
    """The best of every group of masks with overlapping boxes; one pass for all images."""
    counts = [len(one.scores) for one in found]
    device = found[0].boxes.device
    image_idx = torch.repeat_interleave(torch.arange(len(found), device=device), torch.tensor(counts, device=device))
    boxes, scores = torch.cat([one.boxes for one in found]), torch.cat([one.scores for one in found])
    is_kept = torch.zeros(len(scores), dtype=torch.bool, device=device)
    is_kept[distinct(boxes, scores, image_idx, max_iou)] = True
    return [one.select(keep) for one, keep in zip(found, is_kept.split(counts), strict=True)]


def _image_tokens(sam: Sam, embedding: Float[Tensor, "F h w"]) -> ImageTokens:
    unprompted = sam.prompt_encoder.no_mask_embed.weight
    position = sam.prompt_encoder.get_dense_pe()[0]
    tokens = embedding.flatten(1).t() + unprompted
    return ImageTokens(tokens, position.flatten(1).t().contiguous(), (embedding.shape[1], embedding.shape[2]))


def _prompt_tokens(sam: Sam, where: Fit, points: Float32[np.ndarray, "K 2"]) -> Float[Tensor, "K T F"]:
    """Embeddings of single foreground points; never in low precision, which random Fourier features do not survive."""
    to_square = np.array([where.inner[1] / where.size[1], where.inner[0] / where.size[0]])
    placed = torch.from_numpy((points * to_square).astype(np.float32))[:, None].to(sam.device)
    labels = torch.ones(len(points), 1, device=sam.device)
    sparse, _ = sam.prompt_encoder(points=(placed, labels), boxes=None, masks=None)
    return sparse


def _enlarging(where: Fit, device: torch.device) -> tuple[Tensor, Tensor]:
    rows, columns = where.enlarging()
    return rows.to(device), columns.to(device)


def _masks_at_once(where: Fit, device: torch.device) -> int:
    return max(1, _PIXELS_AT_ONCE["cpu" if device.type == "cpu" else "cuda"] // (where.size[0] * where.size[1]))


def _batch(prompt_batch: int, shared: ImageTokens) -> int:
    if shared.tokens.device.type != "cpu":
        return prompt_batch
    return min(prompt_batch, max(1, _CPU_TOKENS // len(shared.tokens)))


def _products_in(precision: torch.dtype, device: torch.device) -> torch.autocast:
    """Matrix products in bfloat16 where asked; autocast keeps norms and softmax in float32."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == torch.bfloat16)
