"""The verdict on data that is right, and on the same data with one thing broken at a time."""

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image
from scipy.spatial.transform import Rotation

from ray_lidarseg.checks.checks import check_all
from ray_lidarseg.checks.findings import Finding, has_errors
from ray_lidarseg.checks.label_checks import check_class_map
from ray_lidarseg.checks.listing_checks import check_splits, check_times
from ray_lidarseg.checks.measures import FrameMeasures, measure
from ray_lidarseg.datasets import nuscenes
from ray_lidarseg.datasets.class_map import UNMAPPED, MappedId
from ray_lidarseg.datasets.decode import decode
from ray_lidarseg.datasets.entries import dataset_named
from ray_lidarseg.geometry.camera import split_projection
from ray_lidarseg.geometry.pose import inverse
from ray_lidarseg.sample import CameraImage, Keyframe, SensorSpec
from ray_lidarseg.synthetic.nuscenes_writer import write_scene, write_tables
from ray_lidarseg.synthetic.presets import PRESETS
from ray_lidarseg.synthetic.scene import Scene
from ray_lidarseg.types import IGNORE

SENSOR = replace(dataset_named("nuscenes").sensor, num_beams=16)
CLASSES = dataset_named("nuscenes").taxonomy.class_names
NUM_SCENES = 6


@pytest.fixture(scope="module")
def frames(tmp_path_factory) -> list[Keyframe]:
    """Twelve frames of the tiny world, decoded, with their images."""
    cv2.setNumThreads(1)
    root, preset = tmp_path_factory.mktemp("world"), PRESETS["tiny"]
    write_tables(root, preset, 0, [write_scene(root, Scene(preset, 0, index)) for index in range(NUM_SCENES)])
    found = [decode(frame) for frame in nuscenes.index(str(root))]
    return [with_cameras(frame, lambda camera: replace(camera, image=read(camera.uri))) for frame in found]


def read(uri: str) -> bytes:
    return Path(uri).read_bytes()


def with_cameras(frame: Keyframe, change: Callable[[CameraImage], CameraImage]) -> Keyframe:
    return replace(frame, cameras=tuple(change(camera) for camera in frame.cameras))


def measured(frames: Sequence[Keyframe], sensor: SensorSpec = SENSOR) -> list[FrameMeasures]:
    return [measure(frame, sensor) for frame in frames]


def verdict(frames: Sequence[Keyframe], sensor: SensorSpec = SENSOR, **failures: str) -> list[Finding]:
    return check_all(measured(frames, sensor), failures, sensor, CLASSES)


def one(findings: Sequence[Finding], check: str) -> Finding:
    (found,) = [finding for finding in findings if finding.check == check]
    return found


def with_points(frames: Sequence[Keyframe], change: Callable[[np.ndarray], np.ndarray]) -> list[Keyframe]:
    """Scans only: what a check of the points reads."""
    return [replace(frame, points=change(frame.points.copy()), cameras=()) for frame in frames]


def with_columns(order: tuple[int, ...], signs: tuple[int, ...]) -> Callable[[np.ndarray], np.ndarray]:
    return lambda points: np.column_stack([points[:, list(order)] * np.float32(signs), points[:, 3]])


def with_intensity(value: Callable[[np.ndarray], np.ndarray | float]) -> Callable[[np.ndarray], np.ndarray]:
    def change(points: np.ndarray) -> np.ndarray:
        points[:, 3] = value(points[:, 3])
        return points

    return change


def turn(camera: CameraImage, rotation_deg: tuple[float, float, float], in_camera: bool = False) -> CameraImage:
    extra = np.eye(4)
    extra[:3, :3] = Rotation.from_rotvec(np.radians(rotation_deg)).as_matrix()
    pose = extra @ camera.cam_SE3_lidar if in_camera else camera.cam_SE3_lidar @ extra
    return replace(camera, cam_SE3_lidar=pose)


def test_the_synthetic_world_passes(frames) -> None:
    findings = verdict(frames)
    assert {finding.severity for finding in findings if finding.check != "classes"} == {"ok"}
    assert 1.75 < float(one(findings, "ground").measured.split()[0]) < 1.9
    assert "best within" in one(findings, "alignment").measured


@pytest.mark.parametrize(
    ("rotation_deg", "axis"),
    [
        ((4, 0, 0), "x"),
        ((-5, 0, 0), "x"),
        ((0, 4.5, 0), "y"),
        ((0, -4, 0), "y"),
        ((0, 0, 3), "z"),
        ((0, 0, -3.5), "z"),
    ],
)
def test_a_turned_lidar_is_an_error_that_names_the_axis(frames, rotation_deg, axis) -> None:
    found = one(verdict([with_cameras(f, lambda c: turn(c, rotation_deg)) for f in frames]), "alignment")
    assert found.severity == "error"
    assert f"about the LiDAR's {axis} axis" in found.measured
    sign = "+" if sum(rotation_deg) > 0 else "-"
    assert f"turned by about {sign}" in found.measured
    assert "calibrate again" in found.fix


def test_one_turned_camera_is_an_error_that_names_it_and_its_axis(frames) -> None:
    def bend(camera: CameraImage) -> CameraImage:
        return turn(camera, (0, 5, 0), in_camera=True) if camera.name == "CAM_BACK_RIGHT" else camera

    found = one(verdict([with_cameras(frame, bend) for frame in frames]), "alignment")
    assert found.severity == "error"
    assert found.measured.startswith("CAM_BACK_RIGHT: turned by about +5 deg about the camera's y (yaw) axis")


@pytest.mark.parametrize(
    ("columns", "signs", "message"),
    [
        ((0, 1, 2), (1, -1, 1), r"y were negated \(mirrored\)"),
        ((0, 1, 2), (-1, 1, 1), r"x were negated \(mirrored\)"),
        ((1, 0, 2), (1, 1, 1), r"x and y were swapped \(mirrored\)"),
        ((1, 0, 2), (-1, 1, 1), "they were turned by 90 deg about z"),
    ],
)
def test_mirrored_and_turned_scans_do_not_fit_the_images(frames, columns, signs, message) -> None:
    change = with_columns(columns, signs)
    found = one(verdict([replace(frame, points=change(frame.points)) for frame in frames[:4]]), "alignment")
    assert found.severity == "error"
    assert re.search(f"the scans look as if {message}: undone, they fit 24 images", found.measured)
    assert "a mirrored frame has left and right swapped" in found.fix


def test_extrinsics_turned_by_a_right_angle_are_named(frames) -> None:
    turned = [with_cameras(frame, lambda c: turn(c, (0, 0, -90))) for frame in frames[:4]]
    found = one(verdict(turned), "alignment")
    assert found.severity == "error"
    assert "they were turned by -90 deg about z" in found.measured


def test_images_of_other_cameras_do_not_fit_the_scans(frames) -> None:
    def mix_up(frame: Keyframe) -> Keyframe:
        images = [camera.image for camera in frame.cameras]
        pairs = zip(frame.cameras, images[1:] + images[:1], strict=True)
        return replace(frame, cameras=tuple(replace(camera, image=image) for camera, image in pairs))

    found = one(verdict([mix_up(frame) for frame in frames]), "alignment")
    assert found.severity == "error"
    assert "which image belongs to which camera" in found.fix


def test_two_of_six_exchanged_cameras_are_named_though_the_others_fit(frames) -> None:
    def exchange(frame: Keyframe) -> Keyframe:
        images = {camera.name: camera.image for camera in frame.cameras}
        other = {"CAM_FRONT": "CAM_BACK", "CAM_BACK": "CAM_FRONT"}
        return with_cameras(frame, lambda c: replace(c, image=images[other.get(c.name, c.name)]))

    found = one(verdict([exchange(frame) for frame in frames]), "alignment")
    assert found.severity == "error"
    assert "CAM_BACK, CAM_FRONT are exchanged" in found.fix
    assert "CAM_BACK_LEFT" not in found.measured
    assert "turned" not in found.measured


def test_a_zeroed_lever_arm_is_not_called_a_turn(frames) -> None:
    def without_arm(camera: CameraImage) -> CameraImage:
        return replace(camera, cam_SE3_lidar=camera.cam_SE3_lidar * ARMLESS)

    findings = verdict([with_cameras(frame, without_arm) for frame in frames])
    assert one(findings, "calibration").severity == "warning"
    found = one(findings, "alignment")
    assert found.severity == "error"
    assert "has no translation" in found.measured
    assert "turned" not in found.measured
    assert "state the lever arm" in found.fix


ARMLESS = np.array([[1, 1, 1, 0]] * 3 + [[1, 1, 1, 1]])


def test_too_few_images_to_tell_are_a_warning(frames) -> None:
    front = replace(frames[0], cameras=frames[0].cameras[:2])
    images = [camera.image for camera in front.cameras]
    pairs = zip(front.cameras, reversed(images), strict=True)
    mixed_up = replace(front, cameras=tuple(replace(camera, image=image) for camera, image in pairs))
    found = one(verdict([mixed_up]), "alignment")
    assert found.severity == "warning"
    assert "raise --sample" in found.fix


@pytest.mark.parametrize(
    ("columns", "signs", "message"),
    [
        ((0, 2, 1), (1, 1, 1), r"up is \+y .* y and z are swapped"),
        ((2, 1, 0), (1, 1, 1), r"up is \+x .* x and z are swapped"),
        ((0, 1, 2), (1, -1, -1), r"up is -z .* z points down"),
        ((0, 2, 1), (1, -1, 1), r"up is -y .* camera frame"),
        ((2, 1, 0), (-1, 1, 1), r"up is -x .* x points down"),
    ],
)
def test_swapped_axes_are_an_error_that_names_the_swap(frames, columns, signs, message) -> None:
    findings = verdict(with_points(frames, with_columns(columns, signs)))
    found = one(findings, "axes")
    assert found.severity == "error"
    assert re.search(message, found.measured)
    assert "sensor.axes" in found.fix
    assert not [finding for finding in findings if finding.check in ("level", "field of view")]


def test_a_tilted_lidar(frames) -> None:
    tilt = Rotation.from_rotvec(np.radians([6.0, 0.0, 0.0])).as_matrix().T.astype(np.float32)
    found = one(verdict(with_points(frames, lambda p: np.column_stack([p[:, :3] @ tilt, p[:, 3]]))), "level")
    assert found.severity == "error"
    assert "about the LiDAR's x axis" in found.measured


def test_millimetres(frames) -> None:
    findings = verdict(with_points(frames, lambda p: p * np.float32([1000, 1000, 1000, 1])))
    assert one(findings, "range").severity == "error"
    assert "metres" in one(findings, "range").fix


def test_kilometres_leave_no_point_beyond_the_minimum_range(frames) -> None:
    findings = verdict(with_points(frames, lambda p: p / np.float32([1000, 1000, 1000, 1])))
    assert one(findings, "points").severity == "error"
    assert "wrong units" in one(findings, "points").fix


def test_an_origin_on_the_roof_of_a_lorry_and_one_in_the_clouds(frames) -> None:
    def raise_by(height_m: float) -> list[Keyframe]:
        return with_points(frames, lambda p: p - np.float32([0, 0, height_m, 0]))

    assert one(verdict(raise_by(2.0)), "ground").severity == "warning"
    high = one(check_all(measured(raise_by(10.0)), {}, SENSOR, CLASSES), "ground")
    assert high.severity in ("error", "warning")
    assert high.fix


def test_a_stated_height_is_compared_with_the_measured_one(frames) -> None:
    scans = with_points(frames, lambda p: p)
    assert one(verdict(scans, replace(SENSOR, height_m=1.84)), "ground").severity == "ok"
    found = one(verdict(scans, replace(SENSOR, height_m=2.9)), "ground")
    assert found.severity == "warning"
    assert "correct sensor.height_m=2.9" in found.fix


def test_another_field_of_view_and_other_beams(frames) -> None:
    sensor = replace(SENSOR, fov_up_rad=np.radians(3.0), fov_down_rad=np.radians(-10.0), num_beams=64)
    findings = verdict(with_points(frames, lambda p: p), sensor)
    fov, beams = one(findings, "field of view"), one(findings, "beams")
    assert fov.severity == "error"
    assert "sensor.fov_down_deg=-26" in fov.fix
    assert "sensor.fov_up_deg=11" in fov.fix
    assert beams.severity == "warning"
    assert "sensor.num_beams=16" in beams.fix


def test_a_short_maximum_range(frames) -> None:
    found = one(verdict(with_points(frames, lambda p: p), replace(SENSOR, max_range_m=15.0)), "range")
    assert found.severity == "warning"
    assert "max_range_m" in found.fix


@pytest.mark.parametrize(
    ("value", "severity", "message"),
    [
        (lambda intensity: intensity * 255, "error", "outside"),
        (lambda intensity: np.where(np.arange(len(intensity)) % 25, intensity, 1.5), "warning", "4.0% outside"),
        (lambda intensity: intensity + 3.0, "error", "100.0% outside and so clipped"),
        (lambda intensity: intensity - 3.0, "error", "100.0% outside and so clipped"),
        (lambda intensity: 1.0, "warning", "100.0% at the range's end: clipped?"),
        (lambda intensity: np.where(np.arange(len(intensity)) % 4, 1.0, intensity), "warning", "at the range's end"),
        (lambda intensity: np.nan, "error", "100.0% of the points have none that is finite"),
        (
            lambda intensity: np.where(np.arange(len(intensity)) % 5, intensity, np.inf),
            "warning",
            "20.0% of the points",
        ),
        (lambda intensity: 0.5, "warning", "constant at 0.500"),
        (lambda intensity: intensity / 255, "warning", "0.000 … 0.001"),
    ],
)
def test_intensity(frames, value, severity, message) -> None:
    found = one(verdict(with_points(frames, with_intensity(value))), "intensity")
    assert found.severity == severity
    assert message in found.measured
    assert "intensity" in found.fix
    assert ("to none" in found.fix) == ("constant" in found.measured or "finite" in found.measured)


def test_a_scan_without_intensities_is_judged_by_its_positions(frames) -> None:
    findings = verdict(with_points(frames, with_intensity(lambda _: np.nan)))
    assert {finding.severity for finding in findings if finding.check in ("points", "origin", "axes", "ground")} == {
        "ok"
    }


def test_a_few_intensities_beyond_the_range_are_fine(frames) -> None:
    some = with_intensity(lambda intensity: np.where(np.arange(len(intensity)) % 500, intensity, 1.5))
    assert one(verdict(with_points(frames, some)), "intensity").severity == "ok"


@pytest.mark.parametrize(
    "offset_m", [(12.0, -16.0, 0.0), (40.0, -60.0, 3.0), (0.0, 150.0, 0.0), (460_000, 5_400_000, 300)]
)
def test_scans_in_a_world_frame_are_an_error_that_names_the_origin(frames, offset_m) -> None:
    findings = verdict(with_points(frames, lambda p: p + np.float32([*offset_m, 0.0])))
    found = one(findings, "origin")
    assert found.severity == "error"
    distance_m = float(re.search(r"about (\d+) m away", found.measured)[1])
    assert distance_m == pytest.approx(np.hypot(*offset_m[:2]), abs=5.0)
    assert "move their origin into the sensor" in found.fix
    assert not {"range", "ground", "field of view", "axes"} & {finding.check for finding in findings}


def test_a_world_frame_that_begins_at_the_first_frame_is_found(frames) -> None:
    driven = [
        replace(frame, points=frame.points + np.float32([10.0 * number, 0, 0, 0]), cameras=())
        for number, frame in enumerate(frames)
    ]
    found = one(verdict(driven), "origin")
    assert found.severity == "error"
    assert re.search(r"in (9|10) of 12 frames", found.measured)


def test_an_origin_beside_the_sensor_is_no_error(frames) -> None:
    """On the rear axle, or of a scan of which only the front is kept."""
    beside = with_points(frames, lambda p: p + np.float32([2.0, 1.0, 0.0, 0.0]))
    front = with_points(frames, lambda p: p[np.abs(np.arctan2(p[:, 1], p[:, 0])) < 0.6])
    front = [replace(frame, labels=frame.labels[:0], ring=frame.ring[:0]) for frame in front]
    for changed in (beside, front):
        assert one(verdict(changed), "origin").severity == "ok"


def test_a_sensor_without_intensity(frames) -> None:
    sensor = replace(SENSOR, intensity_scale=0.0)
    assert one(verdict(with_points(frames, with_intensity(lambda _: 0.0)), sensor), "intensity").severity == "ok"


def test_labels(frames) -> None:
    scans = with_points(frames[:2], lambda p: p)
    short = one(verdict([scans[0], replace(scans[1], labels=scans[1].labels[1:])]), "labels")
    assert (short.severity, short.expected) == ("error", "one label a point")
    nothing = [replace(frame, labels=np.full_like(frame.labels, IGNORE)) for frame in scans]
    assert one(verdict(nothing), "labels").severity == "error"
    assert "100.0% of their points ignored" in one(verdict(nothing), "labels").measured
    road = [replace(frame, labels=np.full_like(frame.labels, 10)) for frame in scans]
    assert "1 of 16 seen, never barrier, bicycle" in one(verdict(road), "classes").measured
    unknown = [replace(frame, labels=np.full_like(frame.labels, 77)) for frame in scans]
    assert "ids [77]" in one(verdict(unknown), "labels").measured
    assert one(verdict([replace(frame, labels=frame.labels[:0]) for frame in scans]), "labels").severity == "ok"


def with_labels(frames: Sequence[Keyframe], change: Callable[[np.ndarray], np.ndarray]) -> list[Keyframe]:
    return [replace(frame, labels=change(frame.labels), cameras=()) for frame in frames]


WRONG_ORDERS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "shuffled": np.random.default_rng(0).permutation,
    "reversed": lambda labels: labels[::-1].copy(),
    "sorted": np.sort,
    "rings instead of columns": lambda labels: np.resize(labels.reshape(-1, 16).T, len(labels)),
    "50 points too late": lambda labels: np.roll(labels, 50),
}


@pytest.mark.parametrize("change", WRONG_ORDERS.values(), ids=WRONG_ORDERS)
def test_labels_in_another_order_than_the_points_are_an_error(frames, change) -> None:
    assert one(verdict(with_labels(frames[:4], lambda labels: labels)), "label edges").severity == "ok"
    found = one(verdict(with_labels(frames[:4], change)), "label edges")
    assert found.severity == "error"
    assert f"the labels of 4 of 4 frames do not fit their points: {frames[0].frame_id}" in found.measured
    assert "in the order of the points" in found.fix


def test_labels_of_other_frames_are_an_error_and_a_few_a_warning(frames) -> None:
    exchanged = [
        replace(mine, labels=np.resize(other.labels, len(mine.labels)), cameras=())
        for mine, other in zip(frames[::2], [*frames[2::2], frames[0]], strict=True)
    ]
    assert one(verdict(exchanged), "label edges").severity == "error"
    mostly = [*exchanged[:1], *with_labels(frames[1:10], lambda labels: labels)]
    found = one(verdict(mostly), "label edges")
    assert found.severity == "warning"
    assert f"1 of 10 frames do not fit their points: {exchanged[0].frame_id}" in found.measured


def test_what_says_nothing_of_labels_is_not_judged(frames) -> None:
    bare = with_labels(frames[:2], lambda labels: labels[:0])
    assert not [each for each in verdict(bare) if each.check == "label edges"]
    road = with_labels(frames[:2], lambda labels: np.full_like(labels, 10))
    assert one(verdict(road), "label edges").measured == "not known: too few labels change"
    moved = [replace(frame, points=frame.points + np.float32([500, 0, 0, 0]), cameras=()) for frame in frames[:2]]
    assert one(verdict(moved), "origin").severity == "error"
    assert not [each for each in verdict(moved) if each.check == "label edges"]


def test_real_labels_fit_their_points_and_those_of_the_next_scan_do_not(samples) -> None:
    frames, spec = semantickitti_frames(samples), dataset_named("semantickitti")

    def found_in(frames: list[Keyframe]) -> Finding:
        measures = [measure(frame, spec.sensor) for frame in frames]
        return one(check_all(measures, {}, spec.sensor, spec.taxonomy.class_names), "label edges")

    assert found_in(frames).severity == "ok"
    following = [*frames[1:], frames[0]]
    late = [
        replace(mine, labels=np.resize(other.labels, len(mine.labels)))
        for mine, other in zip(frames, following, strict=True)
    ]
    found = found_in(late)
    assert found.severity == "error"
    assert "3 of 3 frames" in found.measured


def heights(frames: Sequence[Keyframe], name: str = "nuscenes") -> list[Finding]:
    spec = dataset_named(name)
    sensor, names = (SENSOR if name == "nuscenes" else spec.sensor), spec.taxonomy.class_names
    found = check_all([measure(frame, sensor) for frame in frames], {}, sensor, names, spec.ground, spec.vehicles)
    return [each for each in found if each.check == "class heights"]


def test_ids_that_mean_other_classes_are_an_error_that_names_them(frames) -> None:
    (found,) = heights(with_labels(frames, lambda labels: labels))
    assert found.severity == "ok"
    (found,) = heights(with_labels(frames, lambda labels: np.where(labels == IGNORE, IGNORE, (labels + 8) % 16)))
    assert found.severity == "error"
    assert re.search(r"ground \d\d%, vehicles \d\d%.*; not as they should be: other_flat \d\d%", found.measured)
    assert "ids that begin at 0 and at 1" in found.fix


def test_one_class_of_another_height_is_a_warning(frames) -> None:
    exchanged = np.arange(256, dtype=np.uint8)
    exchanged[[12, 15]] = [15, 12]  # sidewalk and vegetation
    (found,) = heights(with_labels(frames, lambda labels: exchanged[labels]))
    assert found.severity == "warning"
    assert "not as they should be: sidewalk" in found.measured
    parked = np.arange(256, dtype=np.uint8)
    parked[11:13] = 3  # flat things called cars
    (found,) = heights(with_labels(frames, lambda labels: np.where(labels == 3, 14, parked[labels])))
    assert re.search(r"not as they should be: car (9\d|100)%", found.measured)


def test_few_points_of_ground_and_vehicles_and_swapped_axes_say_nothing_of_heights(frames) -> None:
    assert heights(with_labels(frames[:2], lambda labels: np.full_like(labels, 14))) == []
    assert heights(with_points(frames[:4], with_columns((0, 2, 1), (1, 1, 1)))) == []


def test_real_classes_have_the_heights_they_should(samples) -> None:
    frames = semantickitti_frames(samples)
    (found,) = heights(frames, "semantickitti")
    assert found.severity == "ok"
    exchanged = np.arange(256, dtype=np.uint8)
    exchanged[[8, 14]] = [14, 8]  # road and vegetation
    (found,) = heights([replace(frame, labels=exchanged[frame.labels]) for frame in frames], "semantickitti")
    assert "not as they should be: road" in found.measured


def test_ids_that_no_class_takes_are_a_warning_that_names_them() -> None:
    rows = [MappedId((10,), 0, "car", 5), MappedId((77,), UNMAPPED, "UNMAPPED", 3), MappedId((78,), UNMAPPED, "", 0)]
    (finding,) = check_class_map(rows)
    assert (finding.severity, finding.measured) == ("warning", "77 not mapped, 3 points")
    (finding,) = check_class_map(rows[:1])
    assert finding.severity == "ok"
    assert check_class_map([MappedId((10,), 0, "car", 0)]) == []


def test_few_uneven_near_and_missing_points(frames) -> None:
    scans = with_points(frames[:4], lambda p: p)
    uneven = [*scans[:3], replace(scans[3], points=scans[3].points[:1000], labels=scans[3].labels[:1000])]
    found = one(verdict(uneven), "points")
    assert found.severity == "warning"
    assert scans[3].frame_id in found.fix
    empty = [*scans[:3], replace(scans[3], points=scans[3].points[:0], labels=scans[3].labels[:0])]
    assert one(verdict(empty), "points").severity == "error"

    def lose(points: np.ndarray) -> np.ndarray:
        points[: int(0.6 * len(points)), 0] = np.nan
        return points

    assert one(verdict(with_points(scans, lose)), "not a number").severity == "warning"
    assert one(verdict(scans, replace(SENSOR, min_range_m=15.0)), "near points").severity == "warning"


def test_files_that_cannot_be_read(frames) -> None:
    found = one(verdict(with_points(frames[:2], lambda p: p), lost="gone.bin is truncated"), "files")
    assert found.severity == "error"
    assert "1 of 3 sampled frames cannot be read (lost: gone.bin is truncated)" in found.measured
    assert one(check_all([], {"lost": "gone"}, SENSOR, CLASSES), "files").severity == "error"


def test_every_cause_of_unreadable_files_is_named_once() -> None:
    failures = {f"f{number}": f"/logs/{number}.bin is truncated: {number} bytes" for number in range(7)}
    failures |= {"g": "/logs/g.pcd: the PCD header is corrupt: no DATA line", "h": "/logs/h.pcd is an empty file"}
    found = one(check_all([], failures, SENSOR, CLASSES), "files").measured
    assert found.startswith("9 of 9 sampled frames cannot be read (f0: /logs/0.bin is truncated: 0 bytes (and 6 more")
    assert "g: /logs/g.pcd: the PCD header is corrupt" in found
    assert "h: /logs/h.pcd is an empty file" in found
    assert "f1:" not in found
    many = {f"f{number}": "abcdefgh"[number] for number in range(8)}
    assert one(check_all([], many, SENSOR, CLASSES), "files").measured.endswith("; 3 with other causes)")


def test_a_scan_without_a_finite_point_is_an_error(frames) -> None:
    lost = [frames[0], replace(frames[1], points=np.full_like(frames[1].points, np.nan))]
    findings = verdict([replace(frame, cameras=()) for frame in lost])
    assert one(findings, "points").severity == "error"
    assert frames[1].frame_id in one(findings, "points").fix
    assert one(findings, "not a number").measured == "50.0% of the points"


@pytest.mark.parametrize(("stated", "severity"), [(8, "warning"), (16, "ok"), (64, "warning")])
def test_too_many_and_too_few_beams(frames, stated, severity) -> None:
    found = one(verdict(with_points(frames[:2], lambda p: p), replace(SENSOR, num_beams=stated)), "beams")
    assert (found.severity, found.measured) == (severity, "about 16")
    assert ("sensor.num_beams=16" in found.fix) == (severity == "warning")


def test_images_that_cannot_be_read(frames) -> None:
    torn = with_cameras(frames[0], lambda c: replace(c, image=c.image[: len(c.image) // 2]))
    missing = with_cameras(frames[1], lambda c: replace(c, image=b"", uri=f"{c.uri}.lost"))
    found = one(verdict([torn, missing]), "images")
    assert found.severity == "error"
    assert "12 of 12 cannot be read" in found.measured
    assert "is not a whole image" in found.measured
    assert "no such file" in one(verdict([missing]), "images").measured


def test_a_size_and_intrinsics_of_another_image(frames) -> None:
    doubled = [with_cameras(frames[0], lambda c: replace(c, width_px=2 * c.width_px, height_px=2 * c.height_px))]
    size, intrinsics = one(verdict(doubled), "image size"), one(verdict(doubled), "intrinsics")
    assert size.severity == "error"
    assert "CAM_BACK: 96 x 54, stated 192 x 108" in size.measured
    assert intrinsics.severity == "error"
    assert "principal point at x=49 of 192 pixels" in intrinsics.measured
    wide = [with_cameras(frames[0], lambda c: replace(c, intrinsics=c.intrinsics * [[0.05], [1.0], [1.0]]))]
    assert "deg wide" in one(verdict(wide), "intrinsics").measured


def test_a_skewed_camera_is_found_in_any_frame(frames) -> None:
    def skewed(pixels: float):
        return lambda camera: replace(
            camera, intrinsics=camera.intrinsics + np.array([[0, pixels, 0], [0, 0, 0], [0, 0, 0]])
        )

    slightly, found = (one(verdict([frames[0], with_cameras(frames[1], skewed(by))]), "intrinsics") for by in (0.1, 30))
    assert slightly.severity == "ok"
    assert found.severity == "error"
    assert "CAM_BACK: expected 0 beside the focal lengths, got 30 and 0" in found.measured


def test_extrinsics_that_are_scaled_inverted_or_turned_away(frames) -> None:
    double = np.diag([2.0, 2.0, 2.0, 1.0])
    scaled = [with_cameras(frames[0], lambda c: replace(c, cam_SE3_lidar=double @ c.cam_SE3_lidar))]
    found = one(verdict(scaled), "calibration")
    assert found.severity == "error"
    assert "not a rigid transform" in found.measured
    sky = np.eye(4)  # the camera looks along the LiDAR's z axis
    away = [with_cameras(f, lambda c: replace(c, cam_SE3_lidar=sky)) for f in frames[:2]]
    found = one(verdict(away), "projection")
    assert found.severity == "error"
    assert "none in CAM_BACK, CAM_BACK_LEFT" in found.measured
    inverted = [with_cameras(f, lambda c: replace(c, cam_SE3_lidar=inverse(c.cam_SE3_lidar))) for f in frames[:2]]
    found = one(verdict(inverted), "projection")
    assert found.severity == "error"
    assert found.measured.endswith("CAM_FRONT_RIGHT looks inverted")
    assert has_errors(verdict(inverted))


@pytest.mark.parametrize(("offset_us", "severity"), [(40_000, "ok"), (200_000, "warning"), (10**9, "error")])
def test_camera_time(frames, offset_us, severity) -> None:
    frame = frames[0]
    shifted = with_cameras(frame, lambda c: replace(c, timestamp_us=frame.timestamp_us + offset_us))
    assert one(verdict([shifted]), "camera time").severity == severity


@pytest.mark.parametrize(
    ("times_us", "is_ordered", "severity", "message"),
    [
        ([0, 100_000, 200_000], True, "ok", "0.1 s apart"),
        ([0, 100_000, 100_000], True, "warning", "other scans at one time in drive"),
        ([0, 200_000, 100_000], True, "warning", "they go back in drive"),
        ([0, 200_000, 100_000], False, "ok", "0.1 s apart"),
        ([0, 100, 200], True, "warning", "0.0001 s apart"),
    ],
)
def test_time_stamps(times_us, is_ordered, severity, message) -> None:
    (found,) = check_times(["drive"] * 3, times_us, ["a.bin", "b.bin", "c.bin"], is_ordered)
    assert found.severity == severity
    assert message in found.measured
    assert bool(found.fix) == (severity != "ok")


def test_several_lidars_at_one_time_are_told_what_to_do_and_a_frame_listed_twice_is_an_error() -> None:
    times_us = [0, 0, 100_000, 100_000, 200_000, 200_000]
    scans = [f"{number}.bin" for number in range(6)]
    (found,) = check_times(["drive"] * 6, times_us, scans, is_ordered=True)
    assert found.severity == "warning"
    assert "a scene of its own" in found.fix
    (found,) = check_times(["roof", "front"] * 3, times_us, scans, is_ordered=True)
    assert found.severity == "ok"
    (found,) = check_times(["drive"] * 6, times_us, ["0.bin", *scans[:5]], is_ordered=True)
    assert found.severity == "error"
    assert "listed more than once: 0.bin" in found.measured
    (found,) = check_times(["drive"] * 9, [7] * 9, [f"{number}.bin" for number in range(9)], is_ordered=True)
    assert found.severity == "error"
    assert "its own time" in found.fix


def test_drives_and_scans_in_two_splits() -> None:
    scenes, splits = ["a", "a", "b", "c"], ["train", "train", "val", "test"]
    apart = check_splits(scenes, splits, ["1", "1", "2", "3"])
    assert (apart.severity, apart.check) == ("ok", "splits")
    assert apart.measured == "test 1 frames of 1 scenes, train 2 frames of 1 scenes, val 1 frames of 1 scenes"
    shared = check_splits(scenes, ["train", "val", "val", "test"])
    assert shared.severity == "warning"
    assert shared.measured.endswith("; in train and another: a")
    assert "whole drives" in shared.fix
    copied = check_splits(scenes, splits, ["1", "2", "1", "2"])
    assert copied.severity == "error"
    assert "2 scans of other splits are in train, too" in copied.measured
    assert check_splits(scenes, splits, ["", "", "", ""]).severity == "ok"  # an earlier release noted none
    assert check_splits(["a", "a"], ["val", "test"]).severity == "ok"  # nothing was trained on


def test_lidars_that_fire_just_after_each_other_are_not_in_another_unit() -> None:
    times_us = [start + offset for start in range(0, 500_000, 100_000) for offset in (0, 50)]
    (found,) = check_times(["drive"] * 10, times_us, [f"{number}.bin" for number in range(10)], is_ordered=True)
    assert found.severity == "ok"


def semantickitti_frames(folder: Path) -> list[Keyframe]:
    sequence = folder / "semantickitti_seq00" / "sequences" / "00"
    return [
        decode(
            Keyframe(
                frame_id=scan.stem,
                dataset="semantickitti",
                scene="00",
                split="train",
                timestamp_us=number,
                points_uri=str(scan),
                labels_uri=str(sequence / "labels" / f"{scan.stem}.label"),
            ),
        )
        for number, scan in enumerate(sorted((sequence / "velodyne").glob("*.bin")))
    ]


def nuscenes_frames(folder: Path) -> list[Keyframe]:
    folder = folder / "mmdet3d_demo" / "nuscenes"
    info = json.loads((folder / "calibration.json").read_text())
    cameras = tuple(
        CameraImage(
            name=name,
            uri=str(folder / camera["img_path"]),
            intrinsics=np.array(camera["cam2img"]),
            cam_SE3_lidar=np.array(camera["lidar2cam"]),
            timestamp_us=round(camera["timestamp"] * 1e6),
            width_px=1600,
            height_px=900,
        )
        for name, camera in info["images"].items()
    )
    scan, time_us = folder / info["lidar_points"]["lidar_path"], round(info["timestamp"] * 1e6)
    frame = Keyframe(info["token"], "nuscenes", "scene-0061", "train", time_us, str(scan), cameras=cameras)
    return [decode(frame)]


def kitti_frames(folder: Path) -> list[Keyframe]:
    folder = folder / "kitti_object" / "training"
    found = []
    for number, scan in enumerate(sorted((folder / "velodyne").glob("*.bin"))):
        lines = (folder / "calib" / f"{scan.stem}.txt").read_text().splitlines()
        values = {name: np.array(rest.split(), float) for name, _, rest in (line.partition(":") for line in lines)}
        intrinsics, cam_SE3_rectified = split_projection(values["P2"].reshape(3, 4))
        rectified_SE3_cam0 = np.eye(4)
        rectified_SE3_cam0[:3, :3] = values["R0_rect"].reshape(3, 3)
        cam0_SE3_lidar = np.vstack([values["Tr_velo_to_cam"].reshape(3, 4), [0, 0, 0, 1]])
        image = folder / "image_2" / f"{scan.stem}.png"
        pose = cam_SE3_rectified @ rectified_SE3_cam0 @ cam0_SE3_lidar
        camera = CameraImage("image_2", str(image), intrinsics, pose, number, *Image.open(image).size)
        frame = Keyframe(scan.stem, "semantickitti", "object", "train", number, str(scan), cameras=(camera,))
        found.append(decode(frame))
    return found


@pytest.mark.parametrize("load", [semantickitti_frames, nuscenes_frames, kitti_frames])
def test_real_recordings_pass(samples, load) -> None:
    frames = load(samples)
    spec = dataset_named(frames[0].dataset)
    findings = check_all([measure(f, spec.sensor) for f in frames], {}, spec.sensor, spec.taxonomy.class_names)
    assert [f for f in findings if f.severity != "ok" and f.check != "classes"] == []
    assert 1.7 < float(one(findings, "ground").measured.split()[0]) < 1.85


def test_a_real_key_frame_with_a_turned_lidar_fails(samples) -> None:
    frames = [with_cameras(frame, lambda c: turn(c, (0, 0, -4))) for frame in nuscenes_frames(samples)]
    sensor = dataset_named("nuscenes").sensor
    found = one(check_all([measure(f, sensor) for f in frames], {}, sensor, CLASSES), "alignment")
    assert found.severity == "error"
    assert "turned by about -4 deg about the LiDAR's z axis" in found.measured
