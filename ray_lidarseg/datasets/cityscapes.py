"""Cityscapes on disk: ``leftImg8bit/SPLIT/CITY/*_leftImg8bit.png`` and, beside it, ``gtFine`` with the labels.

Label images are ``*_gtFine_labelIds.png`` (raw ids, as downloaded) or ``*_gtFine_labelTrainIds.png`` (0 … 18 and 255).
"""

import re
from collections.abc import Iterator
from pathlib import Path

from ray_lidarseg.datasets import image_scans as images
from ray_lidarseg.errors import DataError
from ray_lidarseg.sample import Keyframe

CITYSCAPES = "cityscapes"
_SPLITS = ("train", "val", "test")
_NAME = re.compile(r"(?P<id>.+_(?P<sequence>\d{6})_(?P<number>\d{6}))_leftImg8bit\.png")
_LABELS = ("labelIds", "labelTrainIds")


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
    return images.keyframe(name["id"], CITYSCAPES, city, split, order, (str(file), labels))


def _label_file(folder: Path, name: str) -> str:
    files = [folder / f"{name}_gtFine_{kind}.png" for kind in _LABELS]
    found = next((file for file in files if file.is_file()), None)
    if found is None:
        raise DataError(f"{files[0]} is missing, and so is {files[1].name}: unpack gtFine_trainvaltest.zip beside")
    return str(found)
