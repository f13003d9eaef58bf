"""Segment-anything as a mask teacher, and the loading of its checkpoints."""

import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from segment_anything import modeling

from ray_lidarseg.errors import DataError
from ray_lidarseg.foundation.checkpoint_files import sam_file
from ray_lidarseg.foundation.mask_generation import Thresholds, generate
from ray_lidarseg.foundation.mask_prompts import grid_points, lidar_points
from ray_lidarseg.foundation.sam_architecture import Architecture, build_sam, detect_architecture
from ray_lidarseg.foundation.settings import SamMasks
from ray_lidarseg.foundation.teachers import Batch, as_objects
from ray_lidarseg.foundation.weight_files import load_weights


class Sam:
    """Automatic masks of segment-anything as index maps; a ``MaskTeacher``.

    The same code on a GPU (matrix products in bfloat16) and on a CPU (float32).
    """

    def __init__(self, settings: SamMasks, device: str) -> None:
        """Loads the checkpoint.

        Args:
            settings: Checkpoint, prompts and thresholds.
            device: ``cpu``, ``cuda`` or ``cuda:0``.

        Raises:
            DataError: The checkpoint is missing, broken, no SAM, or of another architecture than asked for.
        """
        expected = None if settings.architecture == "auto" else settings.architecture
        self.model = load_sam(sam_file(settings.checkpoint), expected).to(device)
        self._settings = settings
        is_low = settings.precision == "bf16" or (settings.precision == "auto" and device.startswith("cuda"))
        self._precision = torch.bfloat16 if is_low else torch.float32
        self._thresholds = Thresholds(
            settings.pred_iou_threshold, settings.stability_threshold, settings.stability_offset, settings.nms_iou
        )

    def __call__(self, batch: Batch) -> dict[str, np.ndarray]:
        """Segments of every image.

        Args:
            batch: ``image``, object array [B] of uint8 [H, W, 3] RGB of any sizes; with prompts=lidar also
                ``prompts``, object array [B] of float32 [K, 2] pixels (u, v) LiDAR points fall on.

        Returns:
            ``segments``: object array [B] of uint16 [H, W], ids 1 … N by falling area, 0 = no mask.

        Raises:
            DataError: An image is not RGB bytes, or the LiDAR's pixels are missing.
        """
        images = [checked_rgb(image) for image in batch["image"]]
        points = [self._points(batch, i, image) for i, image in enumerate(images)]
        step, maps = self._settings.image_batch, []
        for start in range(0, len(images), step):
            part = slice(start, start + step)
            some = images[part], points[part]
            settings = self._thresholds, self._settings.prompt_batch, self._precision, self._settings.measured_px
            maps += generate(self.model, *some, *settings)
        return {"segments": as_objects(maps)}

    def _points(self, batch: Batch, position: int, image: np.ndarray) -> np.ndarray:
        size = (self._settings.points_per_side, image.shape[0], image.shape[1])
        if self._settings.prompts == "grid":
            return grid_points(*size)
        if "prompts" not in batch:
            raise DataError(
                "masks.prompts=lidar needs the pixels LiDAR points fall on (key 'prompts' of the batch), and there are "
                "none: prepare frames with a LiDAR and camera poses, or use masks.prompts=grid"
            )
        return lidar_points(*size, np.asarray(batch["prompts"][position], dtype=np.float32).reshape(-1, 2))


def load_sam(path: Path, expected: Architecture | None = None) -> modeling.Sam:
    """A model with the weights of a file, in evaluation mode, on the CPU.

    Args:
        path: An official ``.pth`` (state dict), or the same tensors as ``.safetensors``.
        expected: Architecture the user asked for; None takes what the weights' shapes say.

    Raises:
        DataError: The file is truncated, holds no SAM, another architecture, or lacks or adds tensors.
    """
    state = _read(path)
    try:
        found = detect_architecture(state)
    except DataError as error:
        raise DataError(f"{path}: {error}") from error
    if expected not in (None, found):
        raise DataError(
            f"{path} holds {found}, expected {expected}: set masks.architecture={found} (or auto), or give the "
            f"checkpoint of {expected}"
        )
    with torch.device("meta"):  # no random numbers for weights that are replaced at once
        sam = build_sam(found)
    try:
        sam.load_state_dict(dict(state), assign=True)
    except RuntimeError as error:
        raise DataError(f"{path} looks like SAM {found} but its tensors do not fit: {_first_lines(error)}") from error
    return sam.float().requires_grad_(False)


def checked_rgb(image: np.ndarray) -> np.ndarray:
    """The image, if it is uint8 [H, W, 3].

    Raises:
        DataError: It has no or other colour channels, other numbers, or no pixels.
    """
    if image.ndim == 3 and image.shape[2] == 3 and image.dtype == np.uint8 and image.size:
        return np.ascontiguousarray(image)
    kinds = {2: "grayscale: repeat its channel three times", 4: "RGBA: drop alpha"}
    channels = 2 if image.ndim == 2 or image.shape[-1] == 1 else image.shape[-1]
    raise DataError(
        f"expected an RGB image, uint8 [H, W, 3], got {image.dtype} {list(image.shape)}"
        + (f" ({kinds[channels]})" if channels in kinds else "")
    )


def _read(path: Path) -> Mapping[str, Any]:
    """Named tensors of a file; nothing in it is executed."""
    try:
        if path.suffix == ".safetensors":
            return load_weights(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, ValueError, KeyError) as error:
        raise _broken(path, error) from error
    except (pickle.UnpicklingError, zipfile.BadZipFile, SafetensorError) as error:
        raise _broken(path, error) from error
    if not isinstance(state, Mapping):
        raise DataError(f"{path} is not a SAM checkpoint: expected a dict of tensors, found {type(state).__name__}")
    return state


def _broken(path: Path, error: Exception) -> DataError:
    return DataError(
        f"cannot read checkpoint {path} ({path.stat().st_size:,} bytes): it is truncated or no file of weights; "
        f"download it again ({_first_lines(error)})"
    )


def _first_lines(error: Exception, count: int = 3) -> str:
    return " ".join(line.strip() for line in str(error).splitlines()[:count])[:300]
