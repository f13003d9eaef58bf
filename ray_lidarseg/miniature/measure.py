"""How good the miniatures are, on pictures of a world seed they never saw, beside baselines that know nothing.

Everything goes through the teachers that ``prepare`` uses. Source: ours.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch

from ray_lidarseg.datasets.evidence import class_logits
from ray_lidarseg.datasets.nuscenes import CLASSES as NUSCENES
from ray_lidarseg.errors import DataError
from ray_lidarseg.foundation.clip import Clip
from ray_lidarseg.foundation.pooling import pool_segments
from ray_lidarseg.foundation.prompts import Vocabulary, vocabulary
from ray_lidarseg.foundation.sam import Sam
from ray_lidarseg.foundation.settings import SamMasks, SlicMasks
from ray_lidarseg.foundation.slic import Slic
from ray_lidarseg.foundation.teachers import MaskTeacher, TextTeacher, as_objects
from ray_lidarseg.metrics.confusion import Confusion
from ray_lidarseg.miniature.captions import class_name
from ray_lidarseg.miniature.sam_training import answers, prompted
from ray_lidarseg.miniature.training_pictures import SKY, TruePicture
from ray_lidarseg.types import IGNORE

MIN_SEGMENT_PX = 100
"""Smaller true segments are not asked for."""

_PROMPTS = 20
_HIT_IOU = 0.5


@dataclass(frozen=True)
class SegmentQuality:
    """How well index maps contain the true segments of at least ``MIN_SEGMENT_PX`` pixels.

    Attributes:
        recall: Share of them that some segment meets with an IoU of 0.5 or more.
        mean_best_iou: Mean IoU of the best segment for each.
        num_segments: Mean number of segments in a map.
    """

    recall: float
    mean_best_iou: float
    num_segments: float

    def __str__(self) -> str:
        return (
            f"recall at IoU 0.5 {self.recall:.3f}, mean best IoU {self.mean_best_iou:.3f}, "
            f"{self.num_segments:.0f} segments an image"
        )


def segment_quality(maps: Sequence[np.ndarray], truths: Sequence[np.ndarray]) -> SegmentQuality:
    """Compares index maps with true ones.

    Args:
        maps: uint16 [H, W] each, 0 = none.
        truths: uint16 [H, W] each, 0 = none.

    Raises:
        DataError: No true segment is large enough.
    """
    best = np.concatenate([best_ious(found, truth) for found, truth in zip(maps, truths, strict=True)])
    if not len(best):
        raise DataError(f"expected true segments of {MIN_SEGMENT_PX} pixels or more, got none: use larger pictures")
    counts = [len(np.unique(found[found > 0])) for found in maps]
    return SegmentQuality(float((best >= _HIT_IOU).mean()), float(best.mean()), float(np.mean(counts)))


def best_ious(found: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """float64 [T] IoU of the best segment for each true one of at least ``MIN_SEGMENT_PX`` pixels."""
    num_found, num_true = int(found.max()) + 1, int(truth.max()) + 1
    pairs = truth.astype(np.int64) * num_found + found
    both = np.bincount(pairs.ravel(), minlength=num_true * num_found).reshape(num_true, num_found)
    union = both.sum(axis=1, keepdims=True) + both.sum(axis=0, keepdims=True) - both
    iou = both / np.maximum(union, 1)
    iou[:, 0] = 0
    is_large = both.sum(axis=1) >= MIN_SEGMENT_PX
    is_large[0] = False
    return iou[is_large].max(axis=1)


def measure_maps(teacher: MaskTeacher, pictures: Sequence[TruePicture]) -> SegmentQuality:
    """Automatic masks of a teacher against the truth."""
    maps = [teacher({"image": as_objects([entry.image])})["segments"][0] for entry in pictures]
    return segment_quality(maps, [entry.segments for entry in pictures])


@torch.no_grad()
def single_point_ious(teacher: Sam, pictures: Sequence[TruePicture], seed: int = 0) -> tuple[float, float]:
    """Mean IoU of the masks for single points, on the low-resolution raster.

    Returns:
        Of the best of the three answers, and of the one the model itself thinks best.
    """
    rng = np.random.default_rng(seed)
    best, chosen = [], []
    for entry in pictures:
        prompts = prompted(teacher.model, entry, rng, _PROMPTS)
        (said,) = answers(teacher.model, [prompts])
        inside = (said.logits > 0) & prompts.valid
        target = prompts.target[:, None]
        iou = (inside & target).sum((-2, -1)) / (inside | target).sum((-2, -1)).clamp(min=1)
        best.append(iou.max(dim=1).values)
        chosen.append(iou.gather(1, said.predicted_iou.argmax(dim=1, keepdim=True))[:, 0])
    return float(torch.cat(best).mean()), float(torch.cat(chosen).mean())


@dataclass(frozen=True)
class ZeroShot:
    """Zero-shot classification of dense features into the sixteen classes of nuScenes.

    Attributes:
        confusion: Of the pixels.
        num_right: True segments whose pooled feature has the class of most of their pixels.
        num_segments: True segments of at least ``MIN_SEGMENT_PX`` pixels that have a class.
    """

    confusion: Confusion
    num_right: int
    num_segments: int

    @property
    def majority_accuracy(self) -> float:
        """Share of the pixels that have the most frequent class: what always saying that one reaches."""
        counts = self.confusion.counts
        return float(counts.sum(dim=1).max() / counts.sum())

    @property
    def segment_accuracy(self) -> float:
        """Share of the segments."""
        return self.num_right / max(1, self.num_segments)

    def __str__(self) -> str:
        found = enumerate(self.confusion.iou().tolist())
        ious = " ".join(f"{class_name(i)} {100 * iou:.0f}" for i, iou in found if np.isfinite(iou))
        return (
            f"pixel accuracy {self.confusion.accuracy():.3f}, mIoU {self.confusion.miou():.3f}, segment accuracy "
            f"{self.segment_accuracy:.3f} of {self.num_segments}; always the most frequent class: pixel accuracy "
            f"{self.majority_accuracy:.3f}; chance: {1 / SKY:.3f}\nIoU %: {ious}"
        )


def measure_zero_shot(teacher: TextTeacher, pictures: Sequence[TruePicture]) -> ZeroShot:
    """The words of nuScenes against pixels (upsampled logits) and segments (pooled features).

    Args:
        teacher: Dense features with words.
        pictures: With truth; pixels of the sky and without a class count for nothing.
    """
    words = vocabulary(NUSCENES.name)
    text = words.embed(teacher)
    confusion, num_right, num_segments = Confusion(SKY), 0, 0
    for entry in pictures:
        features = teacher({"image": as_objects([entry.image])})["features"][0]
        found = _pixel_classes(features, text, words, entry.classes.shape)
        is_counted = entry.classes < SKY
        confusion.add(entry.classes[is_counted], found[is_counted])
        truth = segment_classes(entry)
        pooled = pool_segments(features, entry.segments, len(truth))
        answer = class_logits(pooled, text, words.class_idx).argmax(axis=1)
        num_right += int((answer == truth)[truth < SKY].sum())
        num_segments += int((truth < SKY).sum())
    return ZeroShot(confusion, num_right, num_segments)


def segment_classes(picture: TruePicture) -> np.ndarray:
    """int64 [N] class of most pixels of each segment; IGNORE below ``MIN_SEGMENT_PX`` pixels, or without a class."""
    num_segments = int(picture.segments.max())
    pairs = picture.segments.astype(np.int64) * 256 + picture.classes
    count = np.bincount(pairs.ravel(), minlength=(num_segments + 1) * 256).reshape(-1, 256)[1:]
    return np.where(count.sum(axis=1) >= MIN_SEGMENT_PX, count.argmax(axis=1), IGNORE)


def _pixel_classes(features: np.ndarray, text: np.ndarray, words: Vocabulary, shape: tuple[int, ...]) -> np.ndarray:
    unit = features / np.maximum(np.linalg.norm(features, axis=-1, keepdims=True), 1e-6)
    logits = class_logits(unit.reshape(-1, unit.shape[-1]), text, words.class_idx).reshape(*unit.shape[:2], -1)
    planes = [cv2.resize(plane, shape[::-1], interpolation=cv2.INTER_LINEAR) for plane in np.moveaxis(logits, -1, 0)]
    return np.stack(planes).argmax(axis=0)


def sam_report(sam: SamMasks, pictures: Sequence[TruePicture]) -> str:
    """The lines of ``measure`` about masks, SLIC beside them."""
    teacher = Sam(sam, "cpu")
    best, chosen = single_point_ious(teacher, pictures)
    lines = [f"SAM, one point: mIoU {best:.3f} (best of three answers), {chosen:.3f} (the answer it thinks best)"]
    lines.append(f"SAM, automatic: {measure_maps(teacher, pictures)}")
    for count in (150, 40):
        lines.append(f"SLIC {count}: {measure_maps(Slic(SlicMasks(num_segments=count), 'cpu'), pictures)}")
    return "\n".join(lines)


def clip_report(clip: Clip, pictures: Sequence[TruePicture]) -> str:
    """The lines of ``measure`` about words."""
    return f"CLIP, zero-shot: {measure_zero_shot(clip, pictures)}"
