"""The eight corruptions of Robo3D, their three severities, and the numbers behind them, on nuScenes and elsewhere.

Numbers that nobody could check carry a doubt, which every result made with them repeats.

Source: Robo3D (ICCV 2023), authors' code for nuScenes-C and SemanticKITTI-C; formulas, not code.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ray_lidarseg.errors import DataError
from ray_lidarseg.recipe.bad_input import nearest, shown

VERSION = 1
"""Raised whenever the same frame is corrupted in another way: results of other versions are not compared."""

SEVERITIES = ("light", "moderate", "heavy")
_SUPPLEMENT = "the severities beyond light are recalled from the paper's supplement; its code states light alone"
_FOCUS = "one focal distance and slope for all channels instead of a calibration of each (ours)"

_Column = Mapping[str, tuple[float, float, float]]

_EVERYWHERE: Mapping[str, _Column] = {
    "fog": {"backscatter_per_m": (0.008, 0.05, 0.2)},
    "wet_ground": {"water_m": (0.0002, 0.001, 0.0012), "noise_floor": (0.3, 0.3, 0.7)},
    "snow": {"snowfall_mm_per_h": (0.5, 1.0, 2.5), "fall_speed_m_per_s": (2.0, 1.6, 1.6)},
    "motion_blur": {"std_m": (0.2, 0.25, 0.3)},
    "beam_missing": {"beams_ratio": (0.25, 0.5, 0.75)},
    "crosstalk": {"points_ratio": (0.006, 0.008, 0.01)},
    "incomplete_echo": {"drop_ratio": (0.75, 0.85, 0.95)},
    "cross_sensor": {"beams_ratio": (0.25, 0.5, 0.75)},
}
_NUSCENES: Mapping[str, _Column] = {
    "wet_ground": {"water_m": (0.0002, 0.001, 0.0012), "noise_floor": (0.2, 0.3, 0.7)},
    "motion_blur": {"std_m": (0.2, 0.3, 0.4)},
    "crosstalk": {"points_ratio": (0.03, 0.07, 0.12)},
}
_DOUBTS = {"snow": _FOCUS}
_NUSCENES_DOUBTS = {"motion_blur": _SUPPLEMENT, "crosstalk": _SUPPLEMENT}

CORRUPTIONS = tuple(_EVERYWHERE)
"""In the order of the published tables."""


@dataclass(frozen=True)
class Setting:
    """One corruption at one severity.

    Attributes:
        corruption: One of ``CORRUPTIONS``.
        severity: One of ``SEVERITIES``.
        values: Its numbers by name, with their unit.
        doubt: Why they are not certain; empty where the authors' code states them.
    """

    corruption: str
    severity: str
    values: Mapping[str, float]
    doubt: str = ""

    @property
    def name(self) -> str:
        """``fog/light``."""
        return f"{self.corruption}/{self.severity}"

    def to_json(self) -> dict[str, Any]:
        """As result files keep it."""
        return {"corruption": self.corruption, "severity": self.severity, **self.values, "doubt": self.doubt}


def setting(dataset: str, corruption: str, severity: str) -> Setting:
    """The numbers of a corruption on a data set.

    Own logs take those of SemanticKITTI, the only ones stated in full; beams are shares of the sensor's.

    Raises:
        DataError: No such corruption or severity; the nearest is named.
    """
    for what, value, known in (("corruption", corruption, CORRUPTIONS), ("severity", severity, SEVERITIES)):
        if value not in known:
            raise DataError(
                f"unknown {what} {shown(value)}: expected one of {', '.join(known)}{nearest(value, set(known))}"
            )
    is_nuscenes = dataset == "nuscenes"
    columns = (_NUSCENES if is_nuscenes else {}).get(corruption, _EVERYWHERE[corruption])
    doubt = _DOUBTS.get(corruption, "")
    if is_nuscenes and severity != SEVERITIES[0]:
        doubt = _NUSCENES_DOUBTS.get(corruption, doubt)
    rank = SEVERITIES.index(severity)
    return Setting(corruption, severity, {name: numbers[rank] for name, numbers in columns.items()}, doubt)


def settings(dataset: str) -> list[Setting]:
    """All 24 of a data set, in the order of the published tables."""
    return [setting(dataset, corruption, severity) for corruption in CORRUPTIONS for severity in SEVERITIES]
