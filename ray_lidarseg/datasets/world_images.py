"""The camera images of a synthetic world and their label images, for two-dimensional studies.

A world in nuScenes format has label images where it was made with the option ``label_images``, and only there: they
are the hidden truth that no real log has.
"""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path, PurePosixPath

from ray_lidarseg.datasets import image_scans as images
from ray_lidarseg.datasets import nuscenes
from ray_lidarseg.datasets.folders import data_root
from ray_lidarseg.datasets.spec import DatasetSpec
from ray_lidarseg.errors import DataError
from ray_lidarseg.sample import Keyframe

NAME = "world-images"
CLASSES = replace(nuscenes.CLASSES, name=NAME)
"""Label images hold nuScenes ids; the sky has that of noise."""

FOLDER = "label_images"


def label_file(image: str) -> str:
    """Where the labels of an image lie, below the root: ``samples/CAM/NAME.jpg`` → ``label_images/CAM/NAME.png``.

    A PNG of one 8-bit channel: index of the fine category, 0 (noise) for the sky.
    """
    path = PurePosixPath(image)
    return f"{FOLDER}/{path.parent.name}/{path.stem}.png"


def index(root: str, version: str = "v1.0-mini") -> Iterator[Keyframe]:
    """Lists every image of all cameras, by path; a frame's id is that of its LiDAR key-frame and the camera.

    Args:
        root: Folder that ``ray-lidarseg world --set label_images=yes`` made.
        version: Name of the table folder.

    Raises:
        DataError: The world has no label images, or lacks that of an image; see also ``nuscenes.index``.
    """
    if not (Path(root) / FOLDER).is_dir():
        raise DataError(
            f"{root} holds no folder {FOLDER}: make the world with `ray-lidarseg world --set label_images=yes` "
            "(hidden truth, so never written unless asked for)"
        )
    for frame in nuscenes.index(root, version):
        for camera in frame.cameras:
            labels = Path(root) / label_file(camera.uri)
            if not labels.is_file():
                raise DataError(f"{labels} is missing: run the same `ray-lidarseg world` command again")
            name, uris = f"{frame.frame_id}/{camera.name}", (camera.uri, str(labels))
            yield images.keyframe(name, NAME, frame.scene, frame.split, camera.timestamp_us, uris)


SPEC = DatasetSpec(
    name=NAME,
    taxonomy=CLASSES,
    sensor=images.pseudo_camera(126, 224),  # as the preset demo has them
    index=lambda root, options: index(data_root(root, NAME), options.version),
    decode=lambda frame: images.decode(frame, CLASSES),
)
