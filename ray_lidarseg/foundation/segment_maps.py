"""Segment maps: uint16 [H, W] index images, 1 … N without gaps, 0 where no segment is; and their PNG bytes."""

import io

import numpy as np
from jaxtyping import UInt16
from PIL import Image

from ray_lidarseg.datasets.image_files import read_ids
from ray_lidarseg.errors import DataError

MAX_SEGMENTS = 0xFFFF


def encode_map(segments: UInt16[np.ndarray, "H W"]) -> bytes:
    """Lossless 16-bit PNG."""
    file = io.BytesIO()
    Image.fromarray(segments).save(file, "PNG")
    return file.getvalue()


def decode_map(png: bytes, origin: str = "segment map") -> UInt16[np.ndarray, "H W"]:
    """The inverse of ``encode_map``; maps of other writers may have 1, 8 or 16 bits or a palette.

    Args:
        png: The encoded file.
        origin: What the message calls it.

    Raises:
        DataError: Not an image, truncated, or more than one channel.
    """
    return require_ids(read_ids(png, origin), origin)


def require_ids(ids: np.ndarray, origin: str) -> UInt16[np.ndarray, "H W"]:
    """The same ids as uint16.

    Raises:
        DataError: Not a [H, W] array of integers within 0 … 65535.
    """
    if ids.ndim != 2 or not np.issubdtype(ids.dtype, np.integer):
        raise DataError(f"{origin}: expected integer ids [H, W], got {ids.dtype} {list(ids.shape)}")
    lowest, highest = (int(ids.min()), int(ids.max())) if ids.size else (0, 0)
    if lowest < 0 or highest > MAX_SEGMENTS:
        raise DataError(
            f"{origin}: expected ids 0 (no segment) … {MAX_SEGMENTS}, got {lowest} … {highest}; "
            "number the segments anew"
        )
    return ids.astype(np.uint16, copy=False)


def renumbered(segments: UInt16[np.ndarray, "H W"]) -> UInt16[np.ndarray, "H W"]:
    """The same segments with ids 1 … N without gaps, in the order of the old ids; 0 stays 0."""
    is_used = np.bincount(segments.ravel(), minlength=MAX_SEGMENTS + 1) > 0
    is_used[0] = False
    new_ids = np.where(is_used, np.cumsum(is_used), 0).astype(np.uint16)
    return new_ids[segments]


def count_segments(segments: UInt16[np.ndarray, "H W"]) -> int:
    """N of a map without gaps: its highest id."""
    return int(segments.max(initial=0))
