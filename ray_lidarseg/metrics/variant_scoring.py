"""Scores of a segmentor on clean scans and under every corruption, in one pass over the frames."""

from collections.abc import Sequence

import torch

from ray_lidarseg.datasets.corruptions.corrupt import corrupt
from ray_lidarseg.datasets.corruptions.severities import CORRUPTIONS, SEVERITIES, settings
from ray_lidarseg.datasets.spec import DatasetSpec
from ray_lidarseg.metrics.scoring import Scores, score
from ray_lidarseg.models.segmentor import Segmentor
from ray_lidarseg.sample import Keyframe, SensorSpec

CLEAN = "clean"
VARIANTS = (CLEAN, *(f"{corruption}/{severity}" for corruption in CORRUPTIONS for severity in SEVERITIES))
"""Names of the 25 forms in which each frame is scored."""


def score_variants(
    segmentor: Segmentor,
    frames: Sequence[Keyframe],
    dataset: DatasetSpec,
    sensor: SensorSpec,
    use_intensity: bool = True,
    device: torch.device | str = "cpu",
    batch: int = 1,
) -> dict[str, Scores]:
    """Counts of decoded, labelled key-frames under each of ``VARIANTS``; see ``scoring.score``.

    Points that a corruption adds or throws off have no label and are not counted; those it deletes are gone.

    Raises:
        DataError: A frame without labels, or an image.
    """
    scores = {CLEAN: score(segmentor, frames, sensor, segmentor.num_classes, use_intensity, device, batch)}
    for setting in settings(dataset.name):
        changed = (corrupt(frame, setting, dataset, sensor) for frame in frames)
        scores[setting.name] = score(segmentor, changed, sensor, segmentor.num_classes, use_intensity, device, batch)
    return scores


def merged(parts: Sequence[dict[str, Scores]]) -> dict[str, Scores]:
    """The counts of several groups of frames together; at least one."""
    first, *others = parts
    for part in others:
        for name, scores in part.items():
            first[name].merge(scores)
    return first
