"""Checks of cameras: files, calibration, time, coverage, and whether the images fit the scans. Limits are ours."""

from collections.abc import Sequence

import numpy as np

from ray_lidarseg.checks.camera_alignment import REARRANGEMENTS, Misfit, misfit
from ray_lidarseg.checks.findings import Finding, Severity
from ray_lidarseg.checks.measures import CameraMeasures, FrameMeasures

_NAMED = 3  # examples in a message
_CENTRE = (0.3, 0.7)  # nuScenes, KITTI and RELLIS: 0.49 … 0.55 of the image
_HFOV_DEG = (10.0, 150.0)  # pin-hole; 37 (RELLIS) to 89 degrees (nuScenes' rear camera) in real calibrations
_SQUARE = 1.1
_SKEW = 0.01  # of fx; below a pixel in a thousand for a real sensor, and calibration tools fix it at 0
_OFFSET_WARNING_US, _OFFSET_ERROR_US = 100_000, 500_000  # nuScenes: 0 … 43 ms
_COVERED = 0.05
_MIN_ANGLE_DEG, _MIN_GAIN = 2.0, 1.0
# Images, standard errors and height from which on a peak elsewhere counts. The best of 2197 rotations lies elsewhere by
# chance where images are few and coarse: ten of 96 x 54 pixels of one camera gave 2.8 standard errors. All cameras
# together peak at 4.0 or more in right and in turned data; mirrored scans and mixed-up images at 2.1 to 4.2.
_ALL_CAMERAS, _ONE_CAMERA = (5, 1.8, 3.9), (12, 4.0, 2.7)
# At the stated calibration, twelve images of right data lie 3.7 or more above the mean, wrong ones mostly below 2.
_UNFIT_IMAGES, _UNFIT = 12, 2.0
# One camera of six, 14 to 40 images of 400 x 225: right ones 4.4 or more at the stated calibration, exchanged ones 1.6
# or less with no peak above 3.2; turned ones peak at 4 or more.
_FLAT = 3.4
_WEAK = 3.0
_NO_ARM_M = 0.01  # no camera sits in a LiDAR
# Axes that fit when they are mirrored, swapped or turned: 3.6 or more above the mean in three images of KITTI, 6.5 in
# six of nuScenes, 14 in 72 of the world's 96 x 54 pixels; in right data at most 2.4, with the stated axes 3.7 or more.
_REARRANGED, _REARRANGED_GAIN, _REARRANGED_IMAGES = 3.5, 3.0, 3
_UPRIGHT = 0.8  # cosine: less than 37 degrees off; every camera of nuScenes and KITTI is within 3
_STATE_ARM = "state the lever arm: where the LiDAR is in the camera's axes, in metres (last column of cam_SE3_lidar)"
_CAMERA_AXES = ("x (pitch)", "y (yaw)", "z (roll)")


def check_cameras(frames: Sequence[FrameMeasures], is_upright: bool = True) -> list[Finding]:
    """Every check of the cameras.

    Args:
        frames: Measured frames.
        is_upright: False leaves the comparison with the images out: it needs z up.
    """
    cameras = [camera for frame in frames for camera in frame.cameras]
    if not cameras:
        return [Finding("cameras", "ok", "none", "none needed: the models see LiDAR only")]
    by_name = _by_name(cameras)
    findings = [check_images(cameras), check_sizes(by_name), check_rigid(cameras), check_intrinsics(by_name)]
    findings += [check_offsets(by_name), check_projection(frames, by_name)]
    return findings + (check_alignment(by_name) if is_upright else [])


def check_images(cameras: Sequence[CameraMeasures]) -> Finding:
    """Images that are missing, truncated or of no known format."""
    broken = [camera.problem for camera in cameras if camera.problem]
    expected = "every image of the sampled frames can be decoded"
    if not broken:
        return Finding("images", "ok", f"all {len(cameras)} read", expected)
    measured = f"{len(broken)} of {len(cameras)} cannot be read ({'; '.join(broken[:_NAMED])})"
    return Finding("images", "error", measured, expected, "copy or repair the named files, or index without cameras")


def check_sizes(by_name: dict[str, list[CameraMeasures]]) -> Finding:
    """Width and height of the index against the files."""
    wrong = {
        name: next(each for each in cameras if each.actual_px not in (each.stated_px, (0, 0)))
        for name, cameras in by_name.items()
        if any(each.actual_px not in (each.stated_px, (0, 0)) for each in cameras)
    }
    expected = "the images have the size that the index and the intrinsics are for"
    if not wrong:
        sizes = sorted({f"{width} x {height}" for each in by_name.values() for width, height in [each[0].stated_px]})
        return Finding("image size", "ok", ", ".join(sizes), expected)
    named = "; ".join(
        f"{name}: {_size(each.actual_px)}, stated {_size(each.stated_px)}" for name, each in wrong.items()
    )
    return Finding("image size", "error", named, expected, "state the files' size, and scale the intrinsics with it")


def check_rigid(cameras: Sequence[CameraMeasures]) -> Finding:
    """Extrinsics that are rotation and translation, intrinsics that are a camera matrix."""
    problems = sorted({camera.calibration_problem for camera in cameras if camera.calibration_problem})
    expected = "cam_SE3_lidar rigid, intrinsics a pin-hole matrix"
    without_arm = sorted({camera.name for camera in cameras if camera.lever_arm_m < _NO_ARM_M})
    if without_arm and not problems:
        measured = f"cam_SE3_lidar of {', '.join(without_arm)} has no translation"
        return Finding(
            "calibration", "warning", measured, expected, f"right only where they share a centre; {_STATE_ARM}"
        )
    if not problems:
        return Finding("calibration", "ok", f"all {len(cameras)} are", expected)
    return Finding("calibration", "error", "; ".join(problems[:_NAMED]), expected, "correct the calibration file")


def check_intrinsics(by_name: dict[str, list[CameraMeasures]]) -> Finding:
    """Principal point and focal length against the image size."""
    every = (
        problem for name, cameras in by_name.items() for one in cameras for problem in _doubt_intrinsics(name, one)
    )
    problems = list(dict.fromkeys(every))
    expected = f"principal point near the centre, {_HFOV_DEG[0]:g} … {_HFOV_DEG[1]:g} deg wide, square pixels, no skew"
    if not problems:
        return Finding("intrinsics", "ok", f"{len(by_name)} cameras plausible", expected)
    fix = "scale the intrinsics to the image size (half the width: half of fx and cx), or correct them"
    return Finding("intrinsics", "error", "; ".join(problems[:_NAMED]), expected, fix)


def check_offsets(by_name: dict[str, list[CameraMeasures]]) -> Finding:
    """Camera minus LiDAR time: what ego-motion compensation has to bridge."""
    median_us = {name: float(np.median([each.offset_us for each in cameras])) for name, cameras in by_name.items()}
    worst = max(median_us, key=lambda name: abs(median_us[name]))
    measured = f"up to {median_us[worst] / 1e3:+.1f} ms ({worst})"
    expected = f"within {_OFFSET_WARNING_US / 1e3:g} ms"
    if abs(median_us[worst]) <= _OFFSET_WARNING_US:
        return Finding("camera time", "ok", measured, expected)
    severity: Severity = "error" if abs(median_us[worst]) > _OFFSET_ERROR_US else "warning"
    fix = "pair each scan with the image nearest in time, both in microseconds of one clock"
    return Finding("camera time", severity, measured, expected, fix)


def check_projection(frames: Sequence[FrameMeasures], by_name: dict[str, list[CameraMeasures]]) -> Finding:
    """Share of the points in any picture; a camera that sees none has a wrong pose."""
    covered = float(np.median([frame.covered_ratio for frame in frames if frame.cameras]))
    measured, expected = f"{covered:.1%} of the points are in a picture", "every camera sees points"
    fitting = {name: [each for each in cameras if not each.calibration_problem] for name, cameras in by_name.items()}
    blind = [name for name, cameras in fitting.items() if cameras and max(each.inside_ratio for each in cameras) == 0]
    inverted = [name for name, cameras in fitting.items() if cameras and _looks_inverted(cameras[0].cam_R_lidar)]
    if inverted:
        named = ", ".join(inverted)
        fix = "store LiDAR to camera: the inverse of what is there"
        return Finding("projection", "error", f"cam_SE3_lidar of {named} looks inverted", expected, fix)
    if blind:
        fix = "check cam_SE3_lidar: camera axes are x right, y down, z forward"
        return Finding("projection", "error", f"{measured}, none in {', '.join(blind)}", expected, fix)
    if covered < _COVERED:
        fix = "check the extrinsics, or expect little from image features"
        return Finding("projection", "warning", measured, expected, fix)
    return Finding("projection", "ok", measured, expected)


def check_alignment(by_name: dict[str, list[CameraMeasures]]) -> list[Finding]:
    """Depth edges of the scans against edges of the images (``alignment.py``): all cameras together, then each.

    An error common to all cameras is one of the LiDAR's mounting; its axis is named in LiDAR axes. An error of one
    camera is named in the camera's own axes. A camera without a lever arm is not called turned, though it looks so: a
    metre at 15 m is 4 degrees.
    """
    grids = {name: [each.scores for each in cameras if each.scores is not None] for name, cameras in by_name.items()}
    grids = {name: each for name, each in grids.items() if each}
    expected = "the stated calibration fits the images best, to within 2 deg"
    if not grids:
        return [Finding("alignment", "ok", "not checked: too few depth edges in the images", expected)]
    every = [grid for each in grids.values() for grid in each]
    common = misfit(every)
    rearranged = _rearranged([each for cameras in by_name.values() for each in cameras], every, common, expected)
    if rearranged:
        return [rearranged]
    without_arm = [name for name in grids if by_name[name][0].lever_arm_m < _NO_ARM_M]
    if len(grids) > 1 and _is_off(common, *_ALL_CAMERAS):
        if without_arm:
            return [_without_arm(without_arm, common, expected)]
        return [_off("the LiDAR of all cameras", common.rotation_deg, "xyz", "the LiDAR's", common, expected)]
    if len(grids) > 1 and _is_unfit(common):  # then the peak of one camera means nothing either
        return [_overall(common, expected)]
    found = {name: misfit(each) for name, each in grids.items()}
    turned = [name for name, own in found.items() if _is_off(own, *_ONE_CAMERA) and not _is_flat(own)]
    unfit = [name for name, own in found.items() if _is_unfit(own) and name not in turned and len(grids) > 1]
    armless = [name for name in without_arm if name in (*turned, *unfit)]
    findings = [_without_arm(armless, common, expected)] if armless else []
    for name in turned:
        if name not in armless:
            in_camera = by_name[name][0].cam_R_lidar @ found[name].rotation_deg
            findings.append(_off(name, in_camera, _CAMERA_AXES, "the camera's", found[name], expected))
    others = {name: found[name] for name in unfit if name not in armless}
    if others:
        findings.append(_unfit_cameras(others, expected))
    return findings or [_overall(common, expected)]


def _without_arm(names: Sequence[str], found: Misfit, expected: str) -> Finding:
    named = ", ".join(names)
    measured = f"images and scans do not fit: cam_SE3_lidar of {named} has no translation ({found.num_images} images)"
    return Finding("alignment", "error", measured, expected, _STATE_ARM)


def _unfit_cameras(unfit: dict[str, Misfit], expected: str) -> Finding:
    """Some of the cameras, while all together may fit: the right ones outweigh them."""
    named = "; ".join(
        f"{name}: {own.given_rank_ratio:.0%} of the rotations up to 6 deg fit worse than the stated one "
        f"({own.num_images} images)"
        for name, own in unfit.items()
    )
    fix = (
        f"check whether the images of {', '.join(unfit)} are exchanged, mirrored or of another drive, and the "
        "calibration and the time stamps of these cameras"
    )
    return Finding("alignment", "error", f"images and scans do not fit: {named}", expected, fix)


def _overall(common: Misfit, expected: str) -> Finding:
    measured = f"best within {common.angle_deg:.1f} deg over {common.num_images} images"
    if _is_unfit(common):
        fits = f"{common.given_rank_ratio:.0%} of the rotations up to 6 deg fit worse than the stated one"
        fix = (
            "check which image belongs to which camera, the axes of LiDAR (mirrored?) and cameras, and the time stamps"
        )
        return Finding("alignment", "error", f"images and scans do not fit: {fits}", expected, fix)
    if common.given < _WEAK or common.angle_deg >= _MIN_ANGLE_DEG:
        fix = "raise --sample: too few clear edges to tell"
        return Finding("alignment", "warning", f"not certain: {measured}", expected, fix)
    return Finding("alignment", "ok", measured, expected)


def _rearranged(
    cameras: Sequence[CameraMeasures], grids: Sequence[np.ndarray], common: Misfit, expected: str
) -> Finding | None:
    """Axes that are mirrored, swapped or turned by a right angle: then another arrangement fits all images at once."""
    total = np.sum(grids, axis=0)
    sums = np.sum([each.rearranged for each in cameras if each.rearranged is not None], axis=0)
    heights = (sums - float(total.mean())) / max(float(total.std()), 1e-9)
    best = int(np.argmax(heights))
    is_clear = heights[best] >= _REARRANGED and heights[best] - common.given >= _REARRANGED_GAIN
    if len(grids) < _REARRANGED_IMAGES or not is_clear:
        return None
    measured = (
        f"the scans look as if {REARRANGEMENTS[best]}: undone, they fit {len(grids)} images "
        f"({heights[best]:.1f} standard deviations above the mean, {common.given:.1f} as stated)"
    )
    fix = (
        "check x and y of the scans (a mirrored frame has left and right swapped), sensor.axes, and that cam_SE3_lidar "
        "is for the axes of the point file"
    )
    return Finding("alignment", "error", measured, expected, fix)


def _is_unfit(found: Misfit) -> bool:
    return found.given < _UNFIT and found.num_images >= _UNFIT_IMAGES


def _is_flat(found: Misfit) -> bool:
    """Whether no rotation fits: the peak is chance, as where images are exchanged."""
    return _is_unfit(found) and found.peak < _FLAT


def _is_off(found: Misfit, min_images: int, min_t: float, min_peak: float) -> bool:
    is_far = found.angle_deg >= _MIN_ANGLE_DEG and found.num_images >= min_images
    is_certain = found.t >= min_t and found.peak >= min_peak
    return is_far and is_certain and found.peak - found.given >= _MIN_GAIN


def _off(who: str, rotation_deg: np.ndarray, axes: Sequence[str], whose: str, found: Misfit, expected: str) -> Finding:
    main = int(np.abs(rotation_deg).argmax())
    measured = (
        f"{who}: turned by about {rotation_deg[main]:+.0f} deg about {whose} {axes[main]} axis "
        f"({found.num_images} images, {found.t:.1f} standard errors)"
    )
    vector = ", ".join(f"{angle:+.0f}" for angle in rotation_deg)
    fix = f"calibrate again: cam_SE3_lidar holds an extra rotation of about ({vector}) deg about {whose} axes"
    return Finding("alignment", "error", measured, expected, fix)


def _doubt_intrinsics(name: str, camera: CameraMeasures) -> list[str]:
    if camera.calibration_problem:
        return []
    width, height = camera.stated_px
    if width <= 0 or height <= 0:
        return [f"{name}: the index states an image of {_size(camera.stated_px)}"]
    fx, fy = camera.intrinsics[0, 0], camera.intrinsics[1, 1]
    hfov_deg = np.degrees(2 * np.arctan(width / (2 * fx)))
    found = []
    for axis, centre, size in (("x", camera.intrinsics[0, 2], width), ("y", camera.intrinsics[1, 2], height)):
        if not _CENTRE[0] <= centre / size <= _CENTRE[1]:
            found.append(f"{name}: principal point at {axis}={centre:.0f} of {size} pixels")
    if not _HFOV_DEG[0] <= hfov_deg <= _HFOV_DEG[1]:
        found.append(f"{name}: fx={fx:.0f} at {width} pixels is {hfov_deg:.0f} deg wide")
    if not 1 / _SQUARE <= fx / fy <= _SQUARE:
        found.append(f"{name}: fx={fx:.0f} and fy={fy:.0f} differ")
    skew, below = camera.intrinsics[0, 1], camera.intrinsics[1, 0]
    if max(abs(skew), abs(below)) > _SKEW * fx:
        found.append(f"{name}: expected 0 beside the focal lengths, got {skew:g} and {below:g}")
    return found


def _looks_inverted(cam_R_lidar: np.ndarray) -> bool:
    """Whether the camera is not upright (its y axis down, the LiDAR's z axis up), but would be by the inverse."""
    return bool(cam_R_lidar[1, 2] > -_UPRIGHT and cam_R_lidar[2, 1] < -_UPRIGHT)


def _by_name(cameras: Sequence[CameraMeasures]) -> dict[str, list[CameraMeasures]]:
    grouped: dict[str, list[CameraMeasures]] = {}
    for camera in cameras:
        grouped.setdefault(camera.name, []).append(camera)
    return dict(sorted(grouped.items()))


def _size(pixels: tuple[int, int]) -> str:
    return f"{pixels[0]} x {pixels[1]}"
