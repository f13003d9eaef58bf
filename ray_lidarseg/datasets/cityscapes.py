"""Cityscapes on disk: ``leftImg8bit/SPLIT/CITY/*_leftImg8bit.png`` and, beside it, ``gtFine`` with the labels.

Label images are ``*_gtFine_labelIds.png`` (raw ids, as downloaded) or ``*_gtFine_labelTrainIds.png`` (0 … 18 and 255).
"""

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from ray_lidarseg.datasets import image_scans as images
from ray_lidarseg.datasets.folders import data_root
from ray_lidarseg.datasets.spec import DatasetSpec
from ray_lidarseg.datasets.taxonomy import taxonomy
from ray_lidarseg.errors import DataError
from ray_lidarseg.sample import Keyframe
from ray_lidarseg.types import IGNORE

NAME = "cityscapes"
_SPLITS = ("train", "val", "test")
_NAME = re.compile(r"(?P<id>.+_(?P<sequence>\d{6})_(?P<number>\d{6}))_leftImg8bit\.png")
_LABELS = ("labelIds", "labelTrainIds")
_TRAIN_IDS = "_labelTrainIds.png"

# labelIds, trainIds and colours of the Cityscapes scripts; a licence plate (-1) keeps what lies under it.
CLASSES = taxonomy(
    NAME,
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

_CLASSES_OF_TRAIN_IDS = replace(CLASSES, raw_to_train={**{train: train for train in range(19)}, 255: IGNORE})
"""Of files that hold train ids already."""


def index(root: str) -> Iterator[Keyframe]:
    """Lists the images, by path; a frame's id is its name (``aachen_000000_000019``), its scene the city.

    The labels of split test are withheld, so those files (all ignored) are not listed.

    Args:
        root: Holds ``leftImg8bit`` and ``gtFine``.

    Raises:
        DataError: There is no ``leftImg8bit``, an image has another name, or an image to train or validate on has no
            labels.
    """
    folder = Path(root) / "leftImg8bit"
    if not folder.is_dir():
        raise DataError(f"{root} holds no folder leftImg8bit: expected the root of Cityscapes, with gtFine beside it")
    for split in _SPLITS:
        for file in sorted((folder / split).glob("*/*.png")):
            yield _keyframe(Path(root), split, file)


def _keyframe(root: Path, split: str, file: Path) -> Keyframe:
    name, city = _NAME.fullmatch(file.name), file.parent.name
    if name is None:
        raise DataError(f"{file}: expected a name like aachen_000000_000019_leftImg8bit.png")
    order = int(name["sequence"]) * 1_000_000 + int(name["number"])  # no times are given, only an order
    labels = "" if split == "test" else _label_file(root / "gtFine" / split / city, name["id"])
    return images.keyframe(name["id"], NAME, city, split, order, (str(file), labels))


def _label_file(folder: Path, name: str) -> str:
    files = [folder / f"{name}_gtFine_{kind}.png" for kind in _LABELS]
    found = next((file for file in files if file.is_file()), None)
    if found is None:
        raise DataError(f"{files[0]} is missing, and so is {files[1].name}: unpack gtFine_trainvaltest.zip beside")
    return str(found)


def decode(frame: Keyframe) -> Keyframe:
    """An index row with its image and labels; see ``image_scans.decode``."""
    ids = _CLASSES_OF_TRAIN_IDS if frame.labels_uri.endswith(_TRAIN_IDS) else CLASSES
    return images.decode(frame, ids)


SPEC = DatasetSpec(
    name=NAME,
    taxonomy=CLASSES,
    sensor=images.pseudo_camera(512, 1024),  # half the stored size
    index=lambda root, _: index(data_root(root, NAME)),
    decode=decode,
)
