"""Images as scans, so that every method works on them: a pixel is a point, and a horizontal strip a laser band.

A pseudo camera (``ImageSensor``) gives each pixel of an H x W grid a unit vector: rows go linearly
through the inclinations from ``fov_up`` to ``fov_down``, columns clockwise through the whole turn, as in a range image.
So ``partition.band_edges`` cuts strips of equal height, and ``range_image.project`` finds every pixel's place again.

Source: LaserMix++ (TPAMI 2025) claims that LaserMix carries over to images; how its authors cut them was never
released. Horizontal strips are the reading of ``LaserMix`` itself, the pseudo camera is ours.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from typing import TYPE_CHECKING, Final

import cv2
import numpy as np
from jaxtyping import Float, Shaped

from ray_lidarseg import storage
from ray_lidarseg.datasets.image_files import read_ids, read_rgb
from ray_lidarseg.datasets.taxonomy import Taxonomy
from ray_lidarseg.errors import DataError
from ray_lidarseg.sample import CameraImage, ImageSensor, Keyframe
from ray_lidarseg.types import COLOURS, IGNORE

if TYPE_CHECKING:  # decoding an image does without
    from torch import Tensor

    from ray_lidarseg.sample import PointBatch

CAMERA: Final = "image"
"""Name of the only camera of an image key-frame."""

_OFF_CENTRE_PX = 1 / 1024  # below a row's middle, so that no strip's edge, at most 1023 of them, meets a direction
_LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601


def keyframe(frame_id: str, dataset: str, scene: str, split: str, timestamp_us: int, uris: Sequence[str]) -> Keyframe:
    """An index row of one image.

    Args:
        frame_id: Unique.
        dataset: Its name.
        scene: City or drive.
        split: ``train``, ``val`` or ``test``.
        timestamp_us: Orders the images of a scene.
        uris: Of the image, and of its label image, ``""`` where it has none.
    """
    image_uri, labels_uri = uris
    frame = Keyframe(frame_id, dataset, scene, split, timestamp_us, image_uri, labels_uri)
    return replace(frame, cameras=(_camera(frame, b"", (0, 0)),))


def pseudo_camera(height_px: int, width_px: int) -> ImageSensor:
    """The sensor of images of a size; its field of view is arbitrary, ranges are 1."""
    return ImageSensor(height_px, math.radians(45.0), math.radians(-45.0), 0.0, 2.0, 1.0, width_px=width_px)


def decode(frame: Keyframe, taxonomy: Taxonomy) -> Keyframe:
    """An index row with its image, as it came, and its labels.

    Args:
        frame: From ``keyframe``: ``points_uri`` is a PNG or JPEG, ``labels_uri`` a PNG of one 8-bit channel, raw ids.
        taxonomy: What the ids mean.

    Returns:
        The frame with ``cameras[0].image``, its size, and ``labels`` uint8 [height * width] at that size, row by row.

    Raises:
        DataError: A file is no image, the labels are of another size or kind, or an id is unknown. The message names
            the file.
        StorageError: A file is missing or cannot be read.
    """
    image = storage.read_bytes(frame.points_uri)
    return decode_bytes(frame, image, storage.read_bytes(frame.labels_uri) if frame.labels_uri else b"", taxonomy)


def decode_bytes(frame: Keyframe, image: bytes, labels: bytes, taxonomy: Taxonomy) -> Keyframe:
    """``decode`` of the files' content; ``labels`` counts where ``labels_uri`` is set."""
    height_px, width_px, _ = _pixels(image, frame.points_uri).shape
    train = _labels(frame, labels, taxonomy, (height_px, width_px)) if frame.labels_uri else frame.labels
    return replace(frame, cameras=(_camera(frame, image, (height_px, width_px)),), labels=train)


def to_scan(frame: Keyframe, sensor: ImageSensor) -> PointBatch:
    """A decoded image, resized to the pseudo camera's grid (bilinear; labels nearest), as a batch of one scan.

    Points come row by row: unit direction and luma; ``COLOURS`` holds their RGB in [0, 1].

    Raises:
        DataError: The frame holds no image.
    """
    import torch

    from ray_lidarseg.sample import PointBatch

    rows, columns = sensor.height_px, sensor.width_px
    pixels = _pixels(frame.cameras[0].image if frame.cameras else b"", frame.frame_id)
    colours = torch.from_numpy(cv2.resize(pixels, (columns, rows), interpolation=cv2.INTER_LINEAR)).reshape(-1, 3)
    colours = colours.float() / 255
    labels = torch.full((rows * columns,), IGNORE, dtype=torch.int64)
    if len(frame.labels):
        stored = frame.labels.reshape(pixels.shape[:2])
        labels = torch.from_numpy(_nearest(stored, rows, columns).astype(np.int64)).flatten()
    points = torch.cat([directions(sensor), luma(colours)[:, None]], dim=1)
    return PointBatch.of_scan(points, labels, {COLOURS: colours})


def at_stored_size(values: Shaped[np.ndarray, "P"], frame: Keyframe, sensor: ImageSensor) -> Shaped[np.ndarray, "Q"]:
    """Values of the grid's pixels, row by row, as values of the stored image's pixels: each takes the nearest one's."""
    camera, grid = frame.cameras[0], values.reshape(sensor.height_px, sensor.width_px)
    return _nearest(grid, camera.height_px, camera.width_px).reshape(-1)


@lru_cache(maxsize=4)
def directions(sensor: ImageSensor) -> Float[Tensor, "P 3"]:
    """Unit vectors of the grid's pixels, row by row; shared, not to be written to."""
    import torch

    fov_rad = sensor.fov_up_rad - sensor.fov_down_rad
    row = torch.arange(sensor.height_px, dtype=torch.float64) + 0.5 + _OFF_CENTRE_PX
    column = torch.arange(sensor.width_px, dtype=torch.float64) + 0.5
    inclination = (sensor.fov_up_rad - row / sensor.height_px * fov_rad)[:, None]
    azimuth = (math.pi - column / sensor.width_px * 2 * math.pi)[None]
    flat = torch.cos(inclination)
    axes = torch.broadcast_tensors(flat * torch.cos(azimuth), flat * torch.sin(azimuth), torch.sin(inclination))
    return torch.stack(axes, dim=-1).reshape(-1, 3).float()


def luma(colours: Float[Tensor, "P 3"]) -> Float[Tensor, "P"]:
    """Brightness of RGB colours: ``0.299 R + 0.587 G + 0.114 B`` (ITU-R BT.601)."""
    return colours @ colours.new_tensor(_LUMA)


def _camera(frame: Keyframe, image: bytes, size: tuple[int, int]) -> CameraImage:
    return CameraImage(CAMERA, frame.points_uri, np.eye(3), np.eye(4), frame.timestamp_us, size[1], size[0], image)


def _pixels(encoded: bytes, name: str) -> np.ndarray:
    """uint8 [H, W, 3] RGB."""
    return read_rgb(encoded, name)


def _labels(frame: Keyframe, encoded: bytes, taxonomy: Taxonomy, size: tuple[int, int]) -> np.ndarray:
    raw = read_ids(encoded, frame.labels_uri)
    if raw.dtype != np.uint8:
        raise DataError(f"{frame.labels_uri} is {raw.dtype}: expected a PNG of one 8-bit channel, one raw id a pixel")
    if raw.shape != size:
        raise DataError(
            f"{frame.labels_uri} has {raw.shape[0]} x {raw.shape[1]} pixels, its image {size[0]} x {size[1]}: labels "
            "and image do not belong together"
        )
    try:
        return taxonomy.to_train(raw.reshape(-1))
    except DataError as error:
        raise DataError(f"{frame.labels_uri}: {error}") from error


def _nearest(values: np.ndarray, rows: int, columns: int) -> np.ndarray:
    return cv2.resize(values, (columns, rows), interpolation=cv2.INTER_NEAREST_EXACT)
