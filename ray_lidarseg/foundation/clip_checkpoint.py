"""Loading a CLIP of open_clip from local files, never from a hub: config, strict weights, preprocessing.

Three forms of ``features.checkpoint``:

- ``miniature``: the small model in the package.
- ``local-dir:FOLDER`` (path or URI): ``open_clip_config.json`` beside one weight file. Preferred: the config carries
  the preprocessing, which a lone file does not (open_clip issue 1068: silently wrong mean and std).
- a weight file's path or URI, with open_clip's name of the architecture in ``features.model``; the preprocessing is
  then CLIP's own. OpenAI's weights need names that end in ``-quickgelu``; nothing in a weight file tells them apart.
"""

import pickle
from pathlib import Path
from typing import Any

import torch
from pyarrow import fs

from ray_lidarseg import storage
from ray_lidarseg.errors import DataError
from ray_lidarseg.foundation.checkpoint_files import local_file, shipped_weights
from ray_lidarseg.foundation.image_tensors import Preprocess
from ray_lidarseg.foundation.settings import MINIATURE, ClipFeatures
from ray_lidarseg.foundation.weight_files import check_weights
from ray_lidarseg.recipe.bad_input import nearest
from ray_lidarseg.recipe.text_files import read_json

LOCAL_FOLDER = "local-dir:"
CONFIG_FILE = "open_clip_config.json"
_WEIGHT_FILES = (  # open_clip's own order of preference
    "open_clip_model.safetensors",
    "open_clip_pytorch_model.safetensors",
    "open_clip_pytorch_model.bin",
    "open_clip_pytorch_model.pth",
    "model.safetensors",
    "pytorch_model.bin",
    "pytorch_model.pth",
    "model.pth",
)
_STOCK_VOCABULARY = 49408
_BROKEN_FILE = (
    RuntimeError,
    pickle.UnpicklingError,
    EOFError,
    OSError,
    ValueError,
    KeyError,
    AttributeError,
    TypeError,
)


def clip_files(settings: ClipFeatures) -> tuple[Path, ...]:
    """Local files of the checkpoint: config and weights of a folder, or the weights alone.

    Raises:
        DataError: A file is missing, or only a hub could give it.
    """
    if settings.checkpoint == MINIATURE:
        return _files_of_folder(str(shipped_weights("clip_miniature")))
    if settings.checkpoint.startswith(LOCAL_FOLDER):
        return _files_of_folder(settings.checkpoint.removeprefix(LOCAL_FOLDER))
    if settings.checkpoint.startswith("hf-hub:"):
        raise DataError(
            f"features.checkpoint={settings.checkpoint} would download: nothing is downloaded for you; download the "
            f"repository's files yourself and give features.checkpoint={LOCAL_FOLDER}FOLDER"
        )
    if storage.info_of(settings.checkpoint).type == fs.FileType.Directory:
        raise DataError(
            f"features.checkpoint={settings.checkpoint} is a folder; with a {CONFIG_FILE} in it, give "
            f"features.checkpoint={LOCAL_FOLDER}{settings.checkpoint}"
        )
    return (local_file(settings.checkpoint),)


def load_clip(settings: ClipFeatures) -> tuple[torch.nn.Module, Preprocess]:
    """The model with its weights, in evaluation mode on the CPU, and its preprocessing.

    Raises:
        DataError: A file is missing or truncated, the weights are of another architecture, or the architecture is one
            this package cannot take dense features of.
    """
    paths = clip_files(settings)
    config = _config(paths, settings)
    model = _build(config["model_cfg"], settings)
    _load_weights(model, paths[-1], settings)
    return model.eval(), _preprocess(config.get("preprocess_cfg", {}))


def has_words(settings: ClipFeatures) -> bool:
    """Whether the texts are of CLIP's own tokenizer, which open_clip ships; that of SigLIP 2 is a download of its own.

    Raises:
        DataError: A file is missing.
    """
    text = _config(clip_files(settings), settings)["model_cfg"].get("text_cfg", {})
    return "hf_tokenizer_name" not in text and text.get("vocab_size", _STOCK_VOCABULARY) == _STOCK_VOCABULARY


def _config(paths: tuple[Path, ...], settings: ClipFeatures) -> dict[str, Any]:
    if len(paths) == 2:
        return _read_config(paths[0])
    config: dict[str, Any] = {"model_cfg": _named_config(settings)}
    if "SigLIP" in settings.model:  # a lone file does not carry them; open_clip's own for all of its SigLIPs
        config["preprocess_cfg"] = {"mean": [0.5] * 3, "std": [0.5] * 3}
    return config


def _preprocess(given: dict[str, Any]) -> Preprocess:
    own = Preprocess()
    mean, std = tuple(given.get("mean", own.mean)), tuple(given.get("std", own.std))
    return Preprocess(mean, std, given.get("interpolation", own.interpolation))


def _files_of_folder(folder: str) -> tuple[Path, ...]:
    there = [name for name in (CONFIG_FILE, *_WEIGHT_FILES) if storage.exists(storage.join(folder, name))]
    weights = [name for name in there if name != CONFIG_FILE]
    if CONFIG_FILE not in there or not weights:
        raise DataError(
            f"{LOCAL_FOLDER}{folder}: expected {CONFIG_FILE} and one of {', '.join(_WEIGHT_FILES)}, got "
            f"{there or 'neither'}; download both into one folder"
        )
    return tuple(local_file(storage.join(folder, name)) for name in (CONFIG_FILE, weights[0]))


def _read_config(path: Path) -> dict[str, Any]:
    config = read_json(path.read_bytes(), f"{path} (download it again)", DataError)
    if not isinstance(config.get("model_cfg"), dict):
        raise DataError(f"{path}: expected an open_clip config with model_cfg (and preprocess_cfg); download it again")
    return config


def _named_config(settings: ClipFeatures) -> dict[str, Any]:
    import open_clip

    if not settings.model:
        raise DataError(
            f"features.checkpoint={settings.checkpoint} is a single file: also give features.model, open_clip's name "
            "of its architecture, such as ViT-B-16 or (for OpenAI's weights) ViT-B-16-quickgelu"
        )
    known = set(open_clip.list_models())
    if settings.model not in known:
        hint = nearest(settings.model, known) or "; open_clip.list_models() lists them"
        raise DataError(f"open_clip knows no architecture features.model={settings.model}{hint}")
    return dict(open_clip.get_model_config(settings.model))


def _build(config: dict[str, Any], settings: ClipFeatures) -> torch.nn.Module:
    import open_clip

    origin = settings.model or settings.checkpoint
    config = dict(config)
    _refuse_unknown_towers(config, origin)
    model_class = open_clip.CustomTextCLIP if config.pop("custom_text", False) else open_clip.CLIP
    try:
        return model_class(**config)
    except (TypeError, ValueError, RuntimeError, AssertionError) as error:
        raise DataError(f"{origin}: open_clip cannot build a model of this config: {error}") from error


def _refuse_unknown_towers(config: dict[str, Any], origin: str) -> None:
    vision, text = config.get("vision_cfg", {}), config.get("text_cfg", {})
    reasons = {
        f"an image tower of timm that pools by {vision.get('timm_pool')!r} ({vision.get('timm_model_name')})": (
            "timm_model_name" in vision and vision.get("timm_pool") != "map"
        ),
        f"a text tower of a hub ({text.get('hf_model_name')})": "hf_model_name" in text,
        "attentional pooling": bool(vision.get("attentional_pool")) or "multimodal_cfg" in config,
    }
    found = [reason for reason, applies in reasons.items() if applies]
    if found:
        raise DataError(
            f"{origin} has {' and '.join(found)}: dense features are taken of open_clip's own ViT and ResNet "
            "towers, such as ViT-B-16, and of SigLIP's; for other image towers use --features timm"
        )


def _load_weights(model: torch.nn.Module, path: Path, settings: ClipFeatures) -> None:
    import open_clip
    from safetensors import SafetensorError

    origin = f"checkpoint {settings.checkpoint}"
    try:
        check_weights(path)
        open_clip.load_checkpoint(model, str(path), strict=True, weights_only=True)
    except (*_BROKEN_FILE, SafetensorError) as error:
        first_line = " ".join(str(error).split())[:300]
        if "size mismatch" in first_line or "Missing key" in first_line or "Unexpected key" in first_line:
            architecture = settings.model or "its own config"
            raise DataError(
                f"{origin} holds weights of another architecture than {architecture}: {first_line} …; "
                "give the features.model the weights were trained as"
            ) from error
        if "TorchScript" in first_line:
            raise DataError(
                f"{origin} is a TorchScript archive, as OpenAI published them: save its state_dict, or take the same "
                "weights as converted for open_clip"
            ) from error
        raise DataError(
            f"{origin} is no whole weight file ({first_line or type(error).__name__}); download it again"
        ) from error
