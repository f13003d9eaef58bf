"""From an ontology to the taxonomy and the LiDAR that every other part works with."""

import colorsys
import math
import re
from collections.abc import Collection

import numpy as np

from ray_lidarseg.datasets.taxonomy import Taxonomy
from ray_lidarseg.recipe.ontology import Ontology
from ray_lidarseg.sample import SensorSpec
from ray_lidarseg.types import IGNORE

_GOLDEN_RATIO = (math.sqrt(5.0) - 1.0) / 2.0  # steps of it around the hue circle keep any number of hues apart

GROUND_WORDS = frozenset(
    {"road", "street", "driveable", "drivable", "sidewalk", "pavement", "parking", "crosswalk", "lane", "asphalt"}
    | {"concrete", "ground", "flat"}
)
"""Words in the names of classes that one drives or walks on. Ours."""

STANDING_WORDS = frozenset(
    {"sign", "signs", "signal", "light", "lights", "lamp", "lamps", "pole", "poles", "meter", "barrier", "bollard"}
    | {"furniture", "user", "users", "vehicle", "vehicles", "cone", "cones", "wall", "walls"}
)
"""Words beside one of ground that make another thing of it: a road sign, a street lamp, a parking meter. Ours."""

VEHICLE_WORDS = frozenset(
    {"car", "truck", "bus", "van", "bicycle", "bike", "motorcycle", "motorbike", "trailer", "vehicle", "vehicles"}
    | {"tractor", "excavator"}
)
"""Words in the names of classes that have wheels. Ours."""

PLACE_WORDS = frozenset({"lane", "lanes", "parking", "park", "path", "track", "stop", "rack", "wash"})
"""Words beside one of vehicles that make a place of it: a bus lane, a car park, a bicycle rack. Ours."""


def named(ontology: Ontology, words: Collection[str], without: Collection[str] = ()) -> tuple[int, ...]:
    """Class ids of which a name holds one of these words (``other-ground`` holds ``ground``), and none of the others.

    Args:
        ontology: Its classes have names and synonyms.
        words: Wanted.
        without: Words that make another thing of it.
    """
    names = (
        [set(re.split(r"[^a-z]+", each.lower())) for each in (entry.name, *entry.synonyms)]
        for entry in ontology.classes
    )
    return tuple(
        train
        for train, each in enumerate(names)
        if any(not name.isdisjoint(words) and name.isdisjoint(without) for name in each)
    )


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
        height_m=given.height_m,
    )


def _colour(train: int) -> tuple[int, int, int]:
    red, green, blue = colorsys.hsv_to_rgb(train * _GOLDEN_RATIO % 1.0, 0.7, 0.95)
    return round(255 * red), round(255 * green), round(255 * blue)
