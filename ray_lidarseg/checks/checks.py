"""Checks of a data set: what is wrong, what was expected, and how to fix it. Pure functions of measured key-frames.

``check_all`` is the whole list; each check takes measures of a sample of frames (``measures.measure``) and returns
findings. All limits are ours. They were set on real data: one nuScenes key-frame with six cameras, three SemanticKITTI
scans, three KITTI key-frames with an image each, and on the synthetic world; wide enough that all of these pass, and
narrow enough for wrong units, axes, files and calibrations.
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from ray_lidarseg.checks.camera_checks import check_cameras
from ray_lidarseg.checks.class_heights import ClassHeights
from ray_lidarseg.checks.findings import Finding, Severity
from ray_lidarseg.checks.label_edges import LabelEdges
from ray_lidarseg.checks.measures import FrameMeasures
from ray_lidarseg.datasets.class_map import UNMAPPED, MappedId
from ray_lidarseg.sample import SensorSpec
from ray_lidarseg.types import IGNORE

_NAMED = 3  # examples in a message
_CAUSES = 5
_NAME_OR_NUMBER = re.compile(r"\S*/\S*|\d+")
_MIN_POINTS = 100
_NONFINITE, _NEAR = 0.5, 0.6  # a real nuScenes scan has 25 % of its points within 2 m: ego hits and no returns
_UNEVEN = 0.5
_OUTSIDE_WARNING, _OUTSIDE_ERROR = 0.05, 0.2  # at most 1.4 % in real scans
_BEAM_RATIO = 1.3
_HEIGHT_M, _IMPOSSIBLE_HEIGHT_M = (1.0, 3.0), (0.1, 10.0)
_OTHER_HEIGHT_M = 0.7  # between a stated height and the measured one
_TILT_WARNING_DEG, _TILT_ERROR_DEG = 3.0, 4.5  # up to 2.2 degrees in single real scans
_MIN_INLIERS = 0.4
_UNITS = 10.0
_BEYOND = 0.05
_FAINT = 0.02
_BEYOND_WARNING, _BEYOND_ERROR = 0.01, 0.2  # of the intensities; a few beyond a range that was read off a histogram
_MISSING_WARNING, _MISSING_ERROR = 0.05, 0.5
_AT_END = 0.2  # nuScenes' brightest returns are 0.1 % of a scan
_ELSEWHERE = 0.2  # of the frames: a world frame may begin at the first of them
_MOST_SENSORS = 8  # that fire at one time
_IGNORED_WARNING, _IGNORED_ERROR = 0.6, 0.98
_LOOSE, _FOREIGN = 0.1, 0.15  # up to 0.08 where labels are right, from 0.2 on where they are of another scan
_FEWEST_OF_CLASS = 100
_GROUND_NEAR, _VEHICLE_NEAR = 0.5, 0.9  # 0.98 and more, 0.53 and less where ids are right
_STEP_S = (0.001, 60.0)


def check_all(
    frames: Sequence[FrameMeasures],
    failures: Mapping[str, str],
    sensor: SensorSpec,
    class_names: Sequence[str],
    ground: tuple[int, ...] = (),
    vehicles: tuple[int, ...] = (),
) -> list[Finding]:
    """Every check of the sampled frames, in the order in which one would fix things.

    Args:
        frames: Measures of the frames that could be decoded.
        failures: Reason by frame id for the others.
        sensor: What the LiDAR should be.
        class_names: The classes by id.
        ground: Ids of what one drives or walks on, and
        vehicles: of what has wheels.
    """
    findings = [check_files(failures, len(frames)), *check_scans(frames, sensor)]
    seen = _seen(frames)
    if not seen:
        return findings
    findings += check_labels(frames, class_names)
    wrong = {each.check for each in findings if each.severity == "error"}
    if not wrong & {"origin", "labels"}:  # seen from elsewhere, neighbours are none
        findings += check_label_edges(seen)
    if not wrong & {"origin", "axes", "labels"}:
        findings += check_class_heights(seen, class_names, ground, vehicles)
    is_upright = not wrong & {"origin", "axes"}
    return findings + check_cameras(seen, is_upright)


def check_scans(frames: Sequence[FrameMeasures], sensor: SensorSpec) -> list[Finding]:
    """The checks of points alone: what `index` says of the first scan of own logs, too."""
    findings, seen = check_counts(frames), _seen(frames)
    if not seen:
        return findings
    axes, origin = check_axes(seen), check_origin(seen)
    findings.append(origin)
    if origin.severity != "error":  # seen from elsewhere, neither ranges nor directions mean anything
        findings += [axes, check_range(seen, sensor)]
    if "error" not in (origin.severity, axes.severity):  # of a scan on its side, heights mean nothing
        findings += [*check_ground(seen, sensor), check_fov(seen, sensor), check_beams(seen, sensor)]
    return [*findings, check_intensity(seen, sensor)]


def _seen(frames: Sequence[FrameMeasures]) -> list[FrameMeasures]:
    return [frame for frame in frames if frame.num_usable >= _MIN_POINTS and frame.upright]


def check_files(failures: Mapping[str, str], num_decoded: int) -> Finding:
    """Missing, truncated and undecodable scans and labels."""
    total = num_decoded + len(failures)
    expected = "every sampled frame can be read"
    if not failures:
        return Finding("files", "ok", f"all {total} sampled frames read", expected)
    return Finding(
        "files",
        "error",
        f"{len(failures)} of {total} sampled frames cannot be read ({_causes(failures)})",
        expected,
        "copy or repair the named files, or drop the frames from the index",
    )


def _causes(failures: Mapping[str, str]) -> str:
    """An example of each cause, the most frequent first; names and numbers do not make another cause."""
    alike: dict[str, list[str]] = {}
    for frame, reason in failures.items():
        alike.setdefault(_NAME_OR_NUMBER.sub("", reason), []).append(f"{frame}: {reason}")
    shown = sorted(alike.values(), key=len, reverse=True)
    named = [each[0] + (f" (and {len(each) - 1} more like it)" if len(each) > 1 else "") for each in shown[:_CAUSES]]
    rest = sum(len(each) for each in shown[_CAUSES:])
    return "; ".join([*named, *([f"{rest} with other causes"] if rest else [])])


def check_counts(frames: Sequence[FrameMeasures]) -> list[Finding]:
    """Points of each frame: enough, about as many as in the others, finite, beyond the ego vehicle."""
    if not frames:
        return []
    counts = np.array([frame.num_usable for frame in frames])
    median = float(np.median(counts))
    measured = f"{median:.0f} usable points a frame ({counts.min()} … {counts.max()})"
    few = [frame.frame_id for frame, count in zip(frames, counts, strict=True) if count < _MIN_POINTS]
    uneven = [frame.frame_id for frame, count in zip(frames, counts, strict=True) if count < _UNEVEN * median]
    expected = f"at least {_MIN_POINTS}, and about the same everywhere"
    if few:
        fix = f"look at the scans of {_some(few)}: wrong columns, wrong units, or an empty recording"
        points = Finding("points", "error", f"{measured}, almost none in {len(few)} frames", expected, fix)
    elif uneven:
        fix = f"look at the scans of {_some(uneven)}: truncated, or the sensor lost packets"
        points = Finding("points", "warning", f"{measured}, {len(uneven)} frames below half", expected, fix)
    else:
        points = Finding("points", "ok", measured, expected)
    return [points, _check_nonfinite(frames), _check_near(frames)]


def check_origin(frames: Sequence[FrameMeasures]) -> Finding:
    """Whether scans are seen from the sensor: bands, range images and cylinders are cut about the origin."""
    elsewhere = [frame for frame in frames if frame.origin and frame.origin.is_elsewhere]
    expected = "the points in the sensor's own frame: the returns lie densest around the origin"
    if len(elsewhere) <= _ELSEWHERE * len(frames):
        return Finding(
            "origin", "ok", f"the sensor in {len(frames) - len(elsewhere)} of {len(frames)} frames", expected
        )
    distance_m = float(np.median([np.hypot(*frame.origin.densest_m) for frame in elsewhere if frame.origin]))
    measured = (
        f"the origin is not the sensor in {len(elsewhere)} of {len(frames)} frames: it stood about {distance_m:.0f} m "
        f"away ({_some([frame.frame_id for frame in elsewhere])})"
    )
    fix = (
        "the scans come in a world, map or city frame: move their origin into the sensor with the inverse of its pose "
        "at each sweep, and cam_SE3_lidar with it"
    )
    return Finding("origin", "error", measured, expected, fix)


def check_axes(frames: Sequence[FrameMeasures]) -> Finding:
    """Whether z is up: the axis whose elevations span least, the side on which the ground lies (``upright.py``)."""
    votes = Counter(frame.upright.up for frame in frames if frame.upright)
    up, count = votes.most_common(1)[0]
    measured = f"up is {up} in {count} of {len(frames)} frames"
    expected = "z up (+z), x and y level"
    if up == "+z":
        return Finding("axes", "ok", measured, expected)
    cause = {
        "-z": "z points down, as in a forward-right-down frame",
        "+y": "y and z are swapped: the columns are x, z, y",
        "-y": "a camera frame (x right, y down, z forward), or y and z are swapped and mirrored",
        "+x": "x and z are swapped: the columns are z, y, x",
        "-x": "x points down, or x and z are swapped and mirrored",
    }[up]
    return Finding(
        "axes",
        "error",
        f"{measured}: {cause}",
        expected,
        "write x, y, z with z up, or state the axes in the ontology (sensor.axes)",
    )


def check_ground(frames: Sequence[FrameMeasures], sensor: SensorSpec) -> list[Finding]:
    """Height of the sensor above the ground, against the stated one where there is one, and whether it is level."""
    found = [frame.upright for frame in frames if frame.upright and frame.upright.inlier_ratio >= _MIN_INLIERS]
    stated_m = sensor.height_m
    low_m, high_m = _HEIGHT_M if stated_m is None else (stated_m - _OTHER_HEIGHT_M, stated_m + _OTHER_HEIGHT_M)
    expected = f"the ground {low_m:g} … {high_m:g} m below the sensor"
    if not found:
        fix = "off-road or indoors this is no fault; else check units and axes"
        return [Finding("ground", "warning", "no ground plane found", expected, fix)]
    height_m = float(np.median([each.height_m for each in found]))
    measured = f"{height_m:.2f} m, seen in {len(found)} of {len(frames)} frames"
    if not _IMPOSSIBLE_HEIGHT_M[0] < height_m < _IMPOSSIBLE_HEIGHT_M[1]:
        fix = "convert the points to metres, with the origin in the sensor and not on the ground"
        height = Finding("ground", "error", measured, expected, fix)
    elif not low_m <= height_m <= high_m:
        fix = "right for a robot or a lorry; else the origin is not the sensor, or the unit is not the metre"
        fix = fix if stated_m is None else f"correct sensor.height_m={stated_m:g}, or the axes, the unit or the origin"
        height = Finding("ground", "warning", measured, expected, fix)
    else:
        height = Finding("ground", "ok", measured, expected)
    return [height, _check_tilt([(each.tilt_rad, each.lean) for each in found])]


def check_fov(frames: Sequence[FrameMeasures], sensor: SensorSpec) -> Finding:
    """The field of view that LaserMix's bands and range images are cut from."""
    low, high = np.degrees(np.median([frame.inclination_rad for frame in frames], axis=0))
    outside = float(np.median([frame.outside_fov_ratio for frame in frames]))
    down_deg, up_deg = np.degrees([sensor.fov_down_rad, sensor.fov_up_rad])
    measured = f"{low:.1f} … {high:.1f} deg, {outside:.1%} of the points outside"
    expected = f"{down_deg:g} … {up_deg:g} deg"
    if outside <= _OUTSIDE_WARNING:
        return Finding("field of view", "ok", measured, expected)
    severity: Severity = "error" if outside > _OUTSIDE_ERROR else "warning"
    fix = f"set sensor.fov_down_deg={np.floor(low):.0f} and sensor.fov_up_deg={np.ceil(high):.0f}, or check the axes"
    return Finding("field of view", severity, measured, expected, fix)


def check_beams(frames: Sequence[FrameMeasures], sensor: SensorSpec) -> Finding:
    """Number of laser channels, by ring column or file order; never an error, for the estimate is rough."""
    estimates = [frame.num_beams for frame in frames if np.isfinite(frame.num_beams)]
    expected = f"about {sensor.num_beams}"
    if not estimates:
        return Finding("beams", "ok", "not known: no ring column, and the points are in no scan order", expected)
    num_beams = float(np.median(estimates))
    measured = f"about {num_beams:.0f}"
    if 1 / _BEAM_RATIO < num_beams / sensor.num_beams < _BEAM_RATIO:
        return Finding("beams", "ok", measured, expected)
    return Finding("beams", "warning", measured, expected, f"set sensor.num_beams={num_beams:.0f} if that is true")


def check_range(frames: Sequence[FrameMeasures], sensor: SensorSpec) -> Finding:
    """Units, and whether the maximum range holds what there is."""
    far_m = float(np.median([frame.range_p99_m for frame in frames]))
    beyond = float(np.median([frame.beyond_ratio for frame in frames]))
    measured = f"99 % within {far_m:.0f} m, {beyond:.1%} beyond {sensor.max_range_m:g} m"
    expected = f"within {sensor.max_range_m:g} m, in metres"
    if far_m > _UNITS * sensor.max_range_m or far_m < sensor.max_range_m / (2 * _UNITS):
        return Finding("range", "error", measured, expected, "convert the points to metres")
    if beyond > _BEYOND:
        return Finding("range", "warning", measured, expected, "raise sensor.max_range_m, or check the unit")
    return Finding("range", "ok", measured, expected)


def check_intensity(frames: Sequence[FrameMeasures], sensor: SensorSpec) -> Finding:
    """Intensity after scaling and before clipping: in [0, 1], not constant, not all in a corner of the range."""
    low, high, spread = np.median([frame.intensity for frame in frames], axis=0)
    outside, at_end = np.mean([(frame.intensity_outside_ratio, frame.intensity_end_ratio) for frame in frames], axis=0)
    measured = f"1 … 99 %: {low:.3f} … {high:.3f}"
    expected = "0 … 1 after scaling, not constant"
    if sensor.intensity_scale == 0.0:
        return Finding("intensity", "ok", "the sensor has none", "none")
    missing = float(np.mean([frame.intensity_missing_ratio for frame in frames]))
    if missing > _MISSING_WARNING:
        severity: Severity = "error" if missing > _MISSING_ERROR else "warning"
        fix = "train with data.use_intensity=false, or set sensor.intensity to none: points without one are left out"
        return Finding("intensity", severity, f"{missing:.1%} of the points have none that is finite", expected, fix)
    fix = "set the intensity range to what the sensor gives (sensor.intensity)"
    if outside > _BEYOND_WARNING:
        severity = "error" if outside > _BEYOND_ERROR else "warning"
        return Finding("intensity", severity, f"{measured}, {outside:.1%} outside and so clipped", expected, fix)
    if at_end > _AT_END:
        return Finding("intensity", "warning", f"{measured}, {at_end:.1%} at the range's end: clipped?", expected, fix)
    if spread < 1e-6:
        fix = "train with data.use_intensity=false, and set sensor.intensity to none"
        return Finding("intensity", "warning", f"constant at {low:.3f}", expected, fix)
    if high < _FAINT:
        fix = "the stated range is too wide, or the file is scaled already: set sensor.intensity"
        return Finding("intensity", "warning", measured, expected, fix)
    return Finding("intensity", "ok", measured, expected)


def check_labels(frames: Sequence[FrameMeasures], class_names: Sequence[str]) -> list[Finding]:
    """Length of the labels, share of ignored points, classes that never occur."""
    labelled = [frame for frame in frames if frame.num_labels]
    if not labelled:
        return [Finding("labels", "ok", f"none of {len(frames)} frames is labelled", "some, to train on")]
    wrong = [frame.frame_id for frame in labelled if frame.num_labels != frame.num_points]
    if wrong:
        fix = f"pair labels and scans of {_some(wrong)} again"
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
        severity: Severity = "error" if len(foreign) > _ELSEWHERE * len(judged) else "warning"
        measured += f"; the labels of {len(foreign)} of {len(judged)} frames do not fit their points: {_some(foreign)}"
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
    measured = ", ".join(f"{name} {share:.0%}" for name, share in shares.items() if share == share)
    measured = f"within half a metre of the ground: {measured} of the points"
    expected = f"classes of the ground at least {_GROUND_NEAR:.0%}, vehicles at most {_VEHICLE_NEAR:.0%}"
    odd = [each for each in of_ground if heights.near_ratio((each,)) < _GROUND_NEAR]
    odd += [each for each in of_vehicles if heights.near_ratio((each,)) > _VEHICLE_NEAR]
    if not odd:
        return [Finding("class heights", "ok", measured, expected)]
    others = tuple(each for each in np.flatnonzero(is_many[: len(class_names)]).tolist() if each not in ground)
    severity: Severity = "error" if near < heights.near_ratio(others) else "warning"
    named = _some([f"{class_names[each]} {heights.near_ratio((each,)):.0%}" for each in odd])
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
    measured = f"{_some([str(row.raw_ids[0]) for row in unmapped])} not mapped, {points} points"
    fix = "add them to a class or to ignore_raw_ids of the ontology, or index the labels of this data set"
    return [Finding("label ids", "warning", measured, expected, fix)]


def check_splits(scenes: Sequence[str], splits: Sequence[str], contents: Sequence[str] = ()) -> Finding:
    """Whether what is scored on was kept apart from what is trained on, by drive and by content.

    Args:
        scenes: Drive of each frame.
        splits: Its split.
        contents: Digest of its scan; "" where it is not known.
    """
    sizes = Counter(splits)
    of_split = {split: {scene for scene, own in zip(scenes, splits, strict=True) if own == split} for split in sizes}
    measured = ", ".join(f"{split} {sizes[split]} frames of {len(of_split[split])} scenes" for split in sorted(sizes))
    expected = "each drive in one split, no scan in two"
    train = of_split.pop("train", set())
    named = [(content, split) for content, split in zip(contents, splits, strict=False) if content]
    trained_on = {content for content, split in named if split == "train"}
    twice = sum(split != "train" and content in trained_on for content, split in named)
    if twice:
        fix = "leave the copies out of train: a score on scans that were trained on says nothing"
        return Finding("splits", "error", f"{measured}; {twice} scans of other splits are in train, too", expected, fix)
    if shared := sorted(train & set().union(*of_split.values())):
        fix = "give whole drives to one split: frames that follow each other are nearly one, and scores are too good"
        return Finding("splits", "warning", f"{measured}; in train and another: {_some(shared)}", expected, fix)
    return Finding("splits", "ok", measured, expected)


def check_times(
    scenes: Sequence[str], timestamps_us: Sequence[int], scans: Sequence[str], is_ordered: bool
) -> list[Finding]:
    """Time stamps of all frames of the index: unique and, where the listing has an order, ascending in each scene.

    Args:
        scenes: Drive of each frame.
        timestamps_us: LiDAR time of each frame.
        scans: Scan of each frame: other ones at one time are those of several sensors.
        is_ordered: Whether the frames come in the order of recording.
    """
    by_scene: dict[str, list[int]] = {}
    for scene, time_us in zip(scenes, timestamps_us, strict=True):
        by_scene.setdefault(scene, []).append(time_us)
    most = {scene: max(Counter(times).values()) for scene, times in by_scene.items()}
    repeated = [scene for scene, count in most.items() if count > 1]
    twice = [scan for scan, count in Counter(scans).items() if count > 1]
    back = [scene for scene, times in by_scene.items() if is_ordered and times != sorted(times)]
    steps_s = [step / 1e6 for times in by_scene.values() for step in np.diff(np.unique(times))]
    mean_s = float(np.mean(steps_s)) if steps_s else 0.0  # sensors that fire just after each other halve the median
    measured = f"{len(scenes)} frames of {len(by_scene)} scenes"
    if steps_s:
        measured += f", {np.median(steps_s):.3g} s apart"
    expected = "unique, ascending in a scene, in microseconds"
    if twice:
        fix = "index each frame once, with its own time"
        return [Finding("time stamps", "error", f"{measured}; listed more than once: {_some(twice)}", expected, fix)]
    if max(most.values(), default=1) > _MOST_SENSORS:
        fix = "give each frame its own time"
        return [Finding("time stamps", "error", f"{measured}; repeated in {_some(repeated)}", expected, fix)]
    if repeated:
        fix = (
            "of several LiDARs that fire together, give each a scene of its own (drive-1/roof, drive-1/front); else "
            "give each frame its own time"
        )
        together = f"{measured}; other scans at one time in {_some(repeated)}"
        return [Finding("time stamps", "warning", together, expected, fix)]
    if back:
        fix = "sort the listing by time, or split the drives that were joined"
        return [Finding("time stamps", "warning", f"{measured}; they go back in {_some(back)}", expected, fix)]
    if steps_s and not (_STEP_S[0] < mean_s and float(np.median(steps_s)) < _STEP_S[1]):
        return [Finding("time stamps", "warning", measured, expected, "convert the time stamps to microseconds")]
    return [Finding("time stamps", "ok", measured, expected)]


def _check_nonfinite(frames: Sequence[FrameMeasures]) -> Finding:
    share = float(np.mean([frame.nonfinite_ratio for frame in frames]))
    measured, expected = f"{share:.1%} of the points", f"below {_NONFINITE:.0%}; they are kept, but not trained on"
    if share <= _NONFINITE:
        return Finding("not a number", "ok", measured, expected)
    fix = "check the columns of the file; organised clouds may hold NaN where nothing came back"
    return Finding("not a number", "warning", measured, expected, fix)


def _check_near(frames: Sequence[FrameMeasures]) -> Finding:
    share = float(np.median([frame.near_ratio for frame in frames]))
    measured, expected = f"{share:.1%} of the points", f"below {_NEAR:.0%} nearer than the minimum range"
    if share <= _NEAR:
        return Finding("near points", "ok", measured, expected)
    fix = "check the unit of the points, and sensor.min_range_m"
    return Finding("near points", "warning", measured, expected, fix)


def _check_tilt(tilts: Sequence[tuple[float, str]]) -> Finding:
    tilt_deg = float(np.degrees(np.median([tilt for tilt, _ in tilts])))
    lean = Counter(axis for _, axis in tilts).most_common(1)[0][0]
    measured, expected = f"{tilt_deg:.1f} deg against the ground", f"below {_TILT_WARNING_DEG:g} deg"
    if tilt_deg <= _TILT_WARNING_DEG:
        return Finding("level", "ok", measured, expected)
    severity: Severity = "error" if tilt_deg > _TILT_ERROR_DEG else "warning"
    fix = "level the scans with the LiDAR's mounting rotation (cam_SE3_lidar likewise), unless it is mounted so"
    return Finding("level", severity, f"{measured}, about the LiDAR's {lean} axis", expected, fix)


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


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:_NAMED]) + (f" and {len(names) - _NAMED} more" if len(names) > _NAMED else "")
