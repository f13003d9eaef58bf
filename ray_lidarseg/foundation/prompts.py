"""Classes in words: names and synonyms of each class, sentences made of them, and the logits that follow.

nuScenes: the 43 detailed names OpenScene (Peng et al., CVPR 2023) maps to the 16 classes. SemanticKITTI: its class
names and synonyms of ours in the same manner (papers list the 19 names alone). An own data set: the names and synonyms
of its ontology. An image feature's logit for a class is its highest cosine over the class's words (OpenScene: argmax
over all words, then the class of that word).

The sentences are ours: a handful about driving scenes instead of CLIP's 80 for ImageNet, whose sculptures and origami
do not occur on roads. ``features.templates`` replaces them; OpenScene's is ``a {} in a scene``.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from jaxtyping import Float, Float32, Int64

from ray_lidarseg.datasets.taxonomy import NUSCENES, SEMANTICKITTI
from ray_lidarseg.errors import DataError
from ray_lidarseg.foundation.teachers import TextTeacher
from ray_lidarseg.recipe.ontology import Ontology

TEMPLATES: Final = (
    "a {}.",
    "a photo of a {}.",
    "a photo of the {} on a street.",
    "a {} in a scene",
    "a picture of a {} taken from a car.",
    "a blurry photo of a {}.",
    "a dark photo of a {}.",
    "a {} far away.",
)

NUSCENES_WORDS: Final[Mapping[str, tuple[str, ...]]] = {  # OpenScene's code
    "barrier": ("barrier", "barricade"),
    "bicycle": ("bicycle",),
    "bus": ("bus",),
    "car": ("car",),
    "construction_vehicle": ("bulldozer", "excavator", "concrete mixer", "crane", "dump truck"),
    "motorcycle": ("motorcycle",),
    "pedestrian": ("person", "pedestrian"),
    "traffic_cone": ("traffic cone",),
    "trailer": ("trailer", "semi trailer", "cargo container", "shipping container", "freight container"),
    "truck": ("truck",),
    "driveable_surface": ("road",),
    "other_flat": ("curb", "traffic island", "traffic median"),
    "sidewalk": ("sidewalk",),
    "terrain": ("grass", "grassland", "lawn", "meadow", "turf", "sod"),
    "manmade": ("building", "wall", "pole", "awning"),
    "vegetation": ("tree", "trunk", "tree trunk", "bush", "shrub", "plant", "flower", "woods"),
}

SEMANTICKITTI_WORDS: Final[Mapping[str, tuple[str, ...]]] = {  # ours
    "car": ("car",),
    "bicycle": ("bicycle",),
    "motorcycle": ("motorcycle",),
    "truck": ("truck",),
    "other-vehicle": ("bus", "tram", "trailer", "van", "tractor"),
    "person": ("person", "pedestrian"),
    "bicyclist": ("bicyclist", "person riding a bicycle"),
    "motorcyclist": ("motorcyclist", "person riding a motorcycle"),
    "road": ("road",),
    "parking": ("parking lot", "parking space"),
    "sidewalk": ("sidewalk",),
    "other-ground": ("traffic island", "traffic median", "curb"),
    "building": ("building", "house", "wall", "garage"),
    "fence": ("fence", "railing"),
    "vegetation": ("tree", "bush", "shrub", "hedge", "plant"),
    "trunk": ("tree trunk",),
    "terrain": ("grass", "lawn", "meadow", "soil"),
    "pole": ("pole", "street light"),
    "traffic-sign": ("traffic sign",),
}


@dataclass(frozen=True, eq=False)
class Vocabulary:
    """Words of the classes, all in one list.

    Attributes:
        words: K names and synonyms, those of a class together, in class order.
        class_idx: [K] class of each word, ascending; every class has at least one.
    """

    words: tuple[str, ...]
    class_idx: Int64[np.ndarray, "K"]

    @property
    def num_classes(self) -> int:
        """C."""
        return int(self.class_idx[-1]) + 1

    def prompts(self, templates: Sequence[str] | None = None) -> list[list[str]]:
        """Sentences of each word; None: this module's templates."""
        return [[template.replace("{}", word) for template in templates or TEMPLATES] for word in self.words]

    def embed(self, teacher: TextTeacher, templates: Sequence[str] | None = None) -> Float32[np.ndarray, "K F"]:
        """Unit row of each word."""
        return teacher.embed_text(self.prompts(templates))


def vocabulary(dataset: str, ontology: Ontology | None = None) -> Vocabulary:
    """Words of a data set's classes, in class-id order.

    Args:
        dataset: ``nuscenes``, ``semantickitti`` or ``manifest``.
        ontology: Of an own data set; each class brings its name and its synonyms.

    Raises:
        DataError: An own data set without its ontology, or an unknown one.
    """
    if ontology is not None:
        return vocabulary_of([(entry.name, *entry.synonyms) for entry in ontology.classes])
    tables = {NUSCENES.name: (NUSCENES, NUSCENES_WORDS), SEMANTICKITTI.name: (SEMANTICKITTI, SEMANTICKITTI_WORDS)}
    if dataset not in tables:
        raise DataError(
            f"no words for the classes of data set {dataset!r}: expected one of {', '.join(tables)}, or an ontology "
            "(the YAML file with names and synonyms of the classes)"
        )
    taxonomy, words = tables[dataset]
    return vocabulary_of([words[name] for name in taxonomy.class_names])


def vocabulary_of(words_of_classes: Sequence[Sequence[str]]) -> Vocabulary:
    """Words given class by class; underscores and hyphens become spaces, repeated words of a class count once.

    Raises:
        DataError: A class without a word, or no class at all.
    """
    plain = [tuple(dict.fromkeys(_plain(word) for word in words if _plain(word))) for words in words_of_classes]
    if not plain or not all(plain):
        without = [position for position, words in enumerate(plain) if not words]
        raise DataError(f"expected at least one word for every class, got none for classes {without}")
    class_idx = np.repeat(np.arange(len(plain)), [len(words) for words in plain])
    return Vocabulary(tuple(word for words in plain for word in words), class_idx.astype(np.int64))


def class_logits(
    features: Float[np.ndarray, "N F"], embeddings: Float[np.ndarray, "K _"], class_idx: Int64[np.ndarray, "K"]
) -> Float32[np.ndarray, "N C"]:
    """Cosine of each feature with each class: the highest over the class's words.

    Args:
        features: Unit rows; a zero row (nothing known) gets zeros.
        embeddings: Unit row of each word.
        class_idx: Class of each word, ascending, every class at least once.

    Raises:
        DataError: Features and words differ in dimension, or the classes have gaps or are not in order.
    """
    if features.shape[1] != embeddings.shape[1]:
        raise DataError(
            f"features have {features.shape[1]} values, embedded words {embeddings.shape[1]}: "
            "both must come from the same teacher; prepare the features again"
        )
    first_word = np.flatnonzero(np.diff(class_idx, prepend=-1))
    if not np.array_equal(class_idx[first_word], np.arange(len(first_word))):
        raise DataError(f"expected words in class order without gaps, got classes {class_idx.tolist()}")
    cosine = features.astype(np.float32) @ embeddings.astype(np.float32).T
    return np.maximum.reduceat(cosine, first_word, axis=1)


def _plain(word: str) -> str:
    return " ".join(word.replace("_", " ").replace("-", " ").split())
