"""Raw files to decoded key-frames, of any data set."""

from dataclasses import replace

import numpy as np

from ray_lidarseg.datasets.entries import dataset_named
from ray_lidarseg.recipe.ontology import Ontology
from ray_lidarseg.sample import Keyframe


def decode(frame: Keyframe, ontology: Ontology | None = None) -> Keyframe:
    """Reads and checks a key-frame's scan and labels.

    Non-finite points stay (they belong to the file; training drops them). Intensity is scaled and clipped to [0, 1].

    Args:
        frame: An index row.
        ontology: What the files of own logs hold (``datasets.manifest``); the built-in data sets need none.

    Returns:
        The frame with ``points``, ``labels`` (empty without ``labels_uri``) and ``ring`` (empty where the format has
        none); of an image data set, with its image and ``labels`` (``datasets.image_scans``).

    Raises:
        DataError: A file is empty, truncated, of another layout, its labels do not fit its points, or an id is unknown.
            The message names the file.
        StorageError: A file is missing or cannot be read.
    """
    decoded = decode_unclipped(frame, ontology)
    intensity = decoded.points[:, 3]
    if not ((intensity < 0.0) | (intensity > 1.0)).any():
        return decoded
    return replace(decoded, points=np.column_stack([decoded.points[:, :3], np.clip(intensity, 0.0, 1.0)]))


def decode_unclipped(frame: Keyframe, ontology: Ontology | None = None) -> Keyframe:
    """What ``decode`` gives, with intensities beyond the stated range where the file has them: for checks."""
    return dataset_named(frame.dataset, ontology).decode(frame)
