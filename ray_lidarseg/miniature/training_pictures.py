"""Pictures of the synthetic world with the truth behind every pixel: what the miniature models learn from.

The drives come from world seeds that nothing else uses (benchmarks and demos take small ones), every third from a
suburb, in the two sizes of the ``demo`` and ``bench`` worlds. Source: ours.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np

from ray_lidarseg.datasets.nuscenes import CLASSES as NUSCENES
from ray_lidarseg.errors import DataError
from ray_lidarseg.synthetic.cameras import RIG, Mounting, ego_SE3_camera, exposure_s, intrinsics, picture
from ray_lidarseg.synthetic.presets import PRESETS
from ray_lidarseg.synthetic.raycast import GROUND, NOTHING, cast
from ray_lidarseg.synthetic.road import ground_distance
from ray_lidarseg.synthetic.scene import Scene
from ray_lidarseg.synthetic.shading import Light
from ray_lidarseg.synthetic.views import PinholeView

TRAIN_SEED, CHOICE_SEED, TEST_SEED = 9000, 9500, 9600
"""World seeds of training, of choosing the best checkpoint, and of the printed figures; no benchmark uses them."""

SKY = NUSCENES.num_classes
"""Class id of the sky, behind the sixteen of nuScenes."""

_SIZES = ("bench", "demo", "bench")  # 400 x 225 and 224 x 126; every third picture the small one
_FRAMES = (2, 11)
_MIN_SEGMENT_PX = 20


@dataclass(frozen=True)
class TruePicture:
    """One camera image and its truth.

    Attributes:
        image: uint8 [H, W, 3] RGB.
        classes: uint8 [H, W] class id of nuScenes, SKY, or IGNORE.
        kitti: uint8 [H, W] SemanticKITTI raw id of objects: tells poles from buildings; 0 for ground and sky.
        segments: uint16 [H, W] ids 1 … N without gaps: one for each object, each connected piece of ground of one
            class, and the sky; 0 where a segment would have fewer than 20 pixels.
    """

    image: np.ndarray
    classes: np.ndarray
    kitti: np.ndarray
    segments: np.ndarray


def training_scene(seed: int, index: int) -> Scene:
    """The drive with this number among those for miniature models."""
    preset = replace(PRESETS[_SIZES[index % len(_SIZES)]], is_suburb=index % 4 == 3)
    return Scene(preset, seed, index)


def scene_pictures(scene: Scene, frames: tuple[int, ...] = _FRAMES) -> Iterator[TruePicture]:
    """All six cameras of some key-frames."""
    light = Light(scene)
    for frame in frames:
        lighting = light.at(frame * scene.preset.frame_interval_s)
        for mounting in RIG:
            seen = picture(scene, light, frame, mounting, lighting)
            yield _with_truth(scene, frame, mounting, seen.colour, seen.labels)


def _with_truth(scene: Scene, frame: int, mounting: Mounting, colour: np.ndarray, labels: np.ndarray) -> TruePicture:
    """The rays are cast once more, since a picture does not keep what each of them met."""
    time_s = exposure_s(scene, frame, mounting)
    width, height = scene.preset.image_size
    pose = scene.ego_pose(time_s) @ ego_SE3_camera(mounting)
    view = PinholeView(pose, intrinsics(mounting, scene.preset.image_size), (height, width))
    solids = scene.solids(time_s)
    solid = cast(view, solids, ground_distance(scene.road, view.origin, view.direction)).solid.reshape(height, width)
    is_above = solid > GROUND
    classes = NUSCENES.to_train(labels)
    classes[solid == NOTHING] = SKY
    kitti = np.zeros_like(labels)
    kitti[is_above] = solids.kitti[solid[is_above]]
    objects = np.zeros(solid.shape, np.int64)
    objects[is_above] = scene.instance[solid[is_above]]
    return TruePicture(colour, classes, kitti, truth_segments(objects, classes))


def truth_segments(objects: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """uint16 [H, W] segments: objects whole, ground by class and connection (8 neighbours), the sky whole.

    Args:
        objects: int64 [H, W] object of each pixel, 0 for ground and sky.
        classes: uint8 [H, W] class ids, SKY for the sky.
    """
    ids = objects.copy()
    ids[(objects == 0) & (classes == SKY)] = objects.max() + 1
    is_ground = (objects == 0) & (classes != SKY)
    for ground in np.unique(classes[is_ground]):
        _, pieces = cv2.connectedComponents((is_ground & (classes == ground)).astype(np.uint8), connectivity=8)
        ids[pieces > 0] = ids.max() + pieces[pieces > 0]
    return _without_crumbs(ids)


def _without_crumbs(ids: np.ndarray) -> np.ndarray:
    values, inverse, count = np.unique(ids, return_inverse=True, return_counts=True)
    keep = (count >= _MIN_SEGMENT_PX) & (values > 0)
    number = np.where(keep, np.cumsum(keep), 0).astype(np.uint16)
    return number[inverse].reshape(ids.shape)


def render_pictures(folder: Path, seed: int, num_scenes: int) -> None:
    """Renders scenes of one seed into ``folder``; those that exist are left as they are."""
    folder.mkdir(parents=True, exist_ok=True)
    for index in range(num_scenes):
        target = _file(folder, seed, index)
        if not target.exists():
            _write(target, list(scene_pictures(training_scene(seed, index))))


def load_pictures(folder: Path, seed: int, num_scenes: int) -> list[TruePicture]:
    """What ``render_pictures`` wrote.

    Raises:
        DataError: A scene has not been rendered.
    """
    pictures = []
    for index in range(num_scenes):
        source = _file(folder, seed, index)
        if not source.exists():
            raise DataError(
                f"no pictures of scene {index} of world seed {seed} in {folder}: run "
                "`python -m ray_lidarseg.miniature images` first"
            )
        with np.load(source) as columns:
            stacks = [columns[name] for name in ("image", "classes", "kitti", "segments")]
        pictures += [TruePicture(*parts) for parts in zip(*stacks, strict=True)]
    return pictures


def _file(folder: Path, seed: int, index: int) -> Path:
    return folder / f"pictures-{seed}-{index:04d}.npz"


def _write(target: Path, pictures: list[TruePicture]) -> None:
    """Whole or not at all."""
    columns = {
        name: np.stack([getattr(entry, name) for entry in pictures])
        for name in ("image", "classes", "kitti", "segments")
    }
    partial = target.with_suffix(".partial.npz")
    np.savez_compressed(partial, **columns)
    partial.replace(target)
