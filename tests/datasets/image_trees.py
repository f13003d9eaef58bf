"""Small image data sets on disk, for the tests of whoever reads them."""

from pathlib import Path

import cv2
import numpy as np

CITIES = (("train", "aachen"), ("train", "bochum"), ("val", "lindau"))
LABEL_IDS = np.array([[7, 23, 23], [26, 0, 11]], np.uint8)
"""road, sky, sky; car, unlabelled, building."""


def write_png(file: Path, pixels: np.ndarray) -> None:
    """RGB [H, W, 3] or ids [H, W]."""
    file.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(file), pixels[..., ::-1] if pixels.ndim == 3 else pixels)


def cityscapes(root: Path, count: int = 2, kind: str = "labelIds", labels: np.ndarray = LABEL_IDS) -> Path:
    """``count`` images of each city, as downloaded; red is the number of the image, and one image of split test."""
    rows, columns = labels.shape
    for split, city in (*CITIES, ("test", "berlin")):
        for number in range(count):
            name = f"{city}_000000_{number:06d}"
            pixels = np.full((rows, columns, 3), (number, 100, 200), np.uint8)
            write_png(root / "leftImg8bit" / split / city / f"{name}_leftImg8bit.png", pixels)
            truth = np.zeros_like(labels) if split == "test" else labels
            write_png(root / "gtFine" / split / city / f"{name}_gtFine_{kind}.png", truth)
    return root
