import json
import os

import numpy as np
import pytest
from nuscenes.eval.lidarseg.evaluate import LidarSegEval
from nuscenes.utils.splits import get_scenes_of_split
from pyquaternion import Quaternion

from ray_lidarseg.synthetic import nuscenes_writer as writer
from ray_lidarseg.synthetic.cameras import RIG, picture
from ray_lidarseg.synthetic.presets import PRESETS
from ray_lidarseg.synthetic.scene import Scene
from ray_lidarseg.synthetic.shading import Light
from ray_lidarseg.synthetic.solids import tilt_matrix
from tests.synthetic.killed_writer import files, is_part, write_and_die

TO_TRAIN = np.zeros(32, np.uint8)
for _raw, _train in {
    9: 1, 14: 2, 15: 3, 16: 3, 17: 4, 18: 5, 21: 6, 2: 7, 3: 7, 4: 7, 6: 7, 12: 8, 22: 9, 23: 10, 24: 11, 25: 12,
    26: 13, 27: 14, 28: 15, 30: 16,
}.items():  # fmt: skip
    TO_TRAIN[_raw] = _train


def _labels(nusc, token: str) -> np.ndarray:
    return np.fromfile(os.path.join(nusc.dataroot, nusc.get("lidarseg", token)["filename"]), np.uint8)


def test_the_devkit_loads_lists_and_walks_it(nusc, capsys):
    assert len(nusc.scene) == 10
    assert len(nusc.sample) == 20
    nusc.list_lidarseg_categories(sort_by="index")
    assert "flat.driveable_surface" in capsys.readouterr().out
    sample = nusc.get("sample", nusc.scene[0]["first_sample_token"])
    assert nusc.get("sample", sample["next"])["prev"] == sample["token"]
    assert set(sample["data"]) == {"LIDAR_TOP", *(mounting.channel for mounting in RIG)}


def test_it_does_not_say_more_than_it_should(nusc):
    files = [name for _, _, names in os.walk(nusc.dataroot) for name in names]
    assert {name.rsplit(".", 1)[1] for name in files} == {"json", "jpg", "bin", "png"}  # no hidden depth or labels
    assert not [name for name in files if name.startswith(".unfinished-")]


def test_the_devkit_draws_points_into_images(nusc, tmp_path):
    import matplotlib

    matplotlib.use("Agg")
    out = tmp_path / "overlay.png"
    token = nusc.scene[0]["first_sample_token"]
    options = {"show_lidarseg": True, "out_path": str(out), "verbose": False}
    nusc.render_pointcloud_in_image(token, pointsensor_channel="LIDAR_TOP", camera_channel="CAM_BACK", **options)
    assert out.stat().st_size > 10_000


def test_perfect_predictions_get_full_marks_from_the_official_evaluator(nusc, tmp_path):
    folder = tmp_path / "lidarseg" / "mini_val"
    folder.mkdir(parents=True)
    names = {scene["token"] for scene in nusc.scene if scene["name"] in PRESETS["tiny"].val_scenes}
    for sample in nusc.sample:
        if sample["scene_token"] in names:
            token = sample["data"]["LIDAR_TOP"]
            TO_TRAIN[_labels(nusc, token)].clip(1).tofile(folder / f"{token}_lidarseg.bin")
    (tmp_path / "mini_val").mkdir()
    meta = dict.fromkeys(("use_camera", "use_lidar", "use_radar", "use_map", "use_external"), False)
    (tmp_path / "mini_val" / "submission.json").write_text(json.dumps({"meta": meta}))
    result = LidarSegEval(nusc, str(tmp_path), eval_set="mini_val", verbose=False).evaluate()
    assert result["miou"] == pytest.approx(1.0)


def test_train_and_validation_scenes_hold_most_classes(nusc):
    val = set(PRESETS["tiny"].val_scenes)
    seen: dict[bool, set[int]] = {True: set(), False: set()}
    for sample in nusc.sample:
        name = nusc.get("scene", sample["scene_token"])["name"]
        seen[name in val] |= set(TO_TRAIN[_labels(nusc, sample["data"]["LIDAR_TOP"])].tolist())
    assert len(seen[False] - {0}) == 16
    assert len(seen[True] - {0}) >= 13


def test_points_project_onto_what_the_camera_sees(nusc, tiny_scenes):
    """Every LiDAR label against the hidden truth of the camera at the projected pixel."""
    same, count = 0, 0
    preset = PRESETS["tiny"]
    for index in (1, 4):
        scene = tiny_scenes[index]
        light = Light(scene)
        record = next(row for row in nusc.scene if row["name"] == preset.scenes[index])
        data = nusc.get("sample", record["first_sample_token"])["data"]
        points, labels = _scan(nusc, data["LIDAR_TOP"])
        for mounting in RIG:
            truth = picture(scene, light, 0, mounting, light.at(0.0))
            column, row, depth = _project(nusc, points, data["LIDAR_TOP"], data[mounting.channel])
            inside = (depth > 0.5) & (column >= 0) & (column < 96) & (row >= 0) & (row < 54)
            found = truth.labels[row[inside].astype(int), column[inside].astype(int)]
            same += int((TO_TRAIN[found] == TO_TRAIN[labels[inside]]).sum())
            count += int(inside.sum())
    assert count > 1500
    assert same / count > 0.85


def _scan(nusc, token: str) -> tuple[np.ndarray, np.ndarray]:
    points = np.fromfile(nusc.get_sample_data_path(token), np.float32).reshape(-1, 5)
    labels = _labels(nusc, token)
    keep = (TO_TRAIN[labels] > 0) & (np.linalg.norm(points[:, :3], axis=1) > 2.0)
    return points[keep, :3].astype(np.float64), labels[keep]


def _pose(row: dict) -> np.ndarray:
    pose = Quaternion(row["rotation"]).transformation_matrix
    pose[:3, 3] = row["translation"]
    return pose


def _project(nusc, points: np.ndarray, lidar: str, camera: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    first, second = nusc.get("sample_data", lidar), nusc.get("sample_data", camera)
    calibration = [nusc.get("calibrated_sensor", row["calibrated_sensor_token"]) for row in (first, second)]
    ego = [_pose(nusc.get("ego_pose", row["ego_pose_token"])) for row in (first, second)]
    chain = np.linalg.inv(ego[1] @ _pose(calibration[1])) @ ego[0] @ _pose(calibration[0])
    x, y, z = chain[:3, :3] @ points.T + chain[:3, 3:]
    matrix = np.array(calibration[1]["camera_intrinsic"])
    ahead = np.where(z > 0, z, np.nan)
    column = np.nan_to_num(matrix[0, 0] * x / ahead + matrix[0, 2], nan=-1)
    return column, np.nan_to_num(matrix[1, 1] * y / ahead + matrix[1, 2], nan=-1), z


def test_own_splits_are_where_the_devkit_looks_for_them(nusc):
    assert get_scenes_of_split("synth_val", nusc) == list(PRESETS["tiny"].val_scenes)


def test_a_lost_file_is_written_again_with_the_same_bytes(tiny_world):
    preset = PRESETS["tiny"]
    files = writer.frame_files(tiny_world, preset, 0, 2, 1)
    before = [file.read_bytes() for file in files]
    for lost in (files[0], files[3], files[-1]):
        lost.unlink()
    kept_at = files[2].stat().st_mtime_ns
    writer.write_scene(tiny_world, Scene(preset, 0, 2))
    assert [file.read_bytes() for file in files] == before
    assert files[2].stat().st_mtime_ns == kept_at


def test_a_torn_file_is_written_again_with_the_same_bytes(tiny_world):
    preset = PRESETS["tiny"]
    files = writer.frame_files(tiny_world, preset, 0, 2, 1)
    before = [file.read_bytes() for file in files]
    assert writer.is_complete(tiny_world, preset, 0)
    for torn, content in ((files[0], before[0]), (files[3], before[3]), (files[-1], before[-1])):
        torn.write_bytes(content[: len(content) // 2])
        assert not writer.is_complete(tiny_world, preset, 0)
        writer.write_scene(tiny_world, Scene(preset, 0, 2))
        assert [file.read_bytes() for file in files] == before
    table = tiny_world / "v1.0-mini" / "sample.json"
    content = table.read_bytes()
    table.write_bytes(content[:-100])
    assert not writer.is_complete(tiny_world, preset, 0)
    table.write_bytes(content)


def test_tables_are_the_same_bytes_each_time(tmp_path, tiny_world, tiny_scenes):
    rows = [writer.scene_rows(scene) for scene in tiny_scenes]
    writer.write_tables(tmp_path, PRESETS["tiny"], 0, rows)
    for file in (tmp_path / "v1.0-mini").iterdir():
        assert file.read_bytes() == (tiny_world / "v1.0-mini" / file.name).read_bytes()


def test_quaternions_agree_with_pyquaternion():
    for angles in ((0.3, -0.2, 0.1), (3.1, 0.0, 0.0), (-1.6, 1.2, -2.0)):
        matrix = tilt_matrix(*angles).astype(np.float64)
        np.testing.assert_allclose(Quaternion(writer.quaternion(matrix)).rotation_matrix, matrix, atol=1e-6)


def test_categories_are_the_devkit_ones():
    from nuscenes.utils.color_map import get_colormap

    assert len(writer.CATEGORIES) == 32
    assert set(writer.CATEGORIES) == set(get_colormap())


def test_a_writer_killed_in_the_middle_of_a_file_shows_whole_files_only_and_continues(tmp_path):
    scene = Scene(PRESETS["tiny"], 0, 0)
    writer.write_scene(tmp_path / "undisturbed", scene)
    whole, root = files(tmp_path / "undisturbed"), tmp_path / "killed"
    for num_files in (1, 4):  # in the first labels, then in an image
        write_and_die(root, "nuscenes", "tiny", {}, num_files)
        there = files(root)
        assert sum(map(is_part, there)) == 1
        assert {file: content for file, content in there.items() if not is_part(file)}.items() <= whole.items()
    others = root / "samples" / "LIDAR_TOP" / ".unfinished-another-scene.pcd.bin-x"
    others.write_bytes(b"still being written")
    writer.write_scene(root, scene)
    assert others.exists()
    others.unlink()
    assert files(root) == whole
