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
from ray_lidarseg.checks.findings import Finding, Severity, some
from ray_lidarseg.checks.label_checks import check_class_heights, check_label_edges, check_labels
from ray_lidarseg.checks.measures import FrameMeasures
from ray_lidarseg.sample import SensorSpec

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
_UNITS = 10.0
_BEYOND = 0.05
_FAINT = 0.02
_BEYOND_WARNING, _BEYOND_ERROR = 0.01, 0.2  # of the intensities; a few beyond a range that was read off a histogram
_MISSING_WARNING, _MISSING_ERROR = 0.05, 0.5
_AT_END = 0.2  # nuScenes' brightest returns are 0.1 % of a scan
_ELSEWHERE = 0.2  # of the frames: a world frame may begin at the first of them


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
        fix = f"look at the scans of {some(few)}: wrong columns, wrong units, or an empty recording"
        points = Finding("points", "error", f"{measured}, almost none in {len(few)} frames", expected, fix)
    elif uneven:
        fix = f"look at the scans of {some(uneven)}: truncated, or the sensor lost packets"
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
        f"away ({some([frame.frame_id for frame in elsewhere])})"
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
    found = [frame.upright for frame in frames if frame.upright and frame.upright.sees_ground]
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
