"""Pictures of what image teachers say, as RGB arrays: masks, pooled features, labels of points on an image."""

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Integer, UInt8, UInt16
from matplotlib.colors import hsv_to_rgb

from ray_lidarseg.datasets.image_files import read_picture
from ray_lidarseg.report.pictures import UNKNOWN, WHITE, dots

_GOLDEN_RATIO = (math.sqrt(5.0) - 1.0) / 2.0  # steps of it around the hue circle keep neighbouring ids apart
_MAX_ROWS = 20_000  # of a principal component analysis; more change no colour one could see
_TAILS_PERCENT = (2.0, 98.0)  # of each component; a few outliers would leave all others grey
_DOT_RADII_PX = ((0.01, 2), (0.08, 1))  # up to so many points a pixel: so large dots; more: single pixels


def read_photo(content: bytes, width_px: int) -> UInt8[np.ndarray, "H W 3"]:
    """An encoded image at the width of the page's pictures.

    Raises:
        DataError: It is no image.
    """
    picture = read_picture(content, "the image")
    height_px = max(1, round(picture.height * width_px / picture.width))
    return np.array(picture.resize((width_px, height_px)))


def blank_photo(segments: UInt16[np.ndarray, "h w"], width_px: int) -> UInt8[np.ndarray, "H W 3"]:
    """White in place of an image that is gone."""
    height_px = max(1, round(segments.shape[0] * width_px / segments.shape[1]))
    return np.full((height_px, width_px, 3), WHITE, np.uint8)


def stretched(segments: UInt16[np.ndarray, "h w"], height_px: int, width_px: int) -> UInt16[np.ndarray, "H W"]:
    """An index map at another size: each pixel takes the id at its centre, since ids cannot be averaged."""
    row = ((np.arange(height_px) + 0.5) * segments.shape[0] / height_px).astype(np.int64)
    column = ((np.arange(width_px) + 0.5) * segments.shape[1] / width_px).astype(np.int64)
    return segments[row[:, None], column]


def borders(segments: UInt16[np.ndarray, "H W"]) -> Bool[np.ndarray, "H W"]:
    """Pixels whose right or lower neighbour is of another segment."""
    found = np.zeros(segments.shape, bool)
    found[:, :-1] |= segments[:, :-1] != segments[:, 1:]
    found[:-1] |= segments[:-1] != segments[1:]
    return found


def segment_colours(num_segments: int) -> UInt8[np.ndarray, "rows 3"]:
    """RGB of the ids 0 … N: hues a golden ratio apart, strong and soft by turns; row 0, no mask, is ``UNKNOWN``."""
    ids = np.arange(num_segments + 1)
    hsv = np.stack([ids * _GOLDEN_RATIO % 1.0, 0.55 + 0.4 * (ids % 2), 0.8 + 0.2 * (ids % 3 > 0)], axis=1)
    rgb = np.rint(255 * hsv_to_rgb(hsv)).astype(np.uint8)
    rgb[0] = UNKNOWN
    return rgb


def masks_over(
    photo: UInt8[np.ndarray, "H W 3"], segments: UInt16[np.ndarray, "h w"], opacity: float = 0.5
) -> UInt8[np.ndarray, "H W 3"]:
    """The photograph with every segment in a colour of its own and white borders; grey where no mask is."""
    shown = stretched(segments, *photo.shape[:2])
    colours = segment_colours(int(segments.max(initial=0)))
    mixed = (1 - opacity) * photo + opacity * colours[shown]
    mixed[shown == 0] = 0.6 * _grey(photo)[shown == 0]
    mixed[borders(shown)] = WHITE
    return mixed.astype(np.uint8)


def segments_painted(
    photo: UInt8[np.ndarray, "H W 3"], segments: UInt16[np.ndarray, "h w"], rgb: UInt8[np.ndarray, "N 3"]
) -> UInt8[np.ndarray, "H W 3"]:
    """Every segment in its colour, row i for id i + 1, with a breath of the photograph; ``UNKNOWN`` without a mask."""
    shown = stretched(segments, *photo.shape[:2])
    table = np.concatenate([np.array([UNKNOWN], np.uint8), rgb])
    return (0.8 * table[shown] + 0.2 * _grey(photo)).astype(np.uint8)


def points_over(
    photo: UInt8[np.ndarray, "H W 3"],
    pixel: Integer[np.ndarray, "Q 2"],
    rgb: UInt8[np.ndarray, "Q 3"],
    range_m: Float[np.ndarray, "Q"],
    width_px: int,
) -> UInt8[np.ndarray, "H W 3"]:
    """The photograph, greyed, with points in their colours; nearer points are drawn last.

    Args:
        photo: At any size.
        pixel: Column u and row v of each point in the image at its own size.
        rgb: Colour of each point.
        range_m: Distance of each point.
        width_px: Of the image at its own size.
    """
    pixels = (0.5 * 255 + 0.5 * _grey(photo)).astype(np.uint8)
    density = len(pixel) / (pixels.shape[0] * pixels.shape[1])
    radius = next((radius for most, radius in _DOT_RADII_PX if density <= most), 0)
    order = np.argsort(-range_m, kind="stable")
    column, row = ((pixel[order] + 0.5) * (photo.shape[1] / width_px)).astype(np.int64).T
    dots(pixels, row, column, rgb[order], radius)
    return pixels


@dataclass(frozen=True)
class FeatureColours:
    """Features as colours: the first three principal components as red, green and blue.

    Signs and scales are arbitrary but fixed: the largest entry of each axis is positive, and the middle 96 % of the
    rows it was fitted on span the colours. Equal features have equal colours, in all images shown with one object.

    Attributes:
        mean: [F] of the rows.
        axes: [F, 3] unit columns; zeros where the rows vary in fewer directions.
        low: [3] component that gets the darkest colour.
        high: [3] component that gets the lightest.
    """

    mean: Float[np.ndarray, "F"]
    axes: Float[np.ndarray, "F 3"]
    low: Float[np.ndarray, "3"]
    high: Float[np.ndarray, "3"]

    @staticmethod
    def of(rows: Float[np.ndarray, "N F"], seed: int = 0) -> "FeatureColours":
        """Fits the components; zero rows (no feature) are left out, and of very many rows a seeded choice is taken."""
        known = rows[rows.any(axis=1)].astype(np.float64)
        if len(known) > _MAX_ROWS:
            known = known[np.random.default_rng(seed).choice(len(known), _MAX_ROWS, replace=False)]
        if not len(known):
            known = np.zeros((1, rows.shape[1]))
        mean = known.mean(axis=0)
        centred = known - mean
        variance, vectors = np.linalg.eigh(centred.T @ centred / len(centred))
        vectors[:, variance < 1e-9 * max(variance.max(initial=0.0), 1e-9)] = 0.0
        vectors = vectors[:, ::-1][:, :3]
        axes = np.zeros((rows.shape[1], 3))
        largest = np.take_along_axis(vectors, np.abs(vectors).argmax(axis=0)[None], axis=0)
        axes[:, : vectors.shape[1]] = vectors * np.where(largest < 0, -1.0, 1.0)
        low, high = np.percentile(centred @ axes, _TAILS_PERCENT, axis=0)
        return FeatureColours(mean, axes, low, high)

    def __call__(self, rows: Float[np.ndarray, "N F"]) -> UInt8[np.ndarray, "N 3"]:
        """RGB of each row; ``UNKNOWN`` for zero rows."""
        if not len(rows):  # of a frame the teacher failed on, whatever their length
            return np.zeros((0, 3), np.uint8)
        components = (rows.astype(np.float64) - self.mean) @ self.axes
        span = self.high - self.low
        share = np.where(span > 0, (components - self.low) / np.where(span > 0, span, 1.0), 0.5)
        rgb = np.rint(30 + 210 * np.clip(share, 0, 1)).astype(np.uint8)
        rgb[~rows.any(axis=1)] = UNKNOWN
        return rgb


def covered_ratio(segments: UInt16[np.ndarray, "H W"]) -> float:
    """Share of the pixels that belong to a segment."""
    return float(np.mean(segments > 0))


def _grey(photo: UInt8[np.ndarray, "H W 3"]) -> Float[np.ndarray, "H W 3"]:
    return photo.mean(axis=2, keepdims=True).repeat(3, axis=2)
