"""An own data set's classes and LiDAR as one YAML file, validated by frozen pydantic; no code to write.

::

    name: acme-os1
    classes:                      # class ids 0 … C-1 are given in this order
      - name: car
        raw_ids: [10, 252]        # ids in the label files that mean this class; predictions are written as the first
        colour: [100, 150, 245]   # RGB of pictures; left out: chosen for you
        synonyms: [van, taxi]     # further words for text-prompted image teachers
      - {name: road, raw_ids: [40]}
    ignore_raw_ids: [0, 1]        # legal in label files, neither trained on nor evaluated
    absent_class: skip            # a class in neither truth nor prediction: left out of mIoU (skip) or 0 (zero)
    sensor:
      num_beams: 64
      fov_up_deg: 22.5            # above the horizon; degrees in this file, radians inside
      fov_down_deg: -22.5         # negative: below
      min_range_m: 1.0            # nearer points are ego hits or no returns: not trained on
      max_range_m: 120.0
      intensity: [0, 255]         # scaled to 0 … 1, values beyond are clipped; or `none`: the sensor has no intensity
      axes: FLU                   # what x, y, z point to: Forward/Back, Left/Right, Up/Down
      height_m: 1.8               # above the ground; when given, `index` compares it with a scan

Axes: everything inside is FLU (x forward, y left, z up). Scans and ``cam_SE3_lidar`` in other axes, for example RFU
(x right, y forward, z up), are turned when they are read; that is exact, and label files keep their order.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, ValidationError, field_validator, model_validator

from ray_lidarseg.errors import DataError
from ray_lidarseg.recipe.bad_input import explain, shown
from ray_lidarseg.recipe.frozen_section import Section
from ray_lidarseg.recipe.text_files import read_yaml


def _no_truth(value: Any) -> Any:
    """``raw_ids: [yes]`` would be id 1; a ``Section`` sees no further than its own numbers."""
    if isinstance(value, bool):
        raise ValueError(f"expected a number, got {str(value).lower()}")
    return value


_NUMBER = BeforeValidator(_no_truth)
RawId = Annotated[int, _NUMBER, Field(ge=0, le=0xFFFF)]
Channel = Annotated[int, _NUMBER, Field(ge=0, le=255)]
Metres = Annotated[float, _NUMBER, Field(gt=0)]
Bound = Annotated[float, _NUMBER]
_MAX_CLASSES = 254  # class ids are uint8, 255 is IGNORE
_DIRECTIONS = {
    "F": (1.0, 0.0, 0.0),
    "B": (-1.0, 0.0, 0.0),
    "L": (0.0, 1.0, 0.0),
    "R": (0.0, -1.0, 0.0),
    "U": (0.0, 0.0, 1.0),
    "D": (0.0, 0.0, -1.0),
}


class OntologyClass(Section):
    """One class: what it is called and which raw ids mean it."""

    name: Annotated[str, Field(min_length=1)]
    raw_ids: Annotated[tuple[RawId, ...], Field(min_length=1)]
    colour: tuple[Channel, Channel, Channel] | None = None
    synonyms: tuple[str, ...] = ()


class OntologySensor(Section):
    """The LiDAR: degrees here, radians inside."""

    num_beams: Annotated[int, Field(ge=1)]
    fov_up_deg: Annotated[float, Field(gt=-90, lt=90)]
    fov_down_deg: Annotated[float, Field(gt=-90, lt=90)]
    min_range_m: Annotated[float, Field(ge=0)]
    max_range_m: Annotated[float, Field(gt=0)]
    intensity: tuple[Bound, Bound] | Literal["none"]
    axes: str = "FLU"
    height_m: Metres | None = None

    @field_validator("axes")
    @classmethod
    def _axes_are_right_handed(cls, axes: str) -> str:
        known = len(axes) == 3 and all(letter in _DIRECTIONS for letter in axes)
        if not known or _determinant(axes) != 1.0:
            raise ValueError(
                "expected three letters of F/B, L/R and U/D that form a right-handed frame, such as FLU (x forward, "
                "y left, z up) or RFU (x right, y forward, z up)"
            )
        return axes

    @model_validator(mode="after")
    def _intervals_are_not_empty(self) -> "OntologySensor":
        if self.fov_down_deg >= self.fov_up_deg:
            raise ValueError("fov_down_deg must be below fov_up_deg")
        if self.min_range_m >= self.max_range_m:
            raise ValueError("min_range_m must be below max_range_m")
        if self.intensity != "none" and self.intensity[0] >= self.intensity[1]:
            raise ValueError("intensity must be [lowest, highest] or none")
        return self

    @property
    def rotation(self) -> tuple[tuple[float, float, float], ...]:
        """[3, 3] rows: ``points_FLU = rotation · points_file``."""
        return tuple(zip(*(_DIRECTIONS[letter] for letter in self.axes), strict=True))


class Ontology(Section):
    """Classes and LiDAR of an own data set; see the module's text for the file."""

    name: Annotated[str, Field(min_length=1)]
    classes: Annotated[tuple[OntologyClass, ...], Field(min_length=1, max_length=_MAX_CLASSES)]
    ignore_raw_ids: tuple[RawId, ...] = ()
    absent_class: Literal["skip", "zero"] = "skip"
    sensor: OntologySensor

    @model_validator(mode="after")
    def _ids_and_names_are_unique(self) -> "Ontology":
        repeated = _repeated(entry.name for entry in self.classes)
        if repeated:
            raise ValueError(f"class names {repeated} occur more than once")
        alike = _alike(entry.name for entry in self.classes)
        if alike:
            raise ValueError(f"class names {alike} differ in case or spaces only: make them one class or rename one")
        users: dict[int, list[str]] = {}
        for entry in self.classes:
            for raw in entry.raw_ids:
                users.setdefault(raw, []).append(entry.name)
        for raw in self.ignore_raw_ids:
            users.setdefault(raw, []).append("ignore_raw_ids")
        shared = [f"{raw} in {' and '.join(names)}" for raw, names in sorted(users.items()) if len(names) > 1]
        if shared:
            raise ValueError(f"each raw id may be used once, but: {'; '.join(shared)}")
        return self


def parse_ontology(text: str | bytes, origin: str = "ontology") -> Ontology:
    """An ontology from YAML or JSON text, or the bytes of a file of it.

    Raises:
        DataError: Not YAML, an unknown key (the nearest is named), a missing or bad value, a raw id or a class name
            used twice, a class without raw ids.
    """
    content = read_yaml(text, origin, DataError)
    if not isinstance(content, Mapping):
        raise DataError(
            f"{origin}: expected a mapping with name, classes and sensor, got {shown(content)}; "
            "see the text of ray_lidarseg/recipe/ontology.py for an example"
        )
    try:
        return Ontology.model_validate(content)
    except ValidationError as error:
        raise DataError("\n  ".join([f"{origin} does not fit:", *explain(error, Ontology)])) from error


def _repeated(names: Iterable[str]) -> list[str]:
    return [name for name, count in Counter(names).items() if count > 1]


def _alike(names: Iterable[str]) -> list[str]:
    """Names that a reader, or a CSV of results, would take for another one."""
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(" ".join(name.casefold().split()), []).append(name)
    return [name for group in groups.values() if len(group) > 1 for name in group]


def _determinant(axes: str) -> float:
    x, y, z = (_DIRECTIONS[letter] for letter in axes)
    cross = (x[1] * y[2] - x[2] * y[1], x[2] * y[0] - x[0] * y[2], x[0] * y[1] - x[1] * y[0])
    return sum(a * b for a, b in zip(cross, z, strict=True))
