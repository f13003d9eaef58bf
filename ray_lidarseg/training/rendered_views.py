"""What a run of method nerf sees in a few camera images, as arrays for pictures: rendered on a coarse grid of pixels.

For people, not for training: here images are read, and a synthetic world's hidden truth where there is any.
"""

import io
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields

import numpy as np
import torch
from jaxtyping import Float32, UInt8, UInt16
from torch import Tensor

from ray_lidarseg import storage
from ray_lidarseg.datasets.catalog import Catalog
from ray_lidarseg.datasets.entries import entry_named
from ray_lidarseg.datasets.image_files import read_picture
from ray_lidarseg.datasets.points import to_batch
from ray_lidarseg.datasets.prepared_frames import PreparedFrames
from ray_lidarseg.datasets.ray_bundles import RayReader, true_classes
from ray_lidarseg.datasets.sensor import resolve_sensor
from ray_lidarseg.errors import DataError, LidarSegError, RecipeError, RunError
from ray_lidarseg.methods.nerf import NeRF
from ray_lidarseg.recipe.schema import Recipe
from ray_lidarseg.sample import CameraImage, Keyframe
from ray_lidarseg.types import IGNORE, RAY_SEGMENT

COLUMNS = 192
"""Width of the grid: two images are half a minute of one core. Ours."""

_SEGMENT_BITS = 0xFFFF  # of ``segment_id``; above them stands the camera


@dataclass(frozen=True)
class RenderedView:
    """One image of one frame, all arrays on the same grid of pixels.

    Attributes:
        frame_id: The frame.
        camera: Its camera, by name.
        photo: RGB, grey where the image is gone.
        segments: Ids in this image, 0 none.
        classes: Most likely rendered class; IGNORE where the ray is more transparent than ``min_opacity``.
        depth_m: Rendered, metres along the ray.
        entropy: Of the rendered classes, in [0, 1].
        taught: Pseudo-label the pixel would learn, IGNORE where none.
        truth: Hidden true class, IGNORE where it has none; [0, 0] where there is no hidden truth.
    """

    frame_id: str
    camera: str
    photo: UInt8[np.ndarray, "H W 3"]
    segments: UInt16[np.ndarray, "H W"]
    classes: UInt8[np.ndarray, "H W"]
    depth_m: Float32[np.ndarray, "H W"]
    entropy: Float32[np.ndarray, "H W"]
    taught: UInt8[np.ndarray, "H W"]
    truth: UInt8[np.ndarray, "_ _"]


class ViewRenderer:
    """Renders the forward image of frames of a catalog.

    Args:
        method: A trained one, on the device where to compute.
        recipe: The run's.
        prepared: URI of shards with the layers the recipe names.
        catalog: Their frames.
        device: Where the method is.

    Raises:
        RecipeError: The run has another method.
        DataError: There is no such layer of segments.
    """

    def __init__(
        self,
        method: torch.nn.Module,
        recipe: Recipe,
        prepared: str,
        catalog: Catalog,
        device: torch.device | str = "cpu",
    ):
        if not isinstance(method, NeRF):
            raise RecipeError(f"method {recipe.method.name} renders nothing: expected a run of method nerf")
        self.method, self.device, self.use_intensity = method, device, recipe.data.use_intensity
        self.sensor = resolve_sensor(recipe.data)
        place = storage.resolve(prepared)
        self.frames = PreparedFrames(*place, catalog)
        self.rays = RayReader(*place, catalog, self.sensor, method.rays)

    def __call__(self, index: int, columns: int = COLUMNS) -> RenderedView | None:
        """The view of one frame; None where it has no camera that the method looks through.

        Raises:
            DataError: A frame, layer or calibration that cannot be used.
            RecipeError: The run has no head that renders.
        """
        frame = self.frames[index]
        if (place := _forward(frame, self.method.recipe.cameras)) is None:
            return None
        image = frame.cameras[place]
        scan, is_usable = to_batch(frame, self.sensor, self.use_intensity)
        scan, pixels = self.rays.with_image(index, frame, scan.unlabelled(), is_usable, place, columns)
        seen, taught = self.method.look(scan.to(self.device))
        size = (len(np.unique(pixels[:, 1])), len(np.unique(pixels[:, 0])))
        is_opaque = seen.opacity >= self.method.recipe.min_opacity
        assert scan.rays is not None
        return RenderedView(
            frame.frame_id,
            image.name,
            _photo(image, pixels).reshape(*size, 3),
            _grid(scan.rays.extras[RAY_SEGMENT] & _SEGMENT_BITS, size, np.uint16),
            _grid(torch.where(is_opaque, seen.semantics.argmax(1), IGNORE), size, np.uint8),
            _grid(seen.depth_m, size, np.float32),
            _grid(seen.entropy, size, np.float32),
            _grid(taught, size, np.uint8),
            _truth(image, pixels, size),
        )


def _forward(frame: Keyframe, cameras: Sequence[str]) -> int | None:
    """Place of the camera that looks forward, else of the first, among those that are used."""
    used = [place for place, image in enumerate(frame.cameras) if not cameras or image.name in cameras]
    front = entry_named(frame.dataset).front_camera
    return next((place for place in used if frame.cameras[place].name == front), next(iter(used), None))


def _photo(image: CameraImage, pixels: np.ndarray) -> np.ndarray:
    """RGB [R, 3] of pixels."""
    try:
        picture = read_picture(image.image or storage.read_bytes(image.uri), image.name)
    except LidarSegError:
        return np.full((len(pixels), 3), 128, np.uint8)
    if picture.size != (image.width_px, image.height_px):
        picture = picture.resize((image.width_px, image.height_px))
    return np.asarray(picture)[pixels[:, 1], pixels[:, 0]]


def _truth(image: CameraImage, pixels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    try:
        return true_classes(image)[pixels[:, 1], pixels[:, 0]].reshape(size).astype(np.uint8)
    except DataError:  # no synthetic world, or one without label images
        return np.zeros((0, 0), np.uint8)


def _grid(values: Tensor, size: tuple[int, int], kind: type) -> np.ndarray:
    return values.cpu().numpy().astype(kind).reshape(size)


def pack_views(views: Sequence[RenderedView], step: int) -> bytes:
    """Views as one file, a zip of arrays without pickles.

    Args:
        views: In the order in which they are to be shown.
        step: Of the checkpoint.
    """
    named = {f"{place}.{name}": value for place, view in enumerate(views) for name, value in asdict(view).items()}
    buffer = io.BytesIO()
    np.savez_compressed(buffer, step=np.int64(step), **named)
    return buffer.getvalue()


def unpack_views(content: bytes, origin: str) -> tuple[list[RenderedView], int]:
    """The inverse of ``pack_views``.

    Raises:
        RunError: It is not such a file.
    """
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        return list(_views(arrays)), int(arrays["step"])
    except (ValueError, KeyError, TypeError, OSError, EOFError, NotImplementedError, zipfile.BadZipFile) as error:
        raise RunError(f"{origin} holds no rendered views ({error}): run `ray-lidarseg evaluate` again") from error


_KINDS = {"photo": np.uint8, "segments": np.uint16, "depth_m": np.float32, "entropy": np.float32}


def _views(arrays: dict[str, np.ndarray]) -> Iterator[RenderedView]:
    for place in range(len({name.partition(".")[0] for name in arrays} - {"step"})):
        own = {field.name: arrays[f"{place}.{field.name}"] for field in fields(RenderedView)}
        frame_id, camera = (str(own.pop(name)) for name in ("frame_id", "camera"))
        size = own["segments"].shape
        for name, array in own.items():
            is_right = array.shape[:2] == size and array.ndim == 2 + (name == "photo")
            if array.dtype != _KINDS.get(name, np.uint8) or not (is_right or (name == "truth" and not array.size)):
                raise ValueError(f"{name} of view {place} is {array.dtype} {array.shape}")
        yield RenderedView(frame_id, camera, **own)
