"""What a page is made of: pictures as data URIs, and sections of them."""

import base64
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ray_lidarseg.datasets.taxonomy import Taxonomy
from ray_lidarseg.report import pictures

_PNG, _JPEG = "image/png", "image/jpeg"


@dataclass(frozen=True)
class Picture:
    """One image of the page: a data URI and what to say under it."""

    source: str
    caption: str


@dataclass
class Section:
    """What the page shows of one protocol, or of one folder of predictions.

    Attributes:
        title: Heading.
        rows: Result table; empty for predictions.
        charts: Full-width figures.
        frames: For each frame its title and the pictures side by side.
        rendered: The same of what runs of method nerf render into camera images.
        wide: Full-width pictures below each other.
        legend: Class name and CSS colour.
        robustness: Table of mIoU under corruption.
        options: Table of inference options.
        class_map: Raw ids, class id, name, true and predicted points of each class.
        shares: Class name, CSS colour and percent of the points, for predictions.
        notes: What is missing, or worth knowing.
        about: One sentence on predictions.
    """

    title: str
    rows: list[dict[str, Any]] = field(default_factory=list)
    charts: list[Picture] = field(default_factory=list)
    frames: list[tuple[str, list[Picture]]] = field(default_factory=list)
    rendered: list[tuple[str, list[Picture]]] = field(default_factory=list)
    wide: list[Picture] = field(default_factory=list)
    legend: list[tuple[str, str]] = field(default_factory=list)
    robustness: list[dict[str, Any]] = field(default_factory=list)
    options: list[dict[str, Any]] = field(default_factory=list)
    class_map: list[dict[str, Any]] = field(default_factory=list)
    shares: list[tuple[str, str, float]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    about: str = ""


def flat_picture(image: np.ndarray, caption: str) -> Picture:
    """A drawing in few colours, RGB [H, W, 3], as PNG."""
    return encoded_picture(pictures.png(image), caption)


def photo_picture(image: np.ndarray, caption: str) -> Picture:
    """A photograph with something drawn on it, RGB [H, W, 3], as JPEG: a third of the PNG."""
    return encoded_picture(pictures.jpeg(image), caption, _JPEG)


def encoded_picture(content: bytes, caption: str, kind: str = _PNG) -> Picture:
    """An encoded image as it is."""
    return Picture(f"data:{kind};base64,{base64.b64encode(content).decode()}", caption)


def legend(taxonomy: Taxonomy, unknown: str) -> list[tuple[str, str]]:
    """Class name and CSS colour of every class, and of ``pictures.UNKNOWN`` under the name given."""
    colours = [css(colour) for colour in taxonomy.colours]
    named = [(name.replace("_", " "), colour) for name, colour in zip(taxonomy.class_names, colours, strict=True)]
    return [*named, (unknown, css(np.array(pictures.UNKNOWN)))]


def css(colour: np.ndarray) -> str:
    """RGB [3] as ``#rrggbb``."""
    return "#" + "".join(f"{int(value):02x}" for value in colour)
