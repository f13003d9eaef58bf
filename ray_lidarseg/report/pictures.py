"""Pictures of scans as RGB arrays: bird's-eye view, range view, points on a camera image."""

import io

import numpy as np
import torch
from PIL import Image, ImageDraw

from ray_lidarseg.datasets import entries
from ray_lidarseg.datasets.entries import entry_named
from ray_lidarseg.datasets.image_files import read_picture
from ray_lidarseg.datasets.points import usable
from ray_lidarseg.datasets.taxonomy import Taxonomy
from ray_lidarseg.geometry import camera as camera_geometry
from ray_lidarseg.geometry import range_image
from ray_lidarseg.geometry.occlusion import is_visible
from ray_lidarseg.sample import CameraImage, PointBatch, SensorSpec
from ray_lidarseg.types import IGNORE

WHITE, UNKNOWN = (255, 255, 255), (214, 219, 226)
RIGHT, WRONG = (186, 194, 205), (220, 38, 38)

_RING_M, _RING_COLOUR = 10, (230, 234, 240)
_OVERSAMPLE = 2
_DENSE_POINTS = 12_000  # a scan of fewer points is drawn with larger dots


def png(image: np.ndarray) -> bytes:
    """RGB [H, W, 3] as a PNG of 256 colours: class colours are few, and the page is a third of the size."""
    buffer = io.BytesIO()
    Image.fromarray(image).quantize(256, dither=Image.Dither.NONE).save(buffer, format="png", optimize=True)
    return buffer.getvalue()


def jpeg(image: np.ndarray) -> bytes:
    """RGB [H, W, 3] as a JPEG without colour subsampling: dots of one pixel keep their colours."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format="jpeg", quality=82, subsampling=0, optimize=True)
    return buffer.getvalue()


def class_colours(labels: np.ndarray, taxonomy: Taxonomy) -> np.ndarray:
    """RGB [P, 3] of class ids [P]; IGNORE is light grey."""
    table = np.tile(np.array(UNKNOWN, np.uint8), (256, 1))
    table[: taxonomy.num_classes] = taxonomy.colours
    return table[labels]


def error_colours(truth: np.ndarray, said: np.ndarray) -> np.ndarray:
    """RGB [P, 3]: grey where right, red where wrong, faint where the truth is IGNORE."""
    rgb = np.where((truth == said)[:, None], np.array(RIGHT), np.array(WRONG))
    return np.where((truth == IGNORE)[:, None], np.array(_RING_COLOUR), rgb).astype(np.uint8)


def birds_eye(
    points: np.ndarray, rgb: np.ndarray, dataset: str, half_extent_m: float = 40.0, size_px: int = 420
) -> np.ndarray:
    """A scan from above, the vehicle in the middle, driving up the picture; rings every 10 m.

    Args:
        points: [P, 4]; not finite ones are left out.
        rgb: [P, 3] colour of each point; the higher of two points at one place is drawn last, red ones after all.
        dataset: Decides which axis is forward: y for nuScenes, x for all others.
        half_extent_m: From the middle to the border.
        size_px: Side of the picture.
    """
    side = size_px * _OVERSAMPLE
    canvas = Image.new("RGB", (side, side), WHITE)
    _rings(ImageDraw.Draw(canvas), half_extent_m, side)
    pixels = np.array(canvas)
    shown = np.isfinite(points[:, :3]).all(axis=1)
    points, rgb = points[shown], rgb[shown]
    right_m, forward_m = ground_axes(points, dataset)
    order = np.lexsort((points[:, 2], (rgb == WRONG).all(axis=1)))
    column = np.floor((right_m + half_extent_m) / (2 * half_extent_m) * side).astype(np.int64)[order]
    row = np.floor((half_extent_m - forward_m) / (2 * half_extent_m) * side).astype(np.int64)[order]
    dots(pixels, row, column, rgb[order], radius=1 if len(points) > _DENSE_POINTS else 2)
    canvas = Image.fromarray(pixels)
    _vehicle(ImageDraw.Draw(canvas), half_extent_m, side)
    return np.array(canvas.resize((size_px, size_px), Image.Resampling.LANCZOS))


def range_view(
    points: np.ndarray, rgb: np.ndarray, sensor: SensorSpec, width_px: int = 1080, height_px: int = 140
) -> np.ndarray:
    """A scan as the laser sees it, x forward in the middle: a row a beam, a column a firing, stretched to be seen.

    Args:
        points: [P, 4].
        rgb: [P, 3].
        sensor: Field of view and number of beams.
        width_px: About the width of the picture.
        height_px: About its height.
    """
    is_usable = usable(points, sensor)
    batch = PointBatch.of_scan(torch.from_numpy(np.ascontiguousarray(points[is_usable])))
    rows, columns = sensor.num_beams, int(np.clip(len(points) // sensor.num_beams, width_px // 8, width_px))
    images = range_image.project(batch, sensor, rows, columns)
    flat = np.full((rows * columns, 3), 255, np.uint8)
    flat[images.pixel.numpy()] = rgb[is_usable][images.nearest.numpy()]
    stretched = flat.reshape(rows, columns, 3).repeat(max(1, height_px // rows), axis=0)
    return stretched.repeat(max(1, width_px // columns), axis=1)


def camera_overlay(
    camera: CameraImage, image: bytes, points: np.ndarray, rgb: np.ndarray, width_px: int = 640
) -> np.ndarray:
    """A camera image, greyed, with the points it sees in their colours; nearer points are drawn last.

    Args:
        camera: Calibration.
        image: Encoded JPEG or PNG.
        points: [P, 4] in the LiDAR frame.
        rgb: [P, 3].
        width_px: Of the picture; the height follows.
    """
    picture = read_picture(image, camera.name)
    height_px = round(picture.height * width_px / picture.width)
    photo = np.array(picture.resize((width_px, height_px)))
    shown = np.isfinite(points[:, :3]).all(axis=1)
    projection = camera_geometry.project(
        points[shown].astype(np.float64), camera.cam_SE3_lidar, camera.intrinsics, camera.width_px, camera.height_px
    )
    visible = np.flatnonzero(is_visible(projection, camera.width_px))
    visible = visible[np.argsort(-projection.depth_m[visible])]
    pixels = (0.35 * 255 + 0.65 * photo.mean(axis=2, keepdims=True)).repeat(3, axis=2).astype(np.uint8)
    column, row = np.floor(projection.pixels[visible].T * (width_px / camera.width_px)).astype(np.int64)
    dots(pixels, row, column, rgb[shown][visible], radius=2)
    return pixels


def best_camera(cameras: tuple[CameraImage, ...]) -> CameraImage | None:
    """The camera that looks forward, else the first; None without cameras."""
    names = {entry.front_camera for entry in entries.DATASETS}
    forward = [camera for camera in cameras if camera.name in names]
    return next(iter([*forward, *cameras]), None)


def ground_axes(points: np.ndarray, dataset: str) -> tuple[np.ndarray, np.ndarray]:
    """Metres to the right and forward of each point [P, 3 …], as the data set's vehicle drives."""
    along_y = entry_named(dataset).forward == "y"
    return (points[:, 0], points[:, 1]) if along_y else (-points[:, 1], points[:, 0])


def dots(pixels: np.ndarray, row: np.ndarray, column: np.ndarray, rgb: np.ndarray, radius: int) -> None:
    """Squares of ``2 radius + 1`` pixels; a later one covers an earlier one."""
    height, width, _ = pixels.shape
    steps = range(-radius, radius + 1)
    offsets = np.array([(down, right) for down in steps for right in steps])
    rows = (row[:, None] + offsets[:, 0]).ravel()
    columns = (column[:, None] + offsets[:, 1]).ravel()
    inside = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
    pixels[rows[inside], columns[inside]] = rgb.repeat(len(offsets), axis=0)[inside]


def _rings(draw: ImageDraw.ImageDraw, half_extent_m: float, side: int) -> None:
    for radius_m in range(_RING_M, int(half_extent_m * 1.5), _RING_M):
        radius = radius_m / half_extent_m * side / 2
        box = (side / 2 - radius, side / 2 - radius, side / 2 + radius, side / 2 + radius)
        draw.ellipse(box, outline=_RING_COLOUR, width=_OVERSAMPLE)


def _vehicle(draw: ImageDraw.ImageDraw, half_extent_m: float, side: int) -> None:
    metre, middle = side / (2 * half_extent_m), side / 2
    corners = [(0.0, -2.4), (1.1, 2.0), (-1.1, 2.0)]
    draw.polygon([(middle + x * metre, middle + y * metre) for x, y in corners], fill=(31, 41, 55))
