"""The one reader of images that come from outside: pictures as RGB, label images as ids, sizes from the header alone.

Pictures may be grey, 8 or 16 bits deep (the high byte counts), with a palette, with alpha (dropped) or CMYK. The
orientation that EXIF states is obeyed everywhere, since OpenCV, with which cameras are calibrated, and every viewer
obey it: sizes, calibrations and label images refer to the picture as it is shown. Pillow decodes, from a list of
formats, and only after the header's number of pixels has been looked at.
"""

import io
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from jaxtyping import Integer, UInt8
from PIL import Image, UnidentifiedImageError

from ray_lidarseg.errors import DataError

MAX_PIXELS = 1 << 25
"""Larger images are refused before they are decoded: twice the largest cameras of vehicles. Ours."""

_FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "PPM")
_INDEX_MODES = ("1", "L", "P", "I", "I;16", "I;16B", "I;16L")
_WIDE_MODES = ("I", "I;16", "I;16B", "I;16L")
_ORIENTATION = 0x0112
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_SIDEWAYS = (5, 6, 7, 8)


def read_picture(content: bytes, origin: str) -> Image.Image:
    """The whole picture, decoded, as RGB and upright.

    Raises:
        DataError: Empty, truncated, no image, of a kind that has no colours, or too large.
    """
    with _opened(content, origin) as image:
        turn = _TURNS.get(_orientation(image))
        rgb = _high_bytes(image, origin) if image.mode in _WIDE_MODES else image.convert("RGB")
        return rgb.transpose(turn) if turn is not None else rgb


def read_rgb(content: bytes, origin: str) -> UInt8[np.ndarray, "H W 3"]:
    """The pixels of ``read_picture``."""
    return np.asarray(read_picture(content, origin))


def read_ids(content: bytes, origin: str) -> Integer[np.ndarray, "H W"]:
    """The ids of a one-channel image as they are: 1, 8 or 16 bits, or the indices of a palette.

    Raises:
        DataError: See ``read_picture``; or more than one channel.
    """
    with _opened(content, origin) as image:
        if image.mode not in _INDEX_MODES:
            raise DataError(
                f"{origin}: expected one channel of ids (8 or 16 bits, or a palette), got mode {image.mode}; "
                "write ids, not colours"
            )
        turn = _TURNS.get(_orientation(image))
        ids = np.asarray(image.transpose(turn) if turn is not None else image)
    return ids.astype(np.uint8) if ids.dtype == bool else ids


def size_px(content: bytes, origin: str) -> tuple[int, int]:
    """Width and height of the upright picture; nothing is decoded.

    Raises:
        DataError: No image, or too large.
    """
    with _opened(content, origin) as image:
        return image.size[::-1] if _orientation(image) in _SIDEWAYS else image.size


@contextmanager
def _opened(content: bytes, origin: str) -> Iterator[Image.Image]:
    try:
        with Image.open(io.BytesIO(content), formats=_FORMATS) as image:
            if image.width * image.height > MAX_PIXELS:
                raise _too_large(origin, f"{image.width} x {image.height}")
            yield image
    except DataError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise _too_large(origin, "far more") from error
    except UnidentifiedImageError as error:
        raise DataError(f"{origin} is empty or no image: expected a whole PNG or JPEG file") from error
    except Exception as error:  # decoders promise no type for a corrupt file
        reason = " ".join(str(error).split())
        raise DataError(f"{origin} is not a whole image: {reason:.200}; expected a whole PNG or JPEG file") from error


def _too_large(origin: str, number: str) -> DataError:
    return DataError(f"{origin} has {number} pixels, more than the {MAX_PIXELS} we decode: make it smaller")


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # a camera's broken notes are no reason to refuse its picture
        return 1


def _high_bytes(image: Image.Image, origin: str) -> Image.Image:
    values = np.asarray(image).astype(np.int64)
    if values.size and not 0 <= values.min() <= values.max() <= 0xFFFF:
        raise DataError(f"{origin} holds grey levels {values.min()} … {values.max()}: expected 0 … 65535")
    return Image.fromarray((values >> 8).astype(np.uint8)).convert("RGB")
