"""Raw data-set ids and class ids.

Class ids are 0 … C-1 in memory, everything that is not trained on or evaluated is ``IGNORE``.
Class order as in LaserMix and the official evaluations.
"""

from dataclasses import dataclass
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
        name: Of the data set, or of the ontology.
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


Row = tuple[str, tuple[int, int, int], tuple[int, ...], int]
"""Class name, RGB, raw ids, id in prediction files."""


def taxonomy(name: str, rows: tuple[Row, ...], ignored: tuple[int, ...]) -> Taxonomy:
    """The classes of a table, in its order; raw ids that no row holds and that are not ignored are unknown."""
    raw_to_train = dict.fromkeys(ignored, IGNORE)
    raw_to_train |= {raw: train for train, row in enumerate(rows) for raw in row[2]}
    colours = np.array([row[1] for row in rows], np.uint8)
    return Taxonomy(name, tuple(row[0] for row in rows), colours, raw_to_train, tuple(row[3] for row in rows))
