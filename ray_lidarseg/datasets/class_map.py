"""What the numbers in label files become: raw id → class id → name, with points, and what does not fit."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ray_lidarseg.datasets.taxonomy import Taxonomy
from ray_lidarseg.types import IGNORE

UNMAPPED = -1
"""Class id of a raw id that the taxonomy does not know."""

_LOOKED_AT = 8  # label files that `index` counts; ours: a second, and most classes occur


@dataclass(frozen=True)
class MappedId:
    """One line of a class map.

    Attributes:
        raw_ids: The ids in label files; several where points are only known by class.
        class_id: What they become: a class, IGNORE or ``UNMAPPED``.
        name: Of the class, ``ignored`` or ``UNMAPPED``.
        num_points: How many points hold them.
    """

    raw_ids: tuple[int, ...]
    class_id: int
    name: str
    num_points: int


def class_map(taxonomy: Taxonomy, raw_counts: Mapping[int, int]) -> list[MappedId]:
    """Every raw id of a taxonomy and every one seen, by class; ignored and unmapped ids come last.

    Args:
        taxonomy: Says what raw ids mean.
        raw_counts: Points by raw id.
    """
    known = taxonomy.raw_to_train
    rows = [
        MappedId((raw,), known.get(raw, UNMAPPED), _name(taxonomy, known.get(raw, UNMAPPED)), raw_counts.get(raw, 0))
        for raw in {*known, *raw_counts}
    ]
    return sorted(rows, key=lambda row: (row.class_id == UNMAPPED, row.class_id, row.raw_ids))


def class_map_of_classes(taxonomy: Taxonomy, class_counts: Mapping[int, int]) -> list[MappedId]:
    """The same where labels are class ids already, as in prepared shards: one line a class."""
    of_class: dict[int, list[int]] = {}
    for raw, train in taxonomy.raw_to_train.items():
        of_class.setdefault(train, []).append(raw)
    ids = [*range(taxonomy.num_classes), IGNORE]
    return [
        MappedId(tuple(sorted(of_class.get(train, ()))), train, _name(taxonomy, train), class_counts.get(train, 0))
        for train in ids
    ]


def warnings_of(rows: Sequence[MappedId], taxonomy: Taxonomy) -> list[str]:
    """Ids that are seen but unmapped, and classes that are never seen, as sentences; none where no point is known."""
    found = []
    if unmapped := [row for row in rows if row.class_id == UNMAPPED]:
        points = sum(row.num_points for row in unmapped)
        ids = ", ".join(str(row.raw_ids[0]) for row in unmapped)
        found.append(f"raw ids seen but not mapped: {ids} ({points:,} points): give them a class, or ignore them")
    seen = {row.class_id for row in rows if row.num_points}
    absent = [name for train, name in enumerate(taxonomy.class_names) if train not in seen]
    if seen and absent:
        found.append(f"classes never seen: {', '.join(absent)}")
    return found


def described_map(rows: Iterable[MappedId], title: str) -> str:
    """The ids that are seen, a line each, for people."""
    lines = [f"{title} (raw id → class id → name: points)"]
    for row in rows:
        if row.num_points:
            train = {IGNORE: "-", UNMAPPED: "?"}.get(row.class_id, str(row.class_id))
            raw = ", ".join(map(str, row.raw_ids))
            lines.append(f"  {raw:>10} → {train:>3} → {row.name:<22} {row.num_points:>14,}")
    return "\n".join(lines)


def chosen_label_files(labels_uris: Sequence[str]) -> list[int]:
    """Positions of a few frames with labels, spread evenly."""
    labelled = [position for position, uri in enumerate(labels_uris) if uri]
    return labelled[:: max(1, -(-len(labelled) // _LOOKED_AT))]


def counted(raw: np.ndarray) -> Counter[int]:
    """Points by raw id."""
    ids, counts = np.unique(raw, return_counts=True)
    return Counter(dict(zip(ids.tolist(), counts.tolist(), strict=True)))


def _name(taxonomy: Taxonomy, class_id: int) -> str:
    if class_id == UNMAPPED:
        return "UNMAPPED"
    return "ignored" if class_id == IGNORE else taxonomy.class_names[class_id]
