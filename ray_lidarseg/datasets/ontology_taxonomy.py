"""From an ontology to the taxonomy, the LiDAR and the mIoU rule that every other part works with."""

import colorsys
import math
from typing import Literal

import numpy as np

from ray_lidarseg.datasets.points import usable
from ray_lidarseg.datasets.taxonomy import Taxonomy, taxonomy_of
from ray_lidarseg.errors import DataError
from ray_lidarseg.recipe.ontology import Ontology
from ray_lidarseg.recipe.schema import Data
from ray_lidarseg.sample import Keyframe, SensorSpec
from ray_lidarseg.types import IGNORE

MANIFEST = "manifest"
"""``Keyframe.dataset`` and ``data.dataset`` of own logs; their classes and LiDAR come from an ontology."""

_GOLDEN_RATIO = (math.sqrt(5.0) - 1.0) / 2.0  # steps of it around the hue circle keep any number of hues apart


def taxonomy(ontology: Ontology) -> Taxonomy:
    """The classes, in the ontology's order; prediction files hold each class's first raw id."""
    raw_to_train = dict.fromkeys(ontology.ignore_raw_ids, IGNORE)
    raw_to_train |= {raw: train for train, entry in enumerate(ontology.classes) for raw in entry.raw_ids}
    colours = [entry.colour or _colour(train) for train, entry in enumerate(ontology.classes)]
    return Taxonomy(
        name=ontology.name,
        class_names=tuple(entry.name for entry in ontology.classes),
        colours=np.array(colours, np.uint8),
        raw_to_train=raw_to_train,
        train_to_raw=tuple(entry.raw_ids[0] for entry in ontology.classes),
    )


def sensor(ontology: Ontology) -> SensorSpec:
    """The LiDAR in radians; without intensity its scale is 0."""
    given = ontology.sensor
    return SensorSpec(
        num_beams=given.num_beams,
        fov_up_rad=math.radians(given.fov_up_deg),
        fov_down_rad=math.radians(given.fov_down_deg),
        min_range_m=given.min_range_m,
        max_range_m=given.max_range_m,
        intensity_scale=0.0 if given.intensity == "none" else 1.0 / (given.intensity[1] - given.intensity[0]),
    )


def required(data: Data) -> Ontology:
    """The ontology of a recipe's data.

    Raises:
        DataError: There is none.
    """
    if data.ontology is None:
        raise DataError(
            f"data.dataset={data.dataset} needs data.ontology: `ray-lidarseg train` fills it in from data.prepared"
        )
    return data.ontology


def taxonomy_for(data: Data) -> Taxonomy:
    """The classes a recipe's models predict: of the data set, or of the ontology."""
    return taxonomy(required(data)) if data.dataset == MANIFEST else taxonomy_of(data.dataset)


def absent_class(data: Data) -> Literal["skip", "zero"]:
    """What a class in neither truth nor prediction counts in mIoU: by the data set's benchmark, or by the ontology.

    nuScenes-lidarseg leaves it out of the mean, SemanticKITTI counts it as 0.
    """
    if data.dataset == MANIFEST:
        return required(data).absent_class
    return "zero" if data.dataset == "semantickitti" else "skip"


def dataset_name(data: Data) -> str:
    """What tables call the data: the data set, or the ontology."""
    return data.ontology.name if data.ontology else data.dataset


def doubts(frame: Keyframe, ontology: Ontology) -> list[str]:
    """What in a decoded scan contradicts the ontology's sensor; each is worth a look, none is an error.

    The limits are ours: wide enough for every real scan we have, narrow enough for wrong units, axes and ranges.
    """
    spec = sensor(ontology)
    points = frame.points[usable(frame.points, spec, use_intensity=False)]
    if not len(points):
        return [f"no point lies beyond min_range_m={spec.min_range_m:g}: are the points in metres?"]
    range_m = np.linalg.norm(points[:, :3], axis=1)
    found = [_doubt_fov(points, range_m, ontology), _doubt_range(range_m, spec), _doubt_height(points, ontology)]
    if ontology.sensor.intensity != "none":
        found.append(_doubt_intensity(points[:, 3]))
    return [doubt for doubt in found if doubt]


def _doubt_fov(points: np.ndarray, range_m: np.ndarray, ontology: Ontology) -> str:
    inclination_deg = np.degrees(np.arcsin(points[:, 2] / range_m))
    down_deg, up_deg = ontology.sensor.fov_down_deg, ontology.sensor.fov_up_deg
    outside_ratio = np.mean((inclination_deg < down_deg - 1.0) | (inclination_deg > up_deg + 1.0))
    low, high = np.percentile(inclination_deg, (1, 99))
    if outside_ratio > 0.05:
        return (
            f"{outside_ratio:.0%} of the points lie outside {down_deg:g} … {up_deg:g} deg, they reach from {low:.1f} "
            f"to {high:.1f}: check fov_up_deg, fov_down_deg and axes"
        )
    return ""


def _doubt_range(range_m: np.ndarray, spec: SensorSpec) -> str:
    beyond_ratio = np.mean(range_m > spec.max_range_m)
    if beyond_ratio > 0.05:
        return f"{beyond_ratio:.0%} of the points lie beyond max_range_m={spec.max_range_m:g}: check it, and the unit"
    return ""


def _doubt_height(points: np.ndarray, ontology: Ontology) -> str:
    """The ground around the vehicle: the lowest tenth of the points within 20 m, by its median."""
    height_m = ontology.sensor.height_m
    near = points[np.hypot(points[:, 0], points[:, 1]) < 20.0, 2]
    if height_m is None or not len(near):
        return ""
    ground_m = -np.percentile(near, 5)
    if abs(ground_m - height_m) > 0.7:
        return f"the ground lies about {ground_m:.1f} m below the sensor, height_m is {height_m:g}: check it, and axes"
    return ""


def _doubt_intensity(intensity: np.ndarray) -> str:
    intensity = intensity[np.isfinite(intensity)]
    if not len(intensity):
        return "no intensity is finite: set sensor.intensity to none"
    high, clipped_ratio = np.percentile(intensity, 99), np.mean(intensity >= 1.0)
    if clipped_ratio > 0.05:
        return f"{clipped_ratio:.0%} of the intensities are at or above the given range: check sensor.intensity"
    if high < 0.02:
        return f"99 % of the intensities use {high:.2%} of the given range: check sensor.intensity, or set it to none"
    return ""


def _colour(train: int) -> tuple[int, int, int]:
    red, green, blue = colorsys.hsv_to_rgb(train * _GOLDEN_RATIO % 1.0, 0.7, 0.95)
    return round(255 * red), round(255 * green), round(255 * blue)
