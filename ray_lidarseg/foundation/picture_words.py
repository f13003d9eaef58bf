"""Classes by pictures instead of words: the mean feature of pictures of each class, for any image teacher.

A teacher without a text tower (DINOv2) gets words this way, and one whose words are weak gets better ones: a picture of
a class lies where pictures lie, and not across the gap between text and images.

Source: the idea is that of IGLOSS (arXiv 2604.01361), which generates its pictures; pooling by mask is ours.
"""

from collections.abc import Iterable, Sequence

import numpy as np
from jaxtyping import Float32, UInt16

from ray_lidarseg import storage
from ray_lidarseg.datasets.evidence import TextEmbeddings
from ray_lidarseg.datasets.image_files import read_rgb
from ray_lidarseg.errors import DataError
from ray_lidarseg.foundation.pooling import pool_segments
from ray_lidarseg.foundation.teachers import ImageTeacher, as_objects

_SUFFIXES = (".png", ".jpg", ".jpeg")
_BATCH = 8
Shown = tuple[np.ndarray, UInt16[np.ndarray, "H W"]]
"""A picture, uint8 [H, W, 3], and for each pixel 1 + its class id, 0 where it shows none."""


def class_prototypes(
    teacher: ImageTeacher, pictures: Iterable[Shown], class_names: Sequence[str], reject_names: Sequence[str] = ()
) -> TextEmbeddings:
    """The unit mean over pictures of the unit mean feature of each class's pixels, where words would be.

    Args:
        teacher: Any.
        pictures: With their classes.
        class_names: Of the C classes.
        reject_names: Of what is shown but none of them, such as sky: ids from C on.

    Returns:
        Unit rows; of a class that no picture shows zeros, which are never the answer.

    Raises:
        DataError: No picture shows any.
    """
    names = (*class_names, *reject_names)
    sums = np.zeros((len(names), teacher.feature_dim))
    for images, classes in _batches(pictures):
        for grid, shown in zip(teacher({"image": as_objects(images)})["features"], classes, strict=True):
            ids, compact = np.unique(shown, return_inverse=True)
            has_none = int(ids[0] == 0)  # pixels of no class keep the number 0
            numbered = (compact.reshape(shown.shape) + 1 - has_none).astype(np.uint16)
            rows = pool_segments(grid, numbered, len(ids) - has_none).astype(np.float64)
            sums[ids[has_none:].astype(np.int64) - 1] += rows
    lengths = np.linalg.norm(sums, axis=1, keepdims=True)
    if not lengths.any():
        raise DataError(f"no picture shows any of {', '.join(names)}")
    embeddings: Float32[np.ndarray, "C F"] = (sums / np.where(lengths, lengths, 1)).astype(np.float32)
    count = len(class_names)
    return TextEmbeddings(embeddings[:count], np.arange(count), tuple(class_names), embeddings[count:])


def pictures_of_folder(folder: str, class_names: Sequence[str]) -> Iterable[Shown]:
    """Pictures that each show one class: ``FOLDER/CLASS/*.png`` or ``.jpg``, a sub-folder a class.

    Raises:
        DataError: A class has no sub-folder or no picture in it, or a picture cannot be read.
    """
    for class_id, name in enumerate(class_names):
        place = storage.join(folder, name)
        files = sorted(file for file in storage.list_files(place) if file.lower().endswith(_SUFFIXES))
        if not files:
            raise DataError(
                f"{place} holds no .png or .jpg: expected pictures of each class in a folder of its name "
                f"({', '.join(class_names)})"
            )
        for file in files:
            image = read_rgb(storage.read_bytes(file), file)
            yield image, np.full(image.shape[:2], class_id + 1, np.uint16)


def _batches(pictures: Iterable[Shown]) -> Iterable[tuple[list[np.ndarray], list[np.ndarray]]]:
    images: list[np.ndarray] = []
    classes: list[np.ndarray] = []
    for image, shown in pictures:
        images.append(image)
        classes.append(shown)
        if len(images) == _BATCH:
            yield images, classes
            images, classes = [], []
    if images:
        yield images, classes
