"""What training does to a picture: a crop, a flip, another brightness. Source: ours."""

from dataclasses import dataclass

import cv2
import numpy as np

from ray_lidarseg.miniature.training_pictures import TruePicture

_WHOLE_RATIO = 0.5
_SMALLEST_CROP_RATIO = 0.45
_ASPECT = (1.0, 2.4)


@dataclass(frozen=True)
class Window:
    """Where a crop lies, pixels; ``flip``: mirrored left to right."""

    top: int
    left: int
    height: int
    width: int
    flip: bool

    def cut(self, plane: np.ndarray) -> np.ndarray:
        """The part of ``plane`` [H, W, …] under the window."""
        part = plane[self.top : self.top + self.height, self.left : self.left + self.width]
        return np.ascontiguousarray(part[:, ::-1] if self.flip else part)


def draw_window(shape: tuple[int, int], rng: np.random.Generator) -> Window:
    """Half the time the whole picture, else a crop at least 45 % as high, between square and 2.4 times as wide."""
    height, width = shape
    flip = bool(rng.random() < 0.5)
    if rng.random() < _WHOLE_RATIO:
        return Window(0, 0, height, width, flip)
    tall = int(height * rng.uniform(_SMALLEST_CROP_RATIO, 1.0))
    wide = min(width, int(tall * rng.uniform(*_ASPECT)))
    return Window(int(rng.integers(height - tall + 1)), int(rng.integers(width - wide + 1)), tall, wide, flip)


def crop(picture: TruePicture, rng: np.random.Generator) -> TruePicture:
    """The picture through a random window, in another light."""
    window = draw_window(picture.classes.shape, rng)
    image = relight(window.cut(picture.image), rng)
    return TruePicture(image, *(window.cut(p) for p in (picture.classes, picture.kitti, picture.segments)))


def relight(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Brightness, contrast and colour cast within 25 %, 20 % and 8 %: uint8 [H, W, 3] to the same."""
    gain = rng.uniform(0.75, 1.25) * rng.uniform(0.92, 1.08, 3)
    contrast = rng.uniform(0.8, 1.2)
    table = np.clip(((np.arange(256)[:, None] - 128) * contrast + 128) * gain, 0, 255).astype(np.uint8)
    return cv2.LUT(image, table.reshape(1, 256, 3))


def resize_classes(plane: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Ids [H, W] at another (height, width), each the one at the centre of its new pixel."""
    rows = ((np.arange(shape[0]) + 0.5) * plane.shape[0] / shape[0]).astype(np.int64)
    columns = ((np.arange(shape[1]) + 0.5) * plane.shape[1] / shape[1]).astype(np.int64)
    return plane[rows[:, None], columns]
