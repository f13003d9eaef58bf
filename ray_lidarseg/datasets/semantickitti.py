"""SemanticKITTI, and ScribbleKITTI, which is the same scans with other label files: classes, LiDAR and files."""

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ray_lidarseg import storage
from ray_lidarseg.datasets.binary_scans import BinaryScans
from ray_lidarseg.datasets.folders import data_root
from ray_lidarseg.datasets.image_files import size_px
from ray_lidarseg.datasets.spec import DatasetSpec
from ray_lidarseg.datasets.taxonomy import taxonomy
from ray_lidarseg.errors import DataError
from ray_lidarseg.geometry import pose
from ray_lidarseg.geometry.camera import split_projection
from ray_lidarseg.recipe.text_files import read_text
from ray_lidarseg.sample import CameraImage, Keyframe, SensorSpec

NAME = "semantickitti"
VALIDATION = ("08",)
TEST = tuple(f"{number:02d}" for number in range(11, 22))
_TEST_SCANS = (921, 1061, 3281, 631, 1901, 1731, 491, 1801, 4981, 831, 2721)  # 20,351 in all
_VALIDATION_SCANS = 4071
_CAMERA = "image_2"
_IMAGES = (".png", ".jpg", ".jpeg")
_SWEEP_US = 100_000  # the LiDAR turns ten times a second; used where times.txt is absent
_NUMBER = re.compile(r"[0-9]{1,12}")  # ours: of a scan; longer ones are times or hashes

# learning_map and learning_map_inv of semantic-kitti.yaml (there shifted by one with ignore 0); its colours are BGR.
CLASSES = taxonomy(
    NAME,
    (
        ("car", (100, 150, 245), (10, 252), 10),
        ("bicycle", (100, 230, 245), (11,), 11),
        ("motorcycle", (30, 60, 150), (15,), 15),
        ("truck", (80, 30, 180), (18, 258), 18),
        ("other-vehicle", (0, 0, 255), (13, 16, 20, 256, 257, 259), 20),
        ("person", (255, 30, 30), (30, 254), 30),
        ("bicyclist", (255, 40, 200), (31, 253), 31),
        ("motorcyclist", (150, 30, 90), (32, 255), 32),
        ("road", (255, 0, 255), (40, 60), 40),
        ("parking", (255, 150, 255), (44,), 44),
        ("sidewalk", (75, 0, 75), (48,), 48),
        ("other-ground", (175, 0, 75), (49,), 49),
        ("building", (255, 200, 0), (50,), 50),
        ("fence", (255, 120, 50), (51,), 51),
        ("vegetation", (0, 175, 0), (70,), 70),
        ("trunk", (135, 60, 0), (71,), 71),
        ("terrain", (150, 240, 80), (72,), 72),
        ("pole", (255, 240, 150), (80,), 80),
        ("traffic-sign", (255, 0, 0), (81,), 81),
    ),
    ignored=(0, 1, 52, 99),
)

# Class names and synonyms of ours, in the manner of nuScenes' (papers list the 19 names alone).
_WORDS = {
    "car": ("car",),
    "bicycle": ("bicycle",),
    "motorcycle": ("motorcycle",),
    "truck": ("truck",),
    "other-vehicle": ("bus", "tram", "trailer", "van", "tractor"),
    "person": ("person", "pedestrian"),
    "bicyclist": ("bicyclist", "person riding a bicycle"),
    "motorcyclist": ("motorcyclist", "person riding a motorcycle"),
    "road": ("road",),
    "parking": ("parking lot", "parking space"),
    "sidewalk": ("sidewalk",),
    "other-ground": ("traffic island", "traffic median", "curb"),
    "building": ("building", "house", "wall", "garage"),
    "fence": ("fence", "railing"),
    "vegetation": ("tree", "bush", "shrub", "hedge", "plant"),
    "trunk": ("tree trunk",),
    "terrain": ("grass", "lawn", "meadow", "soil"),
    "pole": ("pole", "street light"),
    "traffic-sign": ("traffic sign",),
}


@dataclass(frozen=True)
class _Calibration:
    """The left colour camera of a sequence; its images all have one size."""

    intrinsics: np.ndarray
    cam_SE3_lidar: np.ndarray
    width_px: int
    height_px: int


def index(root: str, label_dir: str = "labels") -> Iterator[Keyframe]:
    """Lists the scans below ``root/sequences`` as key-frames by path.

    Sequence 08 is ``val``, 11 … 21 are ``test``, every other one is ``train``. The label folder decides whether a
    sequence has labels; where it exists, every scan is expected to have a file in it. Images are optional.

    Args:
        root: Folder that holds ``sequences``.
        label_dir: ``labels``, or ``scribbles`` (ScribbleKITTI) for the training sequences; validation always takes
            ``labels``.

    Raises:
        DataError: No sequences or no scans, a label folder that no training sequence has, images without a usable
            calibration, or time stamps that do not fit the scans.
    """
    sequences = sorted(Path(root).glob("sequences/*/velodyne"))
    if not sequences:
        raise DataError(f"{root} holds no sequences/XX/velodyne: expected the folder that SemanticKITTI unpacks to")
    if label_dir != "labels" and not any((scans.parent / label_dir).is_dir() for scans in sequences):
        raise DataError(f"no sequence below {root} has a folder {label_dir!r}: unpack it, or index with labels")
    for scans in sequences:
        yield from _sequence(scans.parent, label_dir)


def split_of(sequence: str) -> str:
    """``train``, ``val`` or ``test``. Source: the benchmark; sequences it does not know are training data."""
    if sequence in VALIDATION:
        return "val"
    return "test" if sequence in TEST else "train"


def official_set(split: str, sequences: Sequence[str]) -> tuple[str, Mapping[str, int]]:
    """Name of the benchmark's set and the number of scans of each of its sequences.

    Raises:
        DataError: The split is neither ``val`` nor ``test``.
    """
    sets = {"val": dict.fromkeys(VALIDATION, _VALIDATION_SCANS), "test": dict(zip(TEST, _TEST_SCANS, strict=True))}
    if split not in sets:
        raise DataError(f"SemanticKITTI's server scores val or test, not {split!r}: predict one of them")
    return split, sets[split]


def _sequence(folder: Path, label_dir: str) -> Iterator[Keyframe]:
    scans = sorted(file for file in (folder / "velodyne").iterdir() if _is_visible(file, (".bin",)))
    split = split_of(folder.name)
    labels = folder / (label_dir if split == "train" else "labels")
    images, times_us = _images(folder), _times_us(folder, scans)
    calibration = _calibration(folder, next(iter(images.values()))) if images else None
    for scan, time_us in zip(scans, times_us, strict=True):
        image = images.get(scan.stem)
        yield Keyframe(
            frame_id=f"{folder.name}/{scan.stem}",
            dataset=NAME,
            scene=folder.name,
            split=split,
            timestamp_us=time_us,
            points_uri=str(scan),
            labels_uri=str(labels / f"{scan.stem}.label") if labels.is_dir() else "",
            cameras=(_camera(image, calibration, time_us),) if image and calibration else (),
        )


def _images(folder: Path) -> dict[str, Path]:
    return {path.stem: path for path in sorted((folder / _CAMERA).glob("*")) if _is_visible(path, _IMAGES)}


def _is_visible(file: Path, suffixes: Sequence[str]) -> bool:
    """Whether a name ends so; archives of macOS hold a ``._000000.bin`` beside each ``000000.bin``."""
    return file.suffix.lower() in suffixes and not file.name.startswith(".")


def _camera(image: Path, calibration: _Calibration, time_us: int) -> CameraImage:
    return CameraImage(
        name=_CAMERA,
        uri=str(image),
        intrinsics=calibration.intrinsics,
        cam_SE3_lidar=calibration.cam_SE3_lidar,
        timestamp_us=time_us,
        width_px=calibration.width_px,
        height_px=calibration.height_px,
    )


def _times_us(folder: Path, scans: list[Path]) -> list[int]:
    file = folder / "times.txt"
    if not file.is_file():
        is_numbered = all(_NUMBER.fullmatch(scan.stem) for scan in scans)
        return [_SWEEP_US * (int(scan.stem) if is_numbered else place) for place, scan in enumerate(scans)]
    try:
        times_us = [round(float(word) * 1e6) for word in read_text(file.read_bytes(), str(file), DataError).split()]
        by_number = [int(scan.stem) for scan in scans]
    except (ValueError, OverflowError) as error:
        raise DataError(
            f"{file}: expected seconds, one line for each of scans 000000.bin …: {str(error)[:200]}"
        ) from error
    if any(abs(time_us) >= 2**63 for time_us in times_us):
        raise DataError(f"{file} holds a time beyond 64 bits of microseconds: expected seconds")
    if by_number and max(by_number) >= len(times_us):
        raise DataError(f"{file} has {len(times_us)} lines, but there is a scan {scans[-1].name}: expected one a scan")
    return [times_us[number] for number in by_number]


def _calibration(folder: Path, image: Path) -> _Calibration:
    matrices = _matrices(folder / "calib.txt")
    projection, cam0_SE3_lidar = matrices["P2"], pose.from_matrix(matrices["Tr"])
    try:
        intrinsics, cam_SE3_cam0 = split_projection(projection)
    except DataError as error:
        raise DataError(f"{folder / 'calib.txt'}: {error}") from error
    width_px, height_px = size_px(storage.read_bytes(str(image)), str(image))
    return _Calibration(intrinsics, pose.compose(cam_SE3_cam0, cam0_SE3_lidar), width_px, height_px)


def _matrices(file: Path) -> dict[str, np.ndarray]:
    if not file.is_file():
        raise DataError(f"{file} is missing, but there are images: add it, or move {_CAMERA} away to index scans only")
    lines = (line.partition(":") for line in read_text(file.read_bytes(), str(file), DataError).splitlines())
    numbers = {name.strip(): values.split() for name, _, values in lines}
    wrong = [name for name in ("P2", "Tr") if len(numbers.get(name, ())) != 12]
    if wrong:
        raise DataError(f"{file}: expected lines 'P2:' and 'Tr:' with 12 numbers each, wrong or missing: {wrong}")
    try:
        return {name: np.array(numbers[name], np.float64).reshape(3, 4) for name in ("P2", "Tr")}
    except ValueError as error:
        raise DataError(f"{file} holds something that is no number: {str(error)[:200]}") from error


_FILES = BinaryScans(("x", "y", "z", "remission"), 1.0, "<u4", 0xFFFF, CLASSES)

SPEC = DatasetSpec(
    name=NAME,
    taxonomy=CLASSES,
    sensor=SensorSpec(
        num_beams=64,
        fov_up_rad=math.radians(3.0),  # field of view as in the authors' range-view configurations
        fov_down_rad=math.radians(-25.0),
        min_range_m=2.0,  # ours: nearer are a handful of hits of the vehicle
        max_range_m=80.0,  # ours: what real files hold
        intensity_scale=1.0,
    ),
    index=lambda root, options: index(data_root(root, NAME), options.label_dir),
    decode=_FILES.decode,
    words=_WORDS,
    things=tuple(range(8)),  # what PolarMix pastes
    ground=(8, 9, 10, 11),  # SemanticKITTI-C (authors' code), as the next
    vehicles=(0, 1, 2, 3, 4),
    absent="zero",
    front_camera=_CAMERA,
    grid_height_m=(-4.0, 2.0),
    files=_FILES,
    raw_labels=_FILES.raw_labels,
)
