"""nuScenes-lidarseg: classes, LiDAR and files; listed through the official devkit, which workers never load."""

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ray_lidarseg.datasets.binary_scans import BinaryScans
from ray_lidarseg.datasets.folders import data_root
from ray_lidarseg.datasets.spec import DatasetSpec
from ray_lidarseg.datasets.taxonomy import taxonomy
from ray_lidarseg.errors import DataError
from ray_lidarseg.geometry import pose
from ray_lidarseg.geometry.camera import chain
from ray_lidarseg.recipe.text_files import read_json
from ray_lidarseg.sample import CameraImage, Keyframe, SensorSpec

if TYPE_CHECKING:
    from nuscenes import NuScenes

NAME = "nuscenes"
_LIDAR = "LIDAR_TOP"
_SPLITS = ("train", "val", "test")

# Raw ids as in category.json (the devkit's instructions_lidarseg.md numbers 25-27, 29 and 30 wrongly); RGB as in the
# devkit's colour map; prediction ids 1 … 16 as in the lidarseg benchmark.
CLASSES = taxonomy(
    NAME,
    (
        ("barrier", (112, 128, 144), (9,), 1),
        ("bicycle", (220, 20, 60), (14,), 2),
        ("bus", (255, 127, 80), (15, 16), 3),
        ("car", (255, 158, 0), (17,), 4),
        ("construction_vehicle", (233, 150, 70), (18,), 5),
        ("motorcycle", (255, 61, 99), (21,), 6),
        ("pedestrian", (0, 0, 230), (2, 3, 4, 6), 7),
        ("traffic_cone", (47, 79, 79), (12,), 8),
        ("trailer", (255, 140, 0), (22,), 9),
        ("truck", (255, 99, 71), (23,), 10),
        ("driveable_surface", (0, 207, 191), (24,), 11),
        ("other_flat", (175, 0, 75), (25,), 12),
        ("sidewalk", (75, 0, 75), (26,), 13),
        ("terrain", (112, 180, 60), (27,), 14),
        ("manmade", (222, 184, 135), (28,), 15),
        ("vegetation", (0, 175, 0), (30,), 16),
    ),
    ignored=(0, 1, 5, 7, 8, 10, 11, 13, 19, 20, 29, 31),
)

# The 43 detailed names OpenScene's code (Peng et al., CVPR 2023) maps to the 16 classes.
_WORDS = {
    "barrier": ("barrier", "barricade"),
    "bicycle": ("bicycle",),
    "bus": ("bus",),
    "car": ("car",),
    "construction_vehicle": ("bulldozer", "excavator", "concrete mixer", "crane", "dump truck"),
    "motorcycle": ("motorcycle",),
    "pedestrian": ("person", "pedestrian"),
    "traffic_cone": ("traffic cone",),
    "trailer": ("trailer", "semi trailer", "cargo container", "shipping container", "freight container"),
    "truck": ("truck",),
    "driveable_surface": ("road",),
    "other_flat": ("curb", "traffic island", "traffic median"),
    "sidewalk": ("sidewalk",),
    "terrain": ("grass", "grassland", "lawn", "meadow", "turf", "sod"),
    "manmade": ("building", "wall", "pole", "awning"),
    "vegetation": ("tree", "trunk", "tree trunk", "bush", "shrub", "plant", "flower", "woods"),
}


def index(root: str, version: str = "v1.0-mini") -> Iterator[Keyframe]:
    """Lists the LiDAR key-frames of a data set in nuScenes format, by path, with six calibrated cameras.

    A frame's id is the token of its LIDAR_TOP sample data, its alias the token of its sample. A scene's split is what
    ``root/version/splits.json`` says (names that end in train, val or test), else the devkit's official list.

    Args:
        root: Data root, holds ``version``, ``samples`` and ``lidarseg``.
        version: Name of the table folder.

    Raises:
        DataError: The tables are missing or inconsistent, number the categories in another order, or a scene belongs to
            no split.
    """
    nusc = _load(root, version)
    split_of_scene = _splits(Path(root) / version / "splits.json", version)
    for scene in nusc.scene:
        if scene["name"] not in split_of_scene:
            raise DataError(
                f"scene {scene['name']} of {version} is in no official split: name it in {root}/{version}/splits.json, "
                'for example {"own_train": ["' + scene["name"] + '"]}'
            )
        try:
            yield from _scene(nusc, scene, split_of_scene[scene["name"]])
        except KeyError as error:
            raise DataError(
                f"the tables of nuScenes {version} in {root} do not belong together: {scene['name']} refers to "
                f"{error}, which no record has"
            ) from error
        except (TypeError, ValueError, AttributeError, IndexError) as error:
            raise DataError(
                f"the tables of nuScenes {version} in {root}, {scene['name']}: a record has another shape ({error})"
            ) from error


def official_set(split: str, scenes: Sequence[str]) -> tuple[str, Mapping[str, int]]:
    """Name of the devkit's set that a split is (``mini_val`` where its scenes lie in that one), and its scenes.

    How many key-frames a scene has is what the tables say: 0 stands for any number.

    Raises:
        DataError: The split is neither ``val`` nor ``test``.
    """
    from nuscenes.utils.splits import create_splits_scenes

    if split not in ("val", "test"):
        raise DataError(f"nuScenes' server scores val or test, not {split!r}: predict one of them")
    official = create_splits_scenes()
    mini = f"mini_{split}"
    name = mini if mini in official and set(scenes) <= set(official[mini]) else split
    return name, dict.fromkeys(official[name], 0)


def _load(root: str, version: str) -> "NuScenes":
    if not (Path(root) / version).is_dir():
        raise DataError(f"{root} holds no folder {version}: expected a nuScenes data root, or another --version")
    from nuscenes import NuScenes

    try:
        nusc = NuScenes(version=version, dataroot=root, verbose=False)
    except Exception as error:  # the devkit promises no type for tables of another shape
        raise DataError(
            f"nuScenes {version} in {root} does not load ({type(error).__name__}: {error}): a table is missing or the "
            "tables and the lidarseg files do not belong together"
        ) from error
    _check_categories(nusc, version)
    return nusc


def _check_categories(nusc: "NuScenes", version: str) -> None:
    from nuscenes.utils.color_map import get_colormap

    found = getattr(nusc, "lidarseg_idx2name_mapping", {})
    expected = dict(enumerate(get_colormap()))
    wrong = {number: name for number, name in found.items() if expected.get(number) != name}
    if wrong:
        number, name = min(wrong.items())
        raise DataError(
            f"{version}/category.json numbers {name} as {number}, expected {expected.get(number, 'no such number')}: "
            "use the category.json that comes with nuScenes-lidarseg"
        )


def _splits(file: Path, version: str) -> dict[str, str]:
    from nuscenes.utils.splits import create_splits_scenes

    official = create_splits_scenes()
    names = ("mini_train", "mini_val") if version.endswith("mini") else _SPLITS
    chosen = {name: official[name] for name in names}
    if file.is_file():
        chosen |= _own_splits(file)
    split_of_scene: dict[str, str] = {}
    for name, scenes in chosen.items():
        split = next((split for split in _SPLITS if name.endswith(split)), "")
        if not split:
            raise DataError(f"{file}: split {name!r} must end in one of {', '.join(_SPLITS)}")
        split_of_scene |= dict.fromkeys(scenes, split)
    return split_of_scene


def _own_splits(file: Path) -> dict[str, list[str]]:
    found = read_json(file.read_bytes(), str(file), DataError, object)
    texts = [name for names in found.values() for name in names] if _holds_lists(found) else [None]
    if not all(isinstance(name, str) for name in texts):
        raise DataError(f'{file}: expected lists of scene names by split, for example {{"own_train": ["scene-1"]}}')
    return found


def _holds_lists(found: object) -> bool:
    return isinstance(found, dict) and all(isinstance(names, list) for names in found.values())


def _scene(nusc: "NuScenes", scene: dict[str, Any], split: str) -> Iterator[Keyframe]:
    token = scene["first_sample_token"]
    while token:
        sample = nusc.get("sample", token)
        if _LIDAR not in sample["data"]:
            raise DataError(f"sample {token} of {scene['name']} has no {_LIDAR} key-frame")
        yield _keyframe(nusc, sample, scene["name"], split)
        token = sample["next"]


def _keyframe(nusc: "NuScenes", sample: dict[str, Any], scene: str, split: str) -> Keyframe:
    lidar = nusc.get("sample_data", sample["data"][_LIDAR])
    lidar_poses = _poses(nusc, lidar)
    channels = sorted(channel for channel in sample["data"] if channel.startswith("CAM"))
    return Keyframe(
        frame_id=lidar["token"],
        dataset=NAME,
        scene=scene,
        split=split,
        timestamp_us=lidar["timestamp"],
        points_uri=str(Path(nusc.dataroot) / lidar["filename"]),
        labels_uri=_labels_uri(nusc, lidar["token"]),
        cameras=tuple(_camera(nusc, channel, sample["data"][channel], lidar_poses) for channel in channels),
        alias=sample["token"],
    )


def _labels_uri(nusc: "NuScenes", token: str) -> str:
    if not hasattr(nusc, "lidarseg") or token not in nusc._token2ind["lidarseg"]:
        return ""
    return str(Path(nusc.dataroot) / nusc.get("lidarseg", token)["filename"])


def _camera(nusc: "NuScenes", channel: str, token: str, lidar_poses: tuple[np.ndarray, np.ndarray]) -> CameraImage:
    record = nusc.get("sample_data", token)
    sensor = nusc.get("calibrated_sensor", record["calibrated_sensor_token"])
    ego_SE3_cam, global_SE3_ego = _poses(nusc, record)
    return CameraImage(
        name=channel,
        uri=str(Path(nusc.dataroot) / record["filename"]),
        intrinsics=np.array(sensor["camera_intrinsic"], np.float64),
        cam_SE3_lidar=chain(*lidar_poses, global_SE3_ego, ego_SE3_cam),
        timestamp_us=record["timestamp"],
        width_px=int(record.get("width", 0)),
        height_px=int(record.get("height", 0)),
    )


def _poses(nusc: "NuScenes", record: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    """ego_SE3_sensor, and global_SE3_ego at the record's own time."""
    ego_SE3_sensor = _pose(nusc.get("calibrated_sensor", record["calibrated_sensor_token"]))
    return ego_SE3_sensor, _pose(nusc.get("ego_pose", record["ego_pose_token"]))


def _pose(record: dict[str, Any]) -> np.ndarray:
    return pose.from_quaternion(np.array(record["rotation"]), np.array(record["translation"]))


_FILES = BinaryScans(("x", "y", "z", "intensity", "ring"), 255.0, "u1", 0xFF, CLASSES)

SPEC = DatasetSpec(
    name=NAME,
    taxonomy=CLASSES,
    sensor=SensorSpec(
        num_beams=32,
        fov_up_rad=math.radians(10.0),  # field of view as in the authors' range-view configurations
        fov_down_rad=math.radians(-30.0),
        min_range_m=2.0,  # ours: nearer are ego-roof hits and no-return rays (24 % of a real scan lie below 1 m)
        max_range_m=120.0,  # ours: what real files hold
        intensity_scale=1.0 / 255.0,
    ),
    index=lambda root, options: index(data_root(root, NAME), options.version),
    decode=_FILES.decode,
    words=_WORDS,
    things=tuple(range(10)),  # of nuScenes-panoptic
    ground=(10, 11, 12),  # nuScenes-C (authors' code), as the next
    vehicles=(1, 2, 3, 4, 5, 8, 9),
    forward="y",
    front_camera="CAM_FRONT",
    grid_height_m=(-5.0, 3.0),
    files=_FILES,
    raw_labels=_FILES.raw_labels,
)
