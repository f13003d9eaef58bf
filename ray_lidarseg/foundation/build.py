"""From settings to teachers, and what decides a teacher's output; a teacher's library is imported when it is built."""

from pathlib import Path
from typing import Any

from ray_lidarseg.foundation.checkpoint_files import file_sha256, local_file, sam_file
from ray_lidarseg.foundation.settings import (
    AnySettings,
    ClipFeatures,
    FeatureSettings,
    MaskSettings,
    SamMasks,
    SlicMasks,
    TimmFeatures,
)
from ray_lidarseg.foundation.teachers import ImageTeacher, MaskTeacher


def build_masks(settings: MaskSettings, device: str) -> MaskTeacher:
    """The mask teacher of the settings.

    Args:
        settings: Which teacher, and how.
        device: ``cpu``, ``cuda`` or ``cuda:0``; SLIC and files need none.
    """
    if isinstance(settings, SlicMasks):
        from ray_lidarseg.foundation.slic import Slic

        return Slic(settings, device)
    if isinstance(settings, SamMasks):
        from ray_lidarseg.foundation.sam import Sam

        return Sam(settings, device)
    from ray_lidarseg.foundation.mask_files import MaskFiles

    return MaskFiles(settings, device)


def build_features(settings: FeatureSettings, device: str) -> ImageTeacher:
    """The feature teacher of the settings; it is a ``TextTeacher`` where it can embed words.

    Args:
        settings: Which teacher, and how.
        device: ``cpu``, ``cuda`` or ``cuda:0``.
    """
    if isinstance(settings, ClipFeatures):
        from ray_lidarseg.foundation.clip import Clip, ClipImages
        from ray_lidarseg.foundation.clip_checkpoint import has_words

        return Clip(settings, device) if has_words(settings) else ClipImages(settings, device)
    from ray_lidarseg.foundation.timm_features import Timm

    return Timm(settings, device)


def identity(settings: AnySettings) -> dict[str, Any]:
    """What decides the output, as JSON: the settings, and the content of the checkpoint instead of its place.

    Two equal identities mean equal outputs up to rounding. Batches and precision are left out. The masks of ``files``
    are known by their folder; each row of the layer says which file it was made of.
    """
    is_unset = {name for name in settings.ABSENT_AT_DEFAULT if not getattr(settings, name)}
    content = settings.model_dump(mode="json", exclude={*settings.SPEED_ONLY, *is_unset, "checkpoint"})
    if isinstance(settings, SamMasks | ClipFeatures | TimmFeatures):
        content["checkpoint_sha256"] = {path.name: file_sha256(path) for path in checkpoint_paths(settings)}
        if len(content["checkpoint_sha256"]) == 1:  # the same weights under another file name are the same teacher
            content["checkpoint_sha256"] = next(iter(content["checkpoint_sha256"].values()))
    return content


def checkpoint_paths(settings: SamMasks | ClipFeatures | TimmFeatures) -> tuple[Path, ...]:
    """Local files of the checkpoint: one, or config and weights of a CLIP folder.

    Raises:
        DataError: A file is missing.
    """
    if isinstance(settings, SamMasks):
        return (sam_file(settings.checkpoint),)
    if isinstance(settings, ClipFeatures):
        from ray_lidarseg.foundation.clip_checkpoint import clip_files

        return clip_files(settings)
    return (local_file(settings.checkpoint),)
