"""Classes in words: names and synonyms of each class, and sentences made of them.

The words are the data set's own (``DatasetSpec.words``).

The sentences are ours: a handful about driving scenes instead of CLIP's 80 for ImageNet, whose sculptures and origami
do not occur on roads. ``features.templates`` replaces them; OpenScene's is ``a {} in a scene``.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from jaxtyping import Float32, Int64

from ray_lidarseg.datasets.entries import dataset_named
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
        dataset: Its name.
        ontology: Of an own data set; each class brings its name and its synonyms.

    Raises:
        DataError: An own data set without its ontology, one without words, or an unknown one.
    """
    spec = dataset_named(dataset, ontology)
    if not spec.words:
        raise DataError(f"no words for the classes of data set {dataset!r}: its file in datasets/ names none")
    return vocabulary_of([spec.words[name] for name in spec.taxonomy.class_names])


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


def _plain(word: str) -> str:
    return " ".join(word.replace("_", " ").replace("-", " ").split())
