"""Vision transformers of timm, such as DINOv2, as a dense image teacher without words.

The features are the patch tokens behind the last block, normalised by the model's own last layer norm, as DINOv2's
authors use them for dense tasks and ScaLR (Puy et al., CVPR 2024) distils them into LiDAR networks. Position embeddings
follow the input's size (timm's ``dynamic_img_size``). Ours: 16 x 28 patches where no size is given, near SLidR's shape.
"""

import pickle
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32

from ray_lidarseg.errors import DataError
from ray_lidarseg.foundation.checkpoint_files import local_file
from ray_lidarseg.foundation.image_tensors import Preprocess, image_tensor, precision_of
from ray_lidarseg.foundation.settings import TimmFeatures
from ray_lidarseg.foundation.teachers import Batch, in_batches
from ray_lidarseg.recipe.bad_input import nearest

_DEFAULT_GRID = (16, 28)
_NESTINGS = ("model", "state_dict", "teacher")
_HEADS = ("head.", "fc_norm.", "head_dist.")  # of classifiers; dense features do not pass through them


class Timm:
    """A vision transformer of timm as an image teacher.

    Args:
        settings: timm's name of the model, checkpoint and input size.
        device: Where the model runs.

    Attributes:
        feature_dim: F, the transformer's width.
        image_size: Height and width the model sees.

    Raises:
        DataError: timm has no such vision transformer, the checkpoint is missing, truncated or of another
            architecture, or the input size is not a multiple of the patch.
    """

    def __init__(self, settings: TimmFeatures, device: str = "cpu") -> None:
        self.settings = settings
        path = local_file(settings.checkpoint)
        model = _build(settings.model)
        _load(model, path, settings)
        self._model = model.eval().to(device).requires_grad_(False)
        self._device = torch.device(device)
        patch = tuple(model.patch_embed.patch_size)
        self.image_size = settings.image_size or (_DEFAULT_GRID[0] * patch[0], _DEFAULT_GRID[1] * patch[1])
        if self.image_size[0] % patch[0] or self.image_size[1] % patch[1]:
            raise DataError(
                f"features.image_size={self.image_size[0]},{self.image_size[1]}: expected multiples of the patch of "
                f"{settings.model}, {patch[0]} x {patch[1]} pixels"
            )
        self.feature_dim = int(model.num_features)
        config = model.pretrained_cfg
        self._preprocess = Preprocess(tuple(config["mean"]), tuple(config["std"]), config["interpolation"])

    def __call__(self, batch: Batch) -> dict[str, np.ndarray]:
        """See ``ImageTeacher``."""
        return in_batches(self.dense, list(batch["image"]), self.settings.image_batch)

    @torch.inference_mode()
    def dense(self, images: Sequence[np.ndarray]) -> Float32[np.ndarray, "B h w F"]:
        """Patch features of uint8 [H, W, 3] images in one forward."""
        pixels = image_tensor(images, self.image_size, self._preprocess, self._device)
        with precision_of(self.settings.precision, self._device):
            maps = self._model.forward_intermediates(pixels, indices=1, norm=True, intermediates_only=True)[0]
        return maps.permute(0, 2, 3, 1).float().cpu().numpy()


def _build(name: str) -> Any:
    import timm

    if not timm.is_model(name):
        raise DataError(f"timm knows no features.model={name}{nearest(name, set(timm.list_models()))}")
    try:
        model = timm.create_model(name, pretrained=False, num_classes=0, dynamic_img_size=True)
    except TypeError as error:
        raise DataError(
            f"features.model={name} is no vision transformer that takes any input size; "
            "use one such as vit_base_patch14_dinov2"
        ) from error
    if not (hasattr(model, "forward_intermediates") and hasattr(model.patch_embed, "patch_size")):
        raise DataError(f"features.model={name} gives no patch features; use one such as vit_base_patch14_dinov2")
    return model


def _load(model: Any, path: Path, settings: TimmFeatures) -> None:
    """Strict but for the classifier's head; timm's own conversion reads the authors' files (DINOv2's, OpenAI's)."""
    origin = f"checkpoint {settings.checkpoint}"
    state = _read(path, origin)
    convert = getattr(sys.modules[type(model).__module__], "checkpoint_filter_fn", None)
    kernel = state.get("patch_embed.proj.weight")
    own_kernel = model.patch_embed.proj.weight
    problem = ""
    if kernel is not None and kernel.ndim == 4 and kernel.shape != own_kernel.shape:  # timm would resample it
        problem = f"patches are {list(kernel.shape)}, expected {list(own_kernel.shape)}"
    else:
        try:
            converted = convert(state, model) if convert else state
            converted = {key: value for key, value in converted.items() if not key.startswith(_HEADS)}
            model.load_state_dict(converted, strict=True)
        except (RuntimeError, KeyError, AttributeError, ValueError) as error:
            problem = " ".join(str(error).split())[:300]
    if problem:
        raise DataError(
            f"{origin} holds weights of another architecture than {settings.model}: {problem} …; "
            "give the features.model the weights were trained as"
        )


def _read(path: Path, origin: str) -> dict[str, Any]:
    from safetensors import SafetensorError

    from ray_lidarseg.foundation.weight_files import load_weights

    state: Any
    try:
        is_safe = path.suffix == ".safetensors"
        state = load_weights(path) if is_safe else torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, pickle.UnpicklingError, EOFError, OSError, ValueError, SafetensorError) as error:
        reason = " ".join(str(error).split())[:300]
        raise DataError(
            f"{origin} is no whole weight file ({reason or type(error).__name__}); download it again"
        ) from error
    for key in _NESTINGS:
        state = state.get(key, state) if isinstance(state, dict) else state
    if not isinstance(state, dict) or not state:
        raise DataError(f"{origin}: expected named weights, got {type(state).__name__}; give a state dict")
    return {key.removeprefix("module.").removeprefix("backbone."): value for key, value in state.items()}
