"""What a pixel may be called: words for whole classes, and words for the kinds of thing inside a class.

A word of the first sort ("manmade", "vegetation") is true for every pixel of its class, one of the second ("pole",
"tree trunk") only for some. Training asks one sort at a time, so that no two words on offer are true for one pixel.
All words of `foundation/prompts.py` are among them: what nobody taught, the text tower would place anywhere. Source:
ours.
"""

from dataclasses import dataclass

import numpy as np

from ray_lidarseg.datasets.nuscenes import CLASSES as NUSCENES
from ray_lidarseg.foundation.prompts import TEMPLATES
from ray_lidarseg.miniature.training_pictures import SKY
from ray_lidarseg.synthetic.kitti_classes import (
    BICYCLIST,
    BUILDING,
    FENCE,
    MOTORCYCLIST,
    OTHER_OBJECT,
    OTHER_STRUCTURE,
    POLE,
    TRAFFIC_SIGN,
    TRUNK,
    VEGETATION,
)
from ray_lidarseg.types import IGNORE

CLASS_WORDS: tuple[tuple[str, ...], ...] = (
    ("barrier", "barricade", "jersey barrier", "road barrier"),
    ("bicycle", "bike"),
    ("bus", "coach", "city bus", "tram"),
    ("car", "sedan", "passenger car", "parked car", "van", "suv"),
    ("construction vehicle", "excavator", "bulldozer", "crane", "concrete mixer", "dump truck", "digger", "tractor"),
    ("motorcycle", "motorbike", "scooter"),
    ("pedestrian", "person", "walking person", "human", "people"),
    ("traffic cone", "cone"),
    ("trailer", "semi trailer", "cargo container", "shipping container", "freight container"),
    ("truck", "lorry", "pickup truck"),
    ("driveable surface", "road", "street", "asphalt", "parking", "parking lot", "parking space", "highway"),
    ("other flat", "other ground", "curb", "traffic island", "traffic median"),
    ("sidewalk", "pavement", "footpath", "walkway"),
    ("terrain", "grass", "grassland", "lawn", "meadow", "turf", "sod", "soil"),
    ("manmade", "man made structure", "structure"),
    ("vegetation", "plants", "greenery"),
    ("sky", "cloud", "blue sky"),
)
"""Words that are true for all pixels of a class: the sixteen of nuScenes in their order, then the sky."""

KIND_WORDS: dict[tuple[int, int], tuple[str, ...]] = {
    (1, BICYCLIST): ("bicyclist", "cyclist", "person riding a bicycle"),
    (5, MOTORCYCLIST): ("motorcyclist", "motorcycle rider", "person riding a motorcycle"),
    (14, BUILDING): ("building", "house", "facade", "skyscraper", "garage"),
    (14, FENCE): ("fence", "wall", "railing", "guard rail"),
    (14, OTHER_STRUCTURE): ("bus shelter", "awning"),
    (14, OTHER_OBJECT): ("traffic light", "planter", "bollard", "bench"),
    (14, POLE): ("pole", "street light", "street lamp", "lamp post", "utility pole"),
    (14, TRAFFIC_SIGN): ("traffic sign", "sign", "road sign"),
    (15, VEGETATION): ("tree", "bush", "shrub", "hedge", "plant", "flower", "woods"),
    (15, TRUNK): ("trunk", "tree trunk"),
}
"""Words for the pixels of (class, SemanticKITTI raw id)."""

_TEMPLATES = (*TEMPLATES, "{}", "there is a {} in the scene.", "this is the {} in the scene.", "the {} of a street.")
"""The sentences that are asked later, and some more."""


@dataclass(frozen=True)
class Meaning:
    """What one column of the answer may be called.

    Attributes:
        words: Any of them.
        class_idx: Class id of nuScenes, or SKY.
    """

    words: tuple[str, ...]
    class_idx: int


CLASSES = tuple(Meaning(words, index) for index, words in enumerate(CLASS_WORDS))
"""One meaning for each class, in class order."""

_KINDS = tuple((key, Meaning(words, key[0])) for key, words in KIND_WORDS.items())
_SPLIT = {class_idx for class_idx, _ in KIND_WORDS} - {1, 5}
_WHOLE = tuple(meaning for meaning in CLASSES if meaning.class_idx not in _SPLIT)
KINDS = (*_WHOLE, *(meaning for _, meaning in _KINDS))
"""One meaning for each class that is one kind of thing, then one for each kind."""


def kinds_of(classes: np.ndarray, kitti: np.ndarray) -> np.ndarray:
    """uint8 [H, W] positions in KINDS; IGNORE where a pixel has no class, or a kind without words.

    Args:
        classes: uint8 [H, W] class ids of nuScenes, SKY or IGNORE.
        kitti: uint8 [H, W] SemanticKITTI raw ids of objects.
    """
    table = np.full((256, 256), IGNORE, np.uint8)
    for position, meaning in enumerate(_WHOLE):
        table[meaning.class_idx] = position
    for position, (key, _) in enumerate(_KINDS, start=len(_WHOLE)):
        table[key] = position
    return table[classes, kitti]


def draw_sentences(meanings: tuple[Meaning, ...], rng: np.random.Generator) -> list[str]:
    """One sentence for each meaning: half the time with its first word, in a template drawn for all of them."""
    template = _TEMPLATES[rng.integers(len(_TEMPLATES))]
    words = [m.words[0] if rng.random() < 0.5 else m.words[rng.integers(len(m.words))] for m in meanings]
    return [template.format(word) for word in words]


def all_words() -> tuple[str, ...]:
    """Every word that was taught, each once."""
    return tuple(dict.fromkeys(word for meaning in (*CLASSES, *KINDS) for word in meaning.words))


def class_name(class_idx: int) -> str:
    """For tables."""
    return "sky" if class_idx == SKY else NUSCENES.class_names[class_idx]
