"""What an image teacher is: a plain class that turns a batch of images into segments or into dense features.

A teacher is built as ``Teacher(settings, device)`` and called with a dict of NumPy arrays, so it is a Ray Data actor
and works without Ray all the same. The key ``image`` holds an object array [B] of uint8 [H, W, 3] RGB images, which may
differ in size.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float32

Batch = Mapping[str, Any]
"""What a teacher reads: ``image``, and for some ``prompts`` or ``uri``; each an object array [B]."""


@runtime_checkable
class MaskTeacher(Protocol):
    """Image to segments."""

    def __call__(self, batch: Batch) -> dict[str, np.ndarray]:
        """Segments of every image.

        Args:
            batch: ``image`` as above; optional ``prompts``, object array [B] of float32 [K, 2] pixels (u, v) LiDAR
                points fall on; optional ``uri``, object array [B] of str, where each image lies.

        Returns:
            ``segments``: object array [B] of uint16 [H, W], ids 1 … N without gaps, 0 where no segment is.
        """
        ...


@runtime_checkable
class ImageTeacher(Protocol):
    """Image to dense features on a patch grid.

    Attributes:
        feature_dim: F.
    """

    feature_dim: int

    def __call__(self, batch: Batch) -> dict[str, np.ndarray]:
        """Features of every image.

        Args:
            batch: ``image`` as above.

        Returns:
            ``features``: object array [B] of float32 [h, w, F]; the h x w patches cover the whole image in equal
            cells; not normalised.
        """
        ...


@runtime_checkable
class TextTeacher(ImageTeacher, Protocol):
    """An image teacher whose features can be compared with words."""

    def embed_text(self, prompts: Sequence[Sequence[str]]) -> Float32[np.ndarray, "K F"]:
        """One unit row for each list of sentences: the mean of their unit embeddings, normalised again."""
        ...


def as_objects(values: Sequence[Any]) -> np.ndarray:
    """Object array [B] of anything (images, prompts, addresses): the form in which batches travel."""
    objects = np.empty(len(values), dtype=object)
    for position, value in enumerate(values):  # assigned at once, arrays of one shape would become one array
        objects[position] = value
    return objects


def in_batches(
    dense: Callable[[Sequence[np.ndarray]], Iterable[np.ndarray]], images: Sequence[np.ndarray], size: int
) -> dict[str, np.ndarray]:
    """The answer of an ``ImageTeacher`` that looks at ``size`` images in one forward, ``dense``."""
    parts = [dense(images[first : first + size]) for first in range(0, len(images), size)]
    return {"features": as_objects([grid for part in parts for grid in part])}
