"""Settings of the image teachers and of the pairing, as frozen pydantic models; what decides an output is its identity.

``prepare`` fills them from ``--masks``, ``--features`` and dotted ``--set`` keys: ``masks.num_segments=100``,
``features.image_size=224,416``, ``pairs.occlusion=no``. Every default names its source in the comment behind it: a
paper, its authors' code, or "ours" where both are silent. Fields that change only speed (batches) or only the last bits
(``precision``) are no part of a teacher's identity.
"""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field, ValidationError, model_validator

from ray_lidarseg.errors import RecipeError
from ray_lidarseg.recipe.bad_input import assignments, explain, nearest, shown
from ray_lidarseg.recipe.schema import Count, NonNegative, Positive, Ratio, Section

MINIATURE = "miniature"
"""A checkpoint of this name is the small model that ships with the package."""


def _split_commas(value: Any) -> Any:
    return tuple(part.strip() for part in value.split(",")) if isinstance(value, str) else value


Precision = Literal["auto", "bf16", "float32"]
ImageSize = Annotated[
    tuple[Annotated[int, Field(ge=8, le=4096)], Annotated[int, Field(ge=8, le=4096)]], BeforeValidator(_split_commas)
]
Templates = Annotated[tuple[str, ...], BeforeValidator(_split_commas), Field(min_length=1)]


MINIATURE_SAM: dict[str, Any] = {"points_per_side": 16, "pred_iou_threshold": 0.1, "stability_threshold": 0.3}
"""What the miniature SAM takes where nothing else is said: its answers score lower than those of the published models,
whose thresholds would leave next to nothing. Ours, chosen on pictures of the seed that chooses its checkpoints."""


class TeacherSettings(Section):
    """What every teacher's settings share.

    Attributes:
        SPEED_ONLY: Fields that do not decide what comes out; a change of them recomputes nothing.
        ABSENT_AT_DEFAULT: Fields an identity names only where they are set, so that adding one renames no layer.
    """

    SPEED_ONLY: ClassVar[frozenset[str]] = frozenset()
    ABSENT_AT_DEFAULT: ClassVar[frozenset[str]] = frozenset()


class SlicMasks(TeacherSettings):
    """SLIC superpixels (scikit-image)."""

    name: Literal["slic"] = "slic"
    num_segments: Annotated[int, Field(ge=1, le=0xFFFF)] = 150  # SLidR's code; SLIC may give a few more or fewer
    compactness: Positive = 6.0  # SLidR's code
    sigma: NonNegative = 3.0  # SLidR's code: pixels of Gaussian blur, at full resolution
    max_iterations: Count = 10  # scikit-image's own default


class SamMasks(TeacherSettings):
    """Segment-anything's automatic masks; ``MINIATURE_SAM`` are the defaults of the shipped checkpoint."""

    SPEED_ONLY: ClassVar[frozenset[str]] = frozenset({"prompt_batch", "image_batch", "precision"})
    ABSENT_AT_DEFAULT: ClassVar[frozenset[str]] = frozenset({"measured_px"})

    name: Literal["sam"] = "sam"
    checkpoint: Annotated[str, Field(min_length=1)] = MINIATURE  # or a path or URI of an official .pth
    architecture: Literal["auto", "vit_b", "vit_l", "vit_h", "miniature"] = "auto"  # auto: from the weights' shapes
    prompts: Literal["grid", "lidar"] = "grid"  # grid: authors' code; lidar (only where points project): ours
    points_per_side: Annotated[int, Field(ge=1, le=256)] = 32  # authors' code
    pred_iou_threshold: Ratio = 0.88  # authors' code
    stability_threshold: Ratio = 0.95  # authors' code
    stability_offset: NonNegative = 1.0  # authors' code
    nms_iou: Ratio = 0.7  # authors' code
    measured_px: Annotated[int, Field(ge=0)] = 0  # ours: longer side at which masks are measured; 0: the image's
    prompt_batch: Count = 64  # authors' code: prompts decoded at once
    image_batch: Count = 4  # ours: images encoded at once
    precision: Precision = "auto"  # bf16 on a CUDA device, float32 on a CPU

    @model_validator(mode="before")
    @classmethod
    def _suits_the_miniature(cls, given: Any) -> Any:
        is_miniature = isinstance(given, Mapping) and given.get("checkpoint", MINIATURE) == MINIATURE
        return {**MINIATURE_SAM, **given} if is_miniature else given


class FileMasks(TeacherSettings):
    """Masks the user already has: one index map for each image, found by the image's file name."""

    name: Literal["files"] = "files"
    folder: Annotated[str, Field(min_length=1)]  # path or URI; searched as FOLDER/STEM + suffix
    suffix: Literal[".png", ".npy"] = ".png"  # ours


class ClipFeatures(TeacherSettings):
    """Dense patch features of a CLIP image tower (open_clip), and its text tower."""

    ABSENT_AT_DEFAULT: ClassVar[frozenset[str]] = frozenset({"reject"})
    SPEED_ONLY: ClassVar[frozenset[str]] = frozenset({"image_batch", "precision"})

    name: Literal["clip"] = "clip"
    checkpoint: Annotated[str, Field(min_length=1)] = MINIATURE  # or local-dir:FOLDER, or a file's path or URI
    model: str = ""  # open_clip's name of the architecture, for a checkpoint that is a single file
    # height, width the tower sees; None: its own height, widened to SLidR's aspect (224,416) where it is square
    image_size: ImageSize | None = None
    last_block: Literal["identity", "value"] = "identity"  # MaskCLIP: residual and MLP stay; value: ClearCLIP-like
    templates: Templates | None = None  # None: those of prompts.py
    reject: Templates | None = (
        None  # words of what is no class, such as sky: zero-shot only. AFOV; None: every point is
    )
    image_batch: Count = 8  # ours: images in one forward
    precision: Precision = "auto"  # bf16 on a CUDA device, float32 on a CPU

    @model_validator(mode="after")
    def _checkpoint_is_named_fully(self) -> "ClipFeatures":
        carries_config = self.checkpoint == MINIATURE or self.checkpoint.startswith("local-dir:")
        if carries_config and self.model:
            raise ValueError(f"model has no effect: checkpoint {self.checkpoint!r} brings its own architecture")
        if any(template.count("{}") != 1 for template in self.templates or ()):
            raise ValueError("each of templates must hold {} once, where the class's name goes")
        return self


class TimmFeatures(TeacherSettings):
    """Dense patch features of a vision transformer of timm, such as DINOv2; no words."""

    SPEED_ONLY: ClassVar[frozenset[str]] = frozenset({"image_batch", "precision"})

    name: Literal["timm"] = "timm"
    checkpoint: Annotated[str, Field(min_length=1)]  # path or URI of a .safetensors, .pth, .pt or .bin file
    model: Annotated[str, Field(min_length=1)] = "vit_base_patch14_dinov2"  # ours; ScaLR distils DINOv2 ViT-B/L
    image_size: ImageSize | None = None  # height, width; None: 16 x 28 patches
    image_batch: Count = 8  # ours
    precision: Precision = "auto"


class PairSettings(TeacherSettings):
    """Which pixel, of which camera, a LiDAR point is paired with."""

    name: Literal["pairs"] = "pairs"
    min_depth_m: NonNegative = 1.0  # SLidR's and nuScenes devkit's code
    occlusion: bool = True  # ours: published methods make no such test
    occlusion_cell_px: Positive = 12.0  # ours, at 1,600 pixels of width (two LiDAR columns); scaled with the image
    occlusion_reach_px: Positive = 30.0  # ours, likewise: the spacing of nuScenes' beams
    occlusion_tolerance_ratio: Ratio = 0.2  # ours: depth beyond the nearer points


MaskSettings = SlicMasks | SamMasks | FileMasks
FeatureSettings = ClipFeatures | TimmFeatures
AnySettings = MaskSettings | FeatureSettings | PairSettings

_KINDS: dict[str, tuple[type[TeacherSettings], ...]] = {
    "masks": (SlicMasks, SamMasks, FileMasks),
    "features": (ClipFeatures, TimmFeatures),
    "pairs": (PairSettings,),
}


def teacher_names(kind: str) -> tuple[str, ...]:
    """Names that may follow ``--masks`` or ``--features``."""
    return tuple(section.model_fields["name"].default for section in _sections(kind))


def settings_of(kind: str, name: str, overrides: Mapping[str, Any]) -> Any:
    """Settings of one stage from the values of its ``--set`` keys.

    Args:
        kind: ``masks``, ``features`` or ``pairs``.
        name: Teacher, such as ``slic`` or ``clip``; ``pairs`` for the pairing.
        overrides: Field to value, without the kind: ``{"num_segments": 100}``; words are converted.

    Returns:
        One of this module's models.

    Raises:
        RecipeError: No such kind, teacher or key (the nearest is named), or a value out of its range.
    """
    sections = {section.model_fields["name"].default: section for section in _sections(kind)}
    if name not in sections:
        raise RecipeError(
            f"no {kind} teacher {shown(name)}: expected one of {', '.join(sections)}{nearest(name, set(sections))}"
        )
    try:
        return sections[name].model_validate({**overrides, "name": name})
    except ValidationError as error:
        problems = explain(error, sections[name], prefix=kind, missing="give --set {}=…")
        raise RecipeError("\n  ".join([f"settings of {kind} {name} do not fit:", *problems])) from error


def split_overrides(pairs: tuple[str, ...] | list[str]) -> dict[str, dict[str, str]]:
    """``masks.num_segments=100`` and the like, sorted by kind: ``{"masks": {"num_segments": "100"}, …}``.

    Raises:
        RecipeError: No ``KEY.KEY=VALUE``, or an unknown kind (the nearest is named).
    """
    found: dict[str, dict[str, str]] = {kind: {} for kind in _KINDS}
    for dotted, value in assignments(pairs, "masks.num_segments=100", RecipeError, num_parts=2).items():
        kind, _, key = dotted.partition(".")
        _sections(kind)
        found[kind][key] = value
    return found


def _sections(kind: str) -> tuple[type[TeacherSettings], ...]:
    if kind not in _KINDS:
        raise RecipeError(f"no settings {shown(kind)}: expected one of {', '.join(_KINDS)}{nearest(kind, set(_KINDS))}")
    return _KINDS[kind]
