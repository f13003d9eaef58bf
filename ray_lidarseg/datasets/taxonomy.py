"""Raw data-set ids and class ids: the only place where raw ids exist.

Class ids are 0 … C-1 in memory, everything that is not trained on or evaluated is ``IGNORE``.
Source: nuScenes-lidarseg, SemanticKITTI and Cityscapes label definitions; class order as in LaserMix and the
official evaluations.
"""

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from ray_lidarseg.errors import DataError
from ray_lidarseg.types import IGNORE

_HIGHEST_RAW_ID = 0xFFFF
_UNKNOWN = -1


@dataclass(frozen=True, eq=False)
class Taxonomy:
    """The classes of a data set.

    Attributes:
        name: ``nuscenes``, ``semantickitti``, ``cityscapes`` or ``world-images``.
        class_names: C names in class-id order.
        colours: uint8 [C, 3], RGB of each class in the data set's own palette.
        raw_to_train: Every legal raw id and its class id (IGNORE where it is not one of the C classes).
        train_to_raw: C raw ids as prediction files want them.
    """

    name: str
    class_names: tuple[str, ...]
    colours: np.ndarray
    raw_to_train: dict[int, int]
    train_to_raw: tuple[int, ...]

    @property
    def num_classes(self) -> int:
        """C."""
        return len(self.class_names)

    def to_train(self, raw: np.ndarray) -> np.ndarray:
        """Raw ids [P] (semantic part only) to uint8 class ids [P].

        Raises:
            DataError: Some id is not in the data set's definition; the first such ids are named.
        """
        raw = np.asarray(raw).astype(np.int64, copy=False)
        clipped = np.clip(raw, 0, _HIGHEST_RAW_ID)
        train = np.where(clipped == raw, self._lookup[clipped], _UNKNOWN)
        if (train == _UNKNOWN).any():
            unknown = np.unique(raw[train == _UNKNOWN]).tolist()
            raise DataError(
                f"unknown {self.name} label ids {_some(unknown, 8)}: expected ids among "
                f"{_some(sorted(self.raw_to_train), 40)}; "
                "check that the labels belong to this data set"
            )
        return train.astype(np.uint8)

    def to_raw(self, train: np.ndarray) -> np.ndarray:
        """Class ids [P] to the uint16 ids [P] of prediction files; IGNORE becomes 0.

        Raises:
            DataError: An id is neither a class nor IGNORE.
        """
        table = np.zeros(256, np.uint16)
        table[: self.num_classes] = self.train_to_raw
        train = np.asarray(train).astype(np.int64, copy=False)
        wrong = (train != IGNORE) & ((train < 0) | (train >= self.num_classes))
        if wrong.any():
            raise DataError(f"class ids {np.unique(train[wrong]).tolist()}: expected 0 … {self.num_classes - 1}")
        return table[train]

    @cached_property
    def _lookup(self) -> np.ndarray:
        lookup = np.full(_HIGHEST_RAW_ID + 1, _UNKNOWN, np.int16)
        lookup[list(self.raw_to_train)] = list(self.raw_to_train.values())
        return lookup


def _some(ids: list[int], shown: int) -> str:
    """All of a few, the first of many: a message is no list of ids."""
    return str(ids) if len(ids) <= shown else f"{str(ids[:shown])[:-1]}, …] ({len(ids)} in all)"


_Row = tuple[str, tuple[int, int, int], tuple[int, ...], int]
"""Class name, RGB, raw ids, id in prediction files."""


def _taxonomy(name: str, rows: tuple[_Row, ...], ignored: tuple[int, ...]) -> Taxonomy:
    raw_to_train = dict.fromkeys(ignored, IGNORE)
    raw_to_train |= {raw: train for train, row in enumerate(rows) for raw in row[2]}
    colours = np.array([row[1] for row in rows], np.uint8)
    return Taxonomy(name, tuple(row[0] for row in rows), colours, raw_to_train, tuple(row[3] for row in rows))


# Raw ids as in category.json (the devkit's instructions_lidarseg.md numbers 25-27, 29 and 30 wrongly); RGB as in the
# devkit's colour map; prediction ids 1 … 16 as in the lidarseg benchmark.
NUSCENES = _taxonomy(
    "nuscenes",
    (
        ("barrier", (112, 128, 144), (9,), 1),
        ("bicycle", (220, 20, 60), (14,), 2),
        ("bus", (255, 127, 80), (15, 16), 3),
        ("car", (255, 158, 0), (17,), 4),
        ("construction_vehicle", (233, 150, 70), (18,), 5),
        ("motorcycle", (255, 61, 99), (21,), 6),
        ("pedestrian", (0, 0, 230), (2, 3, 4, 6), 7),
        ("traffic_cone", (47, 79, 79), (12,), 8),
        ("trailer", (255, 140, 0), (22,), 9),
        ("truck", (255, 99, 71), (23,), 10),
        ("driveable_surface", (0, 207, 191), (24,), 11),
        ("other_flat", (175, 0, 75), (25,), 12),
        ("sidewalk", (75, 0, 75), (26,), 13),
        ("terrain", (112, 180, 60), (27,), 14),
        ("manmade", (222, 184, 135), (28,), 15),
        ("vegetation", (0, 175, 0), (30,), 16),
    ),
    ignored=(0, 1, 5, 7, 8, 10, 11, 13, 19, 20, 29, 31),
)

# learning_map and learning_map_inv of semantic-kitti.yaml (there shifted by one with ignore 0); its colours are BGR.
SEMANTICKITTI = _taxonomy(
    "semantickitti",
    (
        ("car", (100, 150, 245), (10, 252), 10),
        ("bicycle", (100, 230, 245), (11,), 11),
        ("motorcycle", (30, 60, 150), (15,), 15),
        ("truck", (80, 30, 180), (18, 258), 18),
        ("other-vehicle", (0, 0, 255), (13, 16, 20, 256, 257, 259), 20),
        ("person", (255, 30, 30), (30, 254), 30),
        ("bicyclist", (255, 40, 200), (31, 253), 31),
        ("motorcyclist", (150, 30, 90), (32, 255), 32),
        ("road", (255, 0, 255), (40, 60), 40),
        ("parking", (255, 150, 255), (44,), 44),
        ("sidewalk", (75, 0, 75), (48,), 48),
        ("other-ground", (175, 0, 75), (49,), 49),
        ("building", (255, 200, 0), (50,), 50),
        ("fence", (255, 120, 50), (51,), 51),
        ("vegetation", (0, 175, 0), (70,), 70),
        ("trunk", (135, 60, 0), (71,), 71),
        ("terrain", (150, 240, 80), (72,), 72),
        ("pole", (255, 240, 150), (80,), 80),
        ("traffic-sign", (255, 0, 0), (81,), 81),
    ),
    ignored=(0, 1, 52, 99),
)

# labelIds, trainIds and colours of the Cityscapes scripts; a licence plate (-1) keeps what lies under it.
CITYSCAPES = _taxonomy(
    "cityscapes",
    (
        ("road", (128, 64, 128), (7,), 7),
        ("sidewalk", (244, 35, 232), (8,), 8),
        ("building", (70, 70, 70), (11,), 11),
        ("wall", (102, 102, 156), (12,), 12),
        ("fence", (190, 153, 153), (13,), 13),
        ("pole", (153, 153, 153), (17,), 17),
        ("traffic light", (250, 170, 30), (19,), 19),
        ("traffic sign", (220, 220, 0), (20,), 20),
        ("vegetation", (107, 142, 35), (21,), 21),
        ("terrain", (152, 251, 152), (22,), 22),
        ("sky", (70, 130, 180), (23,), 23),
        ("person", (220, 20, 60), (24,), 24),
        ("rider", (255, 0, 0), (25,), 25),
        ("car", (0, 0, 142), (26,), 26),
        ("truck", (0, 0, 70), (27,), 27),
        ("bus", (0, 60, 100), (28,), 28),
        ("train", (0, 80, 100), (31,), 31),
        ("motorcycle", (0, 0, 230), (32,), 32),
        ("bicycle", (119, 11, 32), (33,), 33),
    ),
    ignored=(0, 1, 2, 3, 4, 5, 6, 9, 10, 14, 15, 16, 18, 29, 30),
)

CITYSCAPES_TRAIN_IDS = replace(CITYSCAPES, raw_to_train={**{train: train for train in range(19)}, 255: IGNORE})
"""Of files that hold train ids already (``*_labelTrainIds.png``)."""

WORLD_IMAGES = replace(NUSCENES, name="world-images")
"""Label images of the synthetic world hold nuScenes ids; the sky has that of noise."""

_TAXONOMIES = {taxonomy.name: taxonomy for taxonomy in (NUSCENES, SEMANTICKITTI, CITYSCAPES, WORLD_IMAGES)}


def taxonomy_of(dataset: str) -> Taxonomy:
    """The classes of a data set (ScribbleKITTI is SemanticKITTI with other label files).

    Raises:
        DataError: No such data set.
    """
    if dataset not in _TAXONOMIES:
        raise DataError(f"unknown data set {dataset!r}: expected one of {', '.join(sorted(_TAXONOMIES))}")
    return _TAXONOMIES[dataset]
