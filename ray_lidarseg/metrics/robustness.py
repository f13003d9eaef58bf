"""How much of a model is left under corruption: CE and RR of each one, mCE and mRR over all.

With a the mean IoU over the severities of a corruption, b that of a baseline, and c the model's on clean scans::

    CE = (1 - a) / (1 - b)      mCE: mean over corruptions, lower is better, the baseline has 1
    RR = a / c                  mRR: mean over corruptions, higher is better

Source: Robo3D (ICCV 2023) and its published tables.
"""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ray_lidarseg.datasets.corruptions.severities import CORRUPTIONS
from ray_lidarseg.errors import DataError
from ray_lidarseg.recipe.bad_input import nearest, shown


@dataclass(frozen=True)
class Baseline:
    """What a model's errors are divided by.

    Attributes:
        name: As results name it.
        dataset: Whose frames it was measured on.
        frames: How many validation frames, or their digest: other frames are no basis of comparison.
        miou_ratio: Mean IoU over the severities of each corruption, in [0, 1].
    """

    name: str
    dataset: str
    frames: int | str
    miou_ratio: Mapping[str, float]


def _published(dataset: str, frames: int, *percent: float) -> Baseline:
    ratios = {name: value / 100 for name, value in zip(CORRUPTIONS, percent, strict=True)}
    return Baseline("minkunet18", dataset, frames, ratios)


PUBLISHED = (
    _published("nuscenes", 6019, 53.64, 73.91, 40.35, 73.39, 68.54, 26.58, 63.83, 50.95),
    _published("semantickitti", 4071, 55.87, 53.99, 53.28, 32.92, 56.32, 58.34, 54.43, 46.05),
)
"""MinkUNet18 on nuScenes-C and SemanticKITTI-C, for the official validation frames alone."""


@dataclass(frozen=True)
class Robustness:
    """Ratios of one model; 1 is 100 %.

    Attributes:
        resilience: RR of each corruption; None where the clean mean IoU is 0.
        mrr_ratio: Their mean.
        error: CE of each corruption; None without a baseline, or where the baseline makes no error.
        mce_ratio: Their mean.
    """

    resilience: dict[str, float | None]
    mrr_ratio: float | None
    error: dict[str, float | None]
    mce_ratio: float | None


def published_baseline(name: str, dataset: str, num_frames: int) -> Baseline:
    """A published table for a data set.

    Args:
        name: ``minkunet18``.
        dataset: Of the frames that were scored.
        num_frames: How many of them.

    Raises:
        DataError: No such table, none for that data set, or other frames than the official validation set.
    """
    known = sorted({baseline.name for baseline in PUBLISHED})
    if name not in known:
        raise DataError(
            f"unknown baseline {shown(name)}: expected the folder of a run that `ray-lidarseg evaluate --robustness` "
            f"has scored, or one of {', '.join(known)}{nearest(name, set(known))}"
        )
    found = {baseline.dataset: baseline for baseline in PUBLISHED if baseline.name == name}
    if dataset not in found:
        raise DataError(f"baseline {name} is of {' and '.join(found)}, not of {dataset}: give a run on its frames")
    if found[dataset].frames != num_frames:
        raise DataError(
            f"baseline {name} is of the {found[dataset].frames:,} official validation frames of {dataset}, and these "
            f"are {num_frames:,} frames: numbers of other frames cannot be compared; give a run on the same ones"
        )
    return found[dataset]


def robustness(
    clean_ratio: float, miou_ratio: Mapping[str, Sequence[float]], baseline: Baseline | None = None
) -> Robustness:
    """The ratios of a model.

    Args:
        clean_ratio: Mean IoU on clean scans, in [0, 1].
        miou_ratio: Mean IoU at each severity of each corruption; one number where only the mean is known.
        baseline: Without one there are no errors, as they have no unit.

    Raises:
        DataError: The baseline lacks a corruption.
    """
    mean = {name: statistics.fmean(values) for name, values in miou_ratio.items()}
    resilience = {name: value / clean_ratio if clean_ratio else None for name, value in mean.items()}
    error: dict[str, float | None] = {}
    if baseline is not None:
        if missing := [name for name in mean if name not in baseline.miou_ratio]:
            raise DataError(f"baseline {baseline.name} has no {', '.join(missing)}: evaluate it again")
        rest = {name: 1 - baseline.miou_ratio[name] for name in mean}
        error = {name: (1 - value) / rest[name] if rest[name] else None for name, value in mean.items()}
    return Robustness(resilience, _mean(resilience), error, _mean(error))


def _mean(values: Mapping[str, float | None]) -> float | None:
    known = [value for value in values.values() if value is not None]
    return statistics.fmean(known) if known and len(known) == len(values) else None
