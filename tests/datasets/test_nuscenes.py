"""The nuScenes index on hand-written tables: the least the devkit loads, with poses one can check by hand."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from nuscenes.utils.color_map import get_colormap

from ray_lidarseg.datasets import nuscenes
from ray_lidarseg.errors import DataError

VERSION = "v1.0-mini"
UPRIGHT = [1.0, 0.0, 0.0, 0.0]
QUARTER_LEFT = [np.sqrt(0.5), 0.0, 0.0, np.sqrt(0.5)]
Tables = dict[str, list[dict[str, Any]]]


def tables(scenes: tuple[str, ...] = ("scene-0061", "scene-0103"), frames: int = 2) -> Tables:
    """Ego drives 1 m along x between the LiDAR and the camera time of frame k, which starts at x = 10 k."""
    made: Tables = {name: [] for name in ("attribute", "visibility", "instance", "sample_annotation")}
    made |= {name: [] for name in ("scene", "sample", "sample_data", "ego_pose", "lidarseg")}
    made["category"] = [
        {"token": f"cat{i}", "name": name, "description": "", "index": i} for i, name in enumerate(get_colormap())
    ]
    made["sensor"] = [
        {"token": "sl", "channel": "LIDAR_TOP", "modality": "lidar"},
        {"token": "sc", "channel": "CAM_FRONT", "modality": "camera"},
    ]
    made["calibrated_sensor"] = [
        {"token": "cl", "sensor_token": "sl", "translation": [1, 0, 2], "rotation": UPRIGHT, "camera_intrinsic": []},
        {
            "token": "cc",
            "sensor_token": "sc",
            "translation": [2, 0, 1.5],
            "rotation": [0.5, -0.5, 0.5, -0.5],  # camera x right, y down, z forward in an ego x forward, y left, z up
            "camera_intrinsic": [[100, 0, 50], [0, 100, 25], [0, 0, 1]],
        },
    ]
    made["log"] = [{"token": "log", "logfile": "l", "vehicle": "v", "date_captured": "d", "location": "here"}]
    made["map"] = [{"token": "map", "log_tokens": ["log"], "category": "semantic_prior", "filename": "maps/m.png"}]
    for scene in scenes:
        tokens = [f"{scene}-{k}" for k in range(frames)]
        made["scene"].append(
            {
                "token": scene,
                "name": scene,
                "description": "",
                "log_token": "log",
                "nbr_samples": frames,
                "first_sample_token": tokens[0],
                "last_sample_token": tokens[-1],
            }
        )
        for k, token in enumerate(tokens):
            _frame(made, scene, token, k, [*tokens, ""][k + 1], "" if k == 0 else tokens[k - 1])
    return made


def _frame(made: Tables, scene: str, token: str, k: int, following: str, previous: str) -> None:
    time_us = 500_000 * k
    made["sample"].append(
        {"token": token, "timestamp": time_us, "scene_token": scene, "prev": previous, "next": following}
    )
    for kind, calibration, x_m, name in (("l", "cl", 10.0 * k, "pcd.bin"), ("c", "cc", 10.0 * k + 1, "jpg")):
        made["ego_pose"].append(
            {"token": f"e{kind}{token}", "timestamp": 0, "rotation": UPRIGHT, "translation": [x_m, 0, 0]}
        )
        made["sample_data"].append(
            {
                "token": f"{kind}-{token}",
                "sample_token": token,
                "ego_pose_token": f"e{kind}{token}",
                "calibrated_sensor_token": calibration,
                "timestamp": time_us + (7 if kind == "c" else 0),
                "fileformat": name[:3],
                "is_key_frame": True,
                "height": 50 if kind == "c" else 0,
                "width": 100 if kind == "c" else 0,
                "filename": f"samples/{kind}/{token}.{name}",
                "prev": "",
                "next": "",
            }
        )
    made["lidarseg"].append(
        {
            "token": f"l-{token}",
            "sample_data_token": f"l-{token}",
            "filename": f"lidarseg/{VERSION}/l-{token}_lidarseg.bin",
        }
    )


def write(root: Path, made: Tables) -> str:
    for name, rows in made.items():
        file = root / VERSION / f"{name}.json"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(rows))
    (root / "maps").mkdir()
    (root / "maps" / "m.png").touch()
    for row in made.get("lidarseg", []):
        (root / row["filename"]).parent.mkdir(parents=True, exist_ok=True)
        (root / row["filename"]).touch()
    return str(root)


def test_key_frames_in_order_with_paths_and_splits(tmp_path: Path) -> None:
    root = write(tmp_path, tables())
    frames = list(nuscenes.index(root, VERSION))
    assert [frame.frame_id for frame in frames] == [
        "l-scene-0061-0",
        "l-scene-0061-1",
        "l-scene-0103-0",
        "l-scene-0103-1",
    ]
    assert [frame.alias for frame in frames] == ["scene-0061-0", "scene-0061-1", "scene-0103-0", "scene-0103-1"]
    assert [frame.split for frame in frames] == ["train", "train", "val", "val"]
    assert frames[1].timestamp_us == 500_000
    assert frames[1].points_uri == f"{root}/samples/l/scene-0061-1.pcd.bin"
    assert frames[1].labels_uri == f"{root}/lidarseg/{VERSION}/l-scene-0061-1_lidarseg.bin"


def test_the_camera_pose_includes_the_way_driven_between_the_two_exposures(tmp_path: Path) -> None:
    frame = list(nuscenes.index(write(tmp_path, tables()), VERSION))[1]
    (camera,) = frame.cameras
    assert (camera.name, camera.width_px, camera.height_px, camera.timestamp_us) == ("CAM_FRONT", 100, 50, 500_007)
    # LiDAR at ego (1, 0, 2); the camera, one metre further on, at (3, 0, 1.5) of the same ego frame.
    in_lidar = np.array([9.0, 1.0, -2.0, 1.0])  # ego (10, 1, 0)
    np.testing.assert_allclose(camera.cam_SE3_lidar @ in_lidar, [-1.0, 1.5, 7.0, 1.0], atol=1e-12)
    np.testing.assert_array_equal(camera.intrinsics, [[100, 0, 50], [0, 100, 25], [0, 0, 1]])


def test_a_turned_ego_turns_the_view(tmp_path: Path) -> None:
    made = tables(frames=1)
    made["ego_pose"][1]["rotation"] = QUARTER_LEFT  # the camera looks along global y
    (camera,) = next(nuscenes.index(write(tmp_path, made), VERSION)).cameras
    in_lidar = np.array([0.0, 8.0, 0.0, 1.0])  # global (1, 8, 2), the camera is at (1, 2, 1.5)
    np.testing.assert_allclose(camera.cam_SE3_lidar @ in_lidar, [0.0, -0.5, 6.0, 1.0], atol=1e-12)


def test_the_pose_agrees_with_the_devkits_projection_chain(tmp_path: Path) -> None:
    from pyquaternion import Quaternion

    made = tables(frames=1)
    rng = np.random.default_rng(0)
    for row in made["ego_pose"] + made["calibrated_sensor"]:
        row["rotation"] = Quaternion(rng.normal(size=4)).normalised.elements.tolist()
        row["translation"] = rng.uniform(-1000, 1000, 3).tolist()
    (camera,) = next(nuscenes.index(write(tmp_path, made), VERSION)).cameras
    point = rng.normal(size=3)
    steps = [
        (made["calibrated_sensor"][0], False),
        (made["ego_pose"][0], False),
        (made["ego_pose"][1], True),
        (made["calibrated_sensor"][1], True),
    ]
    expected = point
    for row, is_inverse in steps:
        rotation, translation = Quaternion(row["rotation"]).rotation_matrix, np.array(row["translation"])
        expected = rotation.T @ (expected - translation) if is_inverse else rotation @ expected + translation
    np.testing.assert_allclose((camera.cam_SE3_lidar @ [*point, 1.0])[:3], expected, atol=1e-8)


def test_a_set_without_labels(tmp_path: Path) -> None:
    made = tables()
    del made["lidarseg"]
    assert {frame.labels_uri for frame in nuscenes.index(write(tmp_path, made), VERSION)} == {""}


def test_own_scenes_get_their_split_from_splits_json(tmp_path: Path) -> None:
    root = write(tmp_path, tables(("own-1", "own-2", "own-3"), frames=1))
    named = {"own_train": ["own-2"], "own_val": ["own-1"], "own_test": ["own-3"]}
    (tmp_path / VERSION / "splits.json").write_text(json.dumps(named))
    assert {f.scene: f.split for f in nuscenes.index(root, VERSION)} == {
        "own-1": "val",
        "own-2": "train",
        "own-3": "test",
    }


def test_a_split_name_without_meaning(tmp_path: Path) -> None:
    root = write(tmp_path, tables())
    (tmp_path / VERSION / "splits.json").write_text('{"mine": ["scene-0061"]}')
    with pytest.raises(DataError, match=r"splits.json: split 'mine' must end in one of train, val, test"):
        list(nuscenes.index(root, VERSION))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{'own_train': []}", "splits.json is not JSON"),
        ('["scene-0061"]', "expected lists of scene names by split"),
        ('{"own_train": "scene-0061"}', "expected lists of scene names by split"),
    ],
)
def test_a_split_file_that_is_none(tmp_path: Path, content: str, message: str) -> None:
    root = write(tmp_path, tables())
    (tmp_path / VERSION / "splits.json").write_text(content)
    with pytest.raises(DataError, match=message):
        list(nuscenes.index(root, VERSION))


def test_a_scene_in_no_split(tmp_path: Path) -> None:
    root = write(tmp_path, tables(("own-1",)))
    with pytest.raises(DataError, match=r"scene own-1 of v1.0-mini is in no official split: name it in .*splits.json"):
        list(nuscenes.index(root, VERSION))


def _other_order(made: Tables) -> None:
    made["category"][25]["index"], made["category"][26]["index"] = 26, 25


def _no_log(made: Tables) -> None:
    made["map"][0]["log_tokens"] = []


def _no_lidar(made: Tables) -> None:
    made["sample_data"] = [row for row in made["sample_data"] if row["token"] != "l-scene-0061-0"]
    del made["lidarseg"]


def _no_pose(made: Tables) -> None:
    made["ego_pose"] = made["ego_pose"][1:]


def _bad_rotation(made: Tables) -> None:
    made["ego_pose"][0]["rotation"] = [2.0, 0.0, 0.0, 0.0]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_other_order, "category.json numbers flat.sidewalk as 25, expected flat.other"),
        (_no_log, r"nuScenes v1.0-mini in .* does not load \(AssertionError|does not load \(KeyError"),
        (_no_lidar, "sample scene-0061-0 of scene-0061 has no LIDAR_TOP key-frame"),
        (_no_pose, "tables of nuScenes v1.0-mini .* scene-0061 refers to 'elscene-0061-0', which no record has"),
        (_bad_rotation, "wrong calibration: expected a unit quaternion"),
    ],
)
def test_damaged_tables(tmp_path: Path, damage: Callable[[Tables], None], message: str) -> None:
    made = tables()
    damage(made)
    with pytest.raises(DataError, match=message):
        list(nuscenes.index(write(tmp_path, made), VERSION))


def test_missing_tables_and_label_files(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"holds no folder v1.0-trainval: expected a nuScenes data root"):
        list(nuscenes.index(str(tmp_path), "v1.0-trainval"))
    root = write(tmp_path, tables())
    (tmp_path / "lidarseg" / VERSION / "l-scene-0061-0_lidarseg.bin").unlink()
    with pytest.raises(DataError, match=r"does not load \(AssertionError: Error: there are 3 label files but 4"):
        list(nuscenes.index(root, VERSION))
    (tmp_path / VERSION / "ego_pose.json").unlink()
    with pytest.raises(DataError, match=r"does not load \(FileNotFoundError"):
        list(nuscenes.index(root, VERSION))
