"""Checks of labels: as many as points, of known classes, in the order of the points, at the heights of their classes.

Limits are ours.
"""

import math
from collections.abc import Sequence

import numpy as np

from ray_lidarseg.checks.class_heights import ClassHeights
from ray_lidarseg.checks.findings import Finding, Severity, some
from ray_lidarseg.checks.label_edges import LabelEdges
from ray_lidarseg.checks.measures import FrameMeasures
from ray_lidarseg.datasets.class_map import UNMAPPED, MappedId
from ray_lidarseg.types import IGNORE

_IGNORED_WARNING, _IGNORED_ERROR = 0.6, 0.98
_MANY = 0.2  # of the frames: fewer may be slips in the pairing of single files
_LOOSE, _FOREIGN = 0.1, 0.15  # up to 0.08 where labels are right, from 0.2 on where they are of another scan
_FEWEST_OF_CLASS = 100
_GROUND_NEAR, _VEHICLE_NEAR = 0.5, 0.9  # 0.98 and more, 0.53 and less where ids are right


def check_labels(frames: Sequence[FrameMeasures], class_names: Sequence[str]) -> list[Finding]:
    """Length of the labels, share of ignored points, classes that never occur."""
    labelled = [frame for frame in frames if frame.num_labels]
    if not labelled:
        return [Finding("labels", "ok", f"none of {len(frames)} frames is labelled", "some, to train on")]
    wrong = [frame.frame_id for frame in labelled if frame.num_labels != frame.num_points]
    if wrong:
        fix = f"pair labels and scans of {some(wrong)} again"
        return [Finding("labels", "error", f"{len(wrong)} frames have another length", "one label a point", fix)]
    counts = np.sum([frame.label_counts for frame in labelled], axis=0)
    unknown = np.flatnonzero(counts[len(class_names) : IGNORE]) + len(class_names)
    if len(unknown):
        expected = f"class ids 0 … {len(class_names) - 1} and {IGNORE}"
        return [Finding("labels", "error", f"ids {unknown.tolist()}", expected, "prepare the data again")]
    return [_check_ignored(counts, len(labelled), len(frames)), _check_seen(counts, class_names)]


def check_label_edges(frames: Sequence[FrameMeasures]) -> list[Finding]:
    """Whether labels belong to their points, by where they change (``label_edges.py``); nothing without labels.

    Frames with too few labels each, as scribbles may have, are judged together.
    """
    labelled = {frame.frame_id: frame.label_edges for frame in frames if frame.label_edges.surface_pairs}
    if not labelled:
        return []
    together = sum(labelled.values(), LabelEdges())
    judged = {name: edges for name, edges in labelled.items() if edges.tells} or {"all of them together": together}
    expected = f"neighbours of unlike classes at most {_LOOSE:g} times as often on one surface as at jumps in range"
    if not together.tells:
        return [Finding("label edges", "ok", "not known: too few labels change", expected)]
    surface, jump = together.surface_changes / together.surface_pairs, together.jump_changes / together.jump_pairs
    measured = f"{surface:.1%} on one surface, {jump:.1%} at jumps in range"
    foreign = [name for name, edges in judged.items() if edges.ratio > _FOREIGN]
    if foreign:
        severity: Severity = "error" if len(foreign) > _MANY * len(judged) else "warning"
        measured += f"; the labels of {len(foreign)} of {len(judged)} frames do not fit their points: {some(foreign)}"
        fix = (
            "pair labels and scans again, and write the labels in the order of the points: one of both was sorted, "
            "filtered or shuffled, or they are of another frame"
        )
        return [Finding("label edges", severity, measured, expected, fix)]
    if float(np.median([edges.ratio for edges in judged.values()])) > _LOOSE:
        fix = "right for classes that are painted on one surface; else the labels are coarse, or some points too late"
        return [Finding("label edges", "warning", measured, expected, fix)]
    return [Finding("label edges", "ok", measured, expected)]


def check_class_heights(
    frames: Sequence[FrameMeasures], class_names: Sequence[str], ground: tuple[int, ...], vehicles: tuple[int, ...]
) -> list[Finding]:
    """Whether ground lies on the ground and vehicles stand on it; nothing where there are too few labelled points."""
    heights = sum((frame.class_heights for frame in frames), ClassHeights())
    is_many = heights.seen >= _FEWEST_OF_CLASS
    of_ground = tuple(each for each in ground if is_many[each])
    of_vehicles = tuple(each for each in vehicles if is_many[each])
    if not of_ground and not of_vehicles:
        return []
    near = heights.near_ratio(of_ground)
    shares = {"ground": near, "vehicles": heights.near_ratio(of_vehicles)}
    measured = ", ".join(f"{name} {share:.0%}" for name, share in shares.items() if math.isfinite(share))
    measured = f"within half a metre of the ground: {measured} of the points"
    expected = f"classes of the ground at least {_GROUND_NEAR:.0%}, vehicles at most {_VEHICLE_NEAR:.0%}"
    odd = [each for each in of_ground if heights.near_ratio((each,)) < _GROUND_NEAR]
    odd += [each for each in of_vehicles if heights.near_ratio((each,)) > _VEHICLE_NEAR]
    if not odd:
        return [Finding("class heights", "ok", measured, expected)]
    others = tuple(each for each in np.flatnonzero(is_many[: len(class_names)]).tolist() if each not in ground)
    severity: Severity = "error" if near < heights.near_ratio(others) else "warning"
    named = some([f"{class_names[each]} {heights.near_ratio((each,)):.0%}" for each in odd])
    fix = (
        "check that the raw ids of these classes mean what the ontology says (ids that begin at 0 and at 1 are easily "
        "mixed up); on steep ground, or of a class that is neither, this is no fault"
    )
    return [Finding("class heights", severity, f"{measured}; not as they should be: {named}", expected, fix)]


def check_class_map(rows: Sequence[MappedId]) -> list[Finding]:
    """Ids of label files that are neither of a class nor ignored; which classes never occur is `classes`."""
    seen = [row for row in rows if row.num_points]
    if not seen:
        return []
    unmapped = [row for row in seen if row.class_id == UNMAPPED]
    expected = "every id of the label files is of a class or ignored"
    if not unmapped:
        return [Finding("label ids", "ok", f"{len(seen)} ids or classes seen, all mapped", expected)]
    points = sum(row.num_points for row in unmapped)
    measured = f"{some([str(row.raw_ids[0]) for row in unmapped])} not mapped, {points} points"
    fix = "add them to a class or to ignore_raw_ids of the ontology, or index the labels of this data set"
    return [Finding("label ids", "warning", measured, expected, fix)]


def _check_ignored(counts: np.ndarray, num_labelled: int, num_frames: int) -> Finding:
    share = float(counts[IGNORE] / max(int(counts.sum()), 1))
    measured = f"{num_labelled} of {num_frames} frames labelled, {share:.1%} of their points ignored"
    expected = f"below {_IGNORED_WARNING:.0%} ignored"
    if share <= _IGNORED_WARNING:
        return Finding("labels", "ok", measured, expected)
    severity: Severity = "error" if share > _IGNORED_ERROR else "warning"
    fix = "map more raw ids to classes, or check that the label files are of this data set (scribbles are sparse)"
    return Finding("labels", severity, measured, expected, fix)


def _check_seen(counts: np.ndarray, class_names: Sequence[str]) -> Finding:
    present = int((counts[: len(class_names)] > 0).sum())
    absent = [name for name, count in zip(class_names, counts, strict=False) if not count]
    measured, expected = f"{present} of {len(class_names)} seen", "every class somewhere"
    if not absent:
        return Finding("classes", "ok", measured, expected)
    fix = "rare in a small sample (raise --sample); else check the raw ids of these classes"
    return Finding("classes", "warning", f"{measured}, never {', '.join(absent)}", expected, fix)
