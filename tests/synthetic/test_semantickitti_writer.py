from pathlib import Path

import cv2
import numpy as np
import pytest

from ray_lidarseg.datasets import semantickitti
from ray_lidarseg.datasets.decode import decode
from ray_lidarseg.datasets.semantickitti import CLASSES as SEMANTICKITTI
from ray_lidarseg.metrics.confusion import Confusion
from ray_lidarseg.synthetic import semantickitti_writer as writer
from ray_lidarseg.synthetic.kitti_rig import elevations, picture
from ray_lidarseg.synthetic.options import with_options
from ray_lidarseg.synthetic.presets import PRESETS, Preset
from ray_lidarseg.synthetic.scene import Scene
from ray_lidarseg.synthetic.shading import Light
from tests.synthetic.killed_writer import files, is_part, write_and_die

SMALL = {"columns": 400, "frames": 3, "image_width_px": 300, "train_scenes": 1, "val_scenes": 1}
FINE_OF_RAW = {
    10: 17, 11: 14, 13: 16, 15: 21, 18: 23, 20: 22, 30: 2, 31: 14, 32: 21, 40: 24, 44: 24, 48: 26, 49: 25, 50: 28,
    51: 28, 52: 28, 70: 30, 71: 30, 72: 27, 80: 28, 81: 28, 99: 28, 252: 17, 253: 14, 254: 2, 255: 21, 257: 16, 258: 23,
    259: 22,
}  # fmt: skip
"""A fine nuScenes category for each raw id; barriers (a fence here) and children are the few exceptions."""


def _preset(**options: float) -> Preset:
    return with_options(PRESETS["kitti"], {**SMALL, **options})


@pytest.fixture(scope="module")
def scenes() -> list[Scene]:
    return [Scene(_preset(), 0, index) for index in range(2)]


@pytest.fixture(scope="module")
def root(tmp_path_factory, scenes) -> Path:
    cv2.setNumThreads(1)
    root = tmp_path_factory.mktemp("kitti")
    for scene in scenes:
        writer.write_scene(root, scene)
    return root


def _points(root: Path, index: int, frame: int) -> np.ndarray:
    return np.fromfile(writer.frame_files(root, _preset(), index, frame)[0], np.float32).reshape(-1, 4)


def _labels(root: Path, index: int, frame: int, which: int = 1) -> np.ndarray:
    return np.fromfile(writer.frame_files(root, _preset(), index, frame)[which], np.uint32)


def _calibration(root: Path, sequence: str) -> dict[str, np.ndarray]:
    lines = (root / "sequences" / sequence / "calib.txt").read_text().splitlines()
    return {
        name: np.array(rest.split(), float).reshape(3, 4) for name, _, rest in (line.partition(":") for line in lines)
    }


def test_exactly_the_announced_files_are_there(root):
    found = {file for file in root.rglob("*") if file.is_file()}
    assert found == set(writer.files(root, _preset(), 0))
    assert not (root / "sequences" / "08" / "scribbles").exists()
    for index in range(2):
        folder = root / "sequences" / _preset().scenes[index]
        assert len((folder / "poses.txt").read_text().splitlines()) == 3
        np.testing.assert_allclose(np.loadtxt(folder / "times.txt"), [0.0, 0.1, 0.2])
        assert set(_calibration(root, folder.name)) == {"P0", "P1", "P2", "P3", "Tr"}


def test_a_file_has_64_rings_from_the_top_each_counter_clockwise_from_straight_ahead(root):
    """The ring rule for real files: a new ring starts where the azimuth jumps from almost a turn to almost none."""
    points = _points(root, 0, 0)
    turn = 0.5 * (-np.arctan2(points[:, 1], -points[:, 0]) / np.pi + 1)
    ring = np.cumsum(np.concatenate([[False], (turn[1:] < 0.2) & (turn[:-1] > 0.8)]))
    assert ring[-1] == 63
    elevation = np.degrees(np.arctan2(points[:, 2], np.hypot(points[:, 0], points[:, 1])))
    expected = np.degrees(elevations(_preset()))[::-1]
    np.testing.assert_allclose([np.median(elevation[ring == k]) for k in range(64)], expected, atol=0.05)
    assert (np.diff(turn)[np.diff(ring) == 0] > 0).all()


def test_the_sensor_is_173_cm_above_the_road_and_sees_neither_itself_nor_gaps(root):
    points, raw = _points(root, 0, 0), _labels(root, 0, 0) & 0xFFFF
    near = (raw == 40) & (np.hypot(points[:, 0], points[:, 1]) < 8)
    assert np.median(points[near, 2]) == pytest.approx(-1.73, abs=0.1)
    assert np.linalg.norm(points[:, :3], axis=1).min() > 1.5
    assert (points[:, 3] >= 0).all()
    assert (points[:, 3] < 1).all()
    assert len(points) < 64 * 400


def test_the_reader_and_the_official_ids_accept_everything(root):
    frames = list(semantickitti.index(str(root)))
    assert [(frame.scene, frame.split) for frame in frames] == [("00", "train")] * 3 + [("08", "val")] * 3
    decoded = [decode(frame) for frame in frames]
    truth = np.concatenate([frame.labels for frame in decoded])
    assert len(truth) == sum(len(frame.points) for frame in decoded)
    confusion = Confusion(19)
    confusion.add(truth, truth)
    assert confusion.miou() == 1.0
    named = {SEMANTICKITTI.class_names[number] for number in np.unique(truth[truth < 255])}
    assert named >= {
        "car",
        "road",
        "sidewalk",
        "parking",
        "building",
        "vegetation",
        "trunk",
        "terrain",
        "pole",
        "fence",
    }


def test_only_countable_things_have_instances_and_what_drives_has_moving_ids(root):
    labels = np.concatenate([_labels(root, index, frame) for index in range(2) for frame in range(3)])
    raw, instance = labels & 0xFFFF, labels >> 16
    countable = ((raw >= 10) & (raw <= 32)) | (raw >= 252)
    np.testing.assert_array_equal(instance > 0, countable)
    assert {252, 10} <= set(raw.tolist())
    sequence = np.concatenate([_labels(root, 0, frame) for frame in range(3)])
    of_instance = [set((sequence[sequence >> 16 == k] & 0xFFFF).tolist()) for k in np.unique(sequence >> 16) if k]
    assert max(len({raw >= 252 for raw in ids}) for ids in of_instance) == 1


def test_points_project_through_p2_and_tr_onto_what_the_camera_sees(root, scenes):
    same, count = 0, 0
    for index, scene in enumerate(scenes):
        matrix = _calibration(root, _preset().scenes[index])
        truth = picture(scene, Light(scene), 1).labels
        points, raw = _points(root, index, 1)[:, :3], _labels(root, index, 1) & 0xFFFF
        chain = matrix["P2"] @ np.vstack([matrix["Tr"], [0, 0, 0, 1]])
        x, y, depth = chain @ np.column_stack([points, np.ones(len(points))]).T
        column, row = (np.floor(value / np.maximum(depth, 0.1)).astype(int) for value in (x, y))
        seen = (depth > 0.5) & (column >= 0) & (column < truth.shape[1]) & (row >= 0) & (row < truth.shape[0])
        expected = np.array([FINE_OF_RAW.get(value, -1) for value in raw[seen].tolist()])
        same += int((truth[row[seen], column[seen]] == expected).sum())
        count += int(seen.sum())
    assert count > 2000
    assert same / count > 0.85


def test_poses_take_every_scan_to_one_place_whatever_the_calibration_error(scenes):
    off = Scene(_preset(calibration_error_deg=2), 0, 0)
    stated, true = writer.stated_cam0_SE3_lidar(off), writer.stated_cam0_SE3_lidar(scenes[0])
    turned = stated[:3, :3] @ true[:3, :3].T
    assert np.degrees(np.arccos((np.trace(turned) - 1) / 2)) == pytest.approx(2.0, abs=1e-6)
    for tr, scene in ((stated, off), (true, scenes[0])):
        motion = np.linalg.inv(tr) @ writer.cam0_pose(scene, tr, 2) @ tr
        moved = np.linalg.norm(motion[:3, 3])
        assert moved == pytest.approx(0.2 * scene.speed, rel=0.1)
        assert motion[0, 3] == pytest.approx(moved, rel=0.05)


def test_scribbles_tell_the_truth_about_a_small_share_of_every_common_class(root):
    truth = np.concatenate([_labels(root, 0, frame) for frame in range(3)])
    drawn = np.concatenate([_labels(root, 0, frame, which=3) for frame in range(3)])
    np.testing.assert_array_equal(drawn[drawn > 0], truth[drawn > 0])
    assert 0.07 < (drawn > 0).mean() < 0.09  # ScribbleKITTI: 8.06 %
    assert not np.isin(drawn[drawn > 0] & 0xFFFF, (0, 1)).any()
    for raw in (40, 48, 50, 72):
        assert 0.05 < (drawn[truth & 0xFFFF == raw] > 0).mean() < 0.12
    listed = list(semantickitti.index(str(root), label_dir="scribbles"))
    assert {Path(frame.labels_uri).parent.name for frame in listed if frame.split == "train"} == {"scribbles"}


def test_lost_and_torn_files_are_written_again_with_the_same_bytes(root, scenes):
    files = writer.frame_files(root, _preset(), 0, 1)
    before = [file.read_bytes() for file in files]
    for lost in (files[1], files[2], files[3]):
        lost.unlink()
    writer.write_scene(root, scenes[0])
    assert [file.read_bytes() for file in files] == before
    assert writer.is_complete(root, _preset(), 0)
    for torn, content in zip(files, before, strict=True):
        torn.write_bytes(content[: len(content) // 2])
        assert not writer.is_complete(root, _preset(), 0)
        torn.write_bytes(content)
    for torn, content in zip(files[1:], before[1:], strict=True):
        torn.write_bytes(content[: len(content) // 2])
    writer.write_scene(root, scenes[0])
    assert [file.read_bytes() for file in files] == before


def test_a_writer_killed_in_the_middle_of_a_file_shows_whole_files_only_and_continues(tmp_path):
    options = {"columns": 60, "beams": 8, "frames": 2, "image_width_px": 32, "train_scenes": 1, "val_scenes": 1}
    scene = Scene(with_options(PRESETS["kitti"], options), 0, 0)
    writer.write_scene(tmp_path / "undisturbed", scene)
    whole, root = files(tmp_path / "undisturbed"), tmp_path / "killed"
    seen: list[int] = []
    for num_files in (1, 3, 4):  # in the first labels, in the second scan, in the second scribbles
        write_and_die(root, "semantickitti", "kitti", options, num_files)
        there = files(root)
        shown = {file: content for file, content in there.items() if not is_part(file)}
        assert len(there) == len(shown) + 1
        assert shown.items() <= whole.items()
        seen.append(len(shown))
    assert seen == [1, 3, 7]
    writer.write_scene(root, scene)
    assert files(root) == whole


def _files(root: Path) -> list[Path]:
    return [file for file in root.rglob("*") if file.is_file()]
