"""The whole run as one frozen, validated model; ``recipes/*.yaml`` are instances of it.

Angles are degrees here and nowhere else. Every default names its source in the comment behind it: a paper, its
authors' code, or "ours" where both are silent.
"""

import hashlib
import json
from fractions import Fraction
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from ray_lidarseg.recipe.ontology import Ontology

Ratio = Annotated[float, Field(ge=0.0, le=1.0)]
Positive = Annotated[float, Field(gt=0.0)]
NonNegative = Annotated[float, Field(ge=0.0)]
Count = Annotated[int, Field(ge=1)]


def _word_of(on: str, off: str) -> BeforeValidator:
    """YAML reads bare ``on``, ``off``, ``yes`` and ``no`` as booleans; they mean the words here."""
    return BeforeValidator(lambda value: {True: on, False: off}[value] if isinstance(value, bool) else value)


def _share(value: Any) -> Any:
    """``10%`` and ``1/16`` are the numbers they say."""
    if not isinstance(value, str):
        return value
    try:
        if value.strip().endswith("%"):
            return float(value.strip()[:-1]) / 100
        return float(Fraction(value))
    except (ValueError, ZeroDivisionError):
        raise ValueError("expected a share such as 10%, 1/16 or 0.1") from None


class Section(BaseModel):
    """A frozen part of a recipe; unknown keys are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Sensor(Section):
    """Overrides of the data set's sensor, for own LiDARs; a field left out keeps the data set's value."""

    num_beams: Count | None = None
    fov_up_deg: float | None = None
    fov_down_deg: float | None = None
    min_range_m: NonNegative | None = None
    max_range_m: Positive | None = None


class Data(Section):
    """Prepared shards and what they hold."""

    prepared: str = ""  # URI of the folder `ray-lidarseg prepare` wrote
    dataset: Annotated[str, Field(min_length=1)] = "nuscenes"  # classes and sensor; datasets.entries lists them
    ontology: Ontology | None = None  # of own logs; left out, train takes it from the prepared folder
    sensor: Sensor = Sensor()
    evidence: str = ""  # what images say about points: "" none, auto the only features layer of `prepare`, or its name
    evidence_dim: Annotated[int, Field(ge=0)] = 0  # length F of its features; left out, train takes it from the layer
    val_frames: tuple[str, ...] = ()  # frames taken out of train and validated on, beside the index's own val split
    use_intensity: bool = True  # False: intensity is zeroed, for sensors without one
    image_size: tuple[Count, Count] | None = None  # rows, columns images are resized to; None: the data set says


class Split(Section):
    """Which training frames count as labelled."""

    protocol: Literal["uniform", "scene", "slidr-skip", "list"] = "uniform"  # LaserMix: uniform over all frames
    ratio: Annotated[Ratio, BeforeValidator(_share)] = 0.1  # LaserMix: 1, 10, 20, 50 %; also written 10% or 1/16
    seed: int = 0
    frames: tuple[str, ...] = ()  # protocol list: frame ids …
    file: str = ""  # … or a text file with one frame id a line


class Augment(Section):
    """One set of augmentations for both streams; teacher and student see the same cloud (authors' code)."""

    flip_ratio: Ratio = 0.5  # authors' Cylinder3D configs, x and y independently
    rotation_deg: tuple[float, float] = (-45.0, 45.0)  # authors' Cylinder3D configs
    scale: tuple[Positive, Positive] = (0.95, 1.05)  # authors' configs
    translation_std_m: NonNegative = 0.1  # authors' Cylinder3D configs


class ImageAugment(Section):
    """The counterpart for images; also one set for both streams."""

    flip_ratio: Ratio = 0.5  # CPS: mirror images, left and right exchanged
    brightness: Ratio = 0.2  # ours: factors are drawn from 1 ± this
    contrast: Ratio = 0.2  # ours
    saturation: Ratio = 0.2  # ours


class FIDNet(Section):
    """Range-view network (FIDNet, 'ResNet34-point')."""

    name: Literal["fidnet"] = "fidnet"
    height_px: Count = 32  # rows of the range image; LaserMix: 32 nuScenes, 64 SemanticKITTI
    width_px: Count = 1920  # LaserMix: 1920 nuScenes, 2048 SemanticKITTI
    width_factor: Positive = 1.0  # FIDNet code: 1 is 6.05 M parameters
    blocks: tuple[Count, Count, Count, Count] = (3, 4, 6, 3)  # FIDNet code


class MinkUNet(Section):
    """Sparse voxel network."""

    name: Literal["minkunet"] = "minkunet"
    depth: Literal[14, 18, 34] = 18  # LaserMix's MinkUNet config
    width_factor: Positive = 1.0  # 1 is 21.7 M parameters at depth 18
    voxel_size_m: Positive = 0.05  # authors' SemanticKITTI config; 0.1 usual on nuScenes


class SPVCNN(Section):
    """MinkUNet with a branch on points."""

    name: Literal["spvcnn"] = "spvcnn"
    depth: Literal[14, 18, 34] = 18  # authors' SPVCNN config: MinkUNet18 with three point layers, 21.8 M parameters
    width_factor: Positive = 1.0  # scales the point layers, too
    voxel_size_m: Positive = 0.05  # as MinkUNet
    dropout_ratio: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.3  # SPVCNN code, before the decoder's halves


class Cylinder3D(Section):
    """Sparse network with asymmetric kernels on a cylindrical grid."""

    name: Literal["cylinder3d"] = "cylinder3d"
    grid: tuple[Count, Count, Count] = (480, 360, 32)  # radius, azimuth, height; paper. LaserMix's runs: 240, 180, 20
    radius_m: Positive = 50.0  # paper
    height_m: tuple[float, float] | None = None  # None: -4, 2 semantickitti, -5, 3 nuscenes (authors' code) and others
    width_factor: Positive = 1.0  # scales the base of 32 channels and the point layers; 1 is 55.84 M parameters
    point_refinement: bool = False  # paper's last layer; absent from its code and from LaserMix's runs

    @model_validator(mode="after")
    def _heights_ascend(self) -> "Cylinder3D":
        if self.height_m is not None and self.height_m[0] >= self.height_m[1]:
            raise ValueError(f"height_m is (lowest, highest), got {self.height_m}")
        if min(self.grid) < 2:
            raise ValueError(f"grid needs at least two cells an axis, got {self.grid}")
        return self


class ImageUNet(Section):
    """Small encoder-decoder for images; LaserMix++'s own image network is not known."""

    name: Literal["image_unet"] = "image_unet"
    width_factor: Positive = 1.0  # ours: 1 is 32 channels at full size
    num_levels: Annotated[int, Field(ge=1, le=8)] = 4  # ours: sizes, each half the one before


class Supervised(Section):
    """Labelled scans only."""

    name: Literal["supervised"] = "supervised"
    cross_entropy_weight: NonNegative = 1.0  # authors' code
    lovasz_weight: NonNegative = 2.0  # authors' nuScenes code; 3 on SemanticKITTI, 0 for MinkUNet

    @property
    def deployed(self) -> str:
        """Which of the method's models predicts."""
        return "student"

    @property
    def pairs_scans(self) -> bool:
        """Whether labelled scan i is paired with unlabelled scan i, so that a step needs as many of both."""
        return False

    @property
    def reads_evidence(self) -> bool:
        """Whether steps need what images say of the points, a layer that ``data.evidence`` names."""
        return False


class WithTeacher(Supervised):
    """What every method with an EMA teacher says of it."""

    ema_decay: Ratio = 0.99  # LaserMix: best on nuScenes and SemanticKITTI, and the authors' code
    ema_memory_ratio: Ratio = 0.0  # ours: above 0 the teacher remembers this share of the steps, instead of ema_decay
    ema_warm_up: bool = False  # Mean Teacher's code: update k moves by min(decay, 1 - 1/k); LaserMix: none
    ema_buffers: Literal["average", "copy", "own"] = "average"  # ours; authors' code is "own" (teacher in train mode)

    @model_validator(mode="after")
    def _one_memory(self) -> Self:
        if self.ema_memory_ratio and "ema_decay" in self.model_fields_set and self.ema_decay != 0.99:
            raise ValueError("ema_memory_ratio and ema_decay both say how long the teacher remembers: leave one out")
        return self

    @property
    def deployed(self) -> str:
        """The teacher, as in the LaserMix authors' code."""
        return "teacher"

    def decay_over(self, steps: int) -> float:
        """The decay of each update in a run of so many steps: a memory of m updates is ``1 - 1 / m``."""
        return 1 - 1 / max(1.0, self.ema_memory_ratio * steps) if self.ema_memory_ratio else self.ema_decay


class MeanTeacher(WithTeacher):
    """Supervised plus consistency with an EMA teacher."""

    name: Literal["mean_teacher"] = "mean_teacher"  # type: ignore[assignment]
    consistency_weight: NonNegative = 500.0  # authors' nuScenes code; 250 Cylinder3D and 200 MinkUNet on SemanticKITTI
    ramp_up_ratio: Ratio = 0.0  # share of the schedule over which unlabelled terms grow; authors: none


class PseudoLabelling(MeanTeacher):
    """What every method says of the points whose labels come from its teacher."""

    confidence: Ratio = 0.95  # LaserMix authors' nuScenes code; paper's plots are best at 0.9
    pseudo_rule: Literal["confidence", "flexmatch", "quantile", "alignment"] = (
        "confidence"  # LaserMix; see pseudo_label
    )
    pseudo_memory: Ratio = 0.99  # ours: share of the other rules' statistics that stays in a step
    pseudo_portion: Ratio = 0.5  # rule quantile: share of each class's points that is kept at least; CBST ends there

    @model_validator(mode="after")
    def _pseudo_keys_have_an_effect(self) -> Self:
        unused = {"pseudo_memory": self.pseudo_rule == "confidence", "pseudo_portion": self.pseudo_rule != "quantile"}
        for key, is_unused in unused.items():
            if is_unused and getattr(self, key) != type(self).model_fields[key].default:
                raise ValueError(f"{key} has no effect with pseudo_rule {self.pseudo_rule}: leave it out")
        return self


class LaserMix(PseudoLabelling):
    """Mean teacher plus mixing of laser bands between a labelled and an unlabelled scan."""

    name: Literal["lasermix"] = "lasermix"  # type: ignore[assignment]
    num_areas: tuple[Count, ...] = (3, 4, 5, 6)  # authors' nuScenes code; 4-8 Cylinder3D on SemanticKITTI
    mix_weight: NonNegative = 1.0  # authors' code

    @property
    def pairs_scans(self) -> bool:
        """Yes."""
        return True


class LaserMixPP(LaserMix):
    """LaserMix plus what camera images say of the points: distillation of features, and guidance by language.

    The paper's weights and ramps are not known; 1 and no ramp are those of M3Net (CVPR 2024, same authors).
    """

    name: Literal["lasermix_pp"] = "lasermix_pp"  # type: ignore[assignment]
    distillation_weight: NonNegative = 1.0  # M3Net; 0 switches the part off
    distillation_ramp_up_ratio: Ratio = 0.0  # M3Net: none
    language_weight: NonNegative = 1.0  # M3Net; 0 switches the part off
    language_ramp_up_ratio: Ratio = 0.0  # M3Net: none
    language_centred: bool = True  # ours: without it the offset all CLIP cosines share drowns the class
    language_balanced: bool = False  # M3Net: all points count alike; on (ours): all classes the teacher names
    language_reliable: bool = False  # ours: weighs what the teacher names by how often labels agree; M3Net trusts all
    language_min_recall: Ratio = 0.05  # ours: classes it names more seldom on labelled points are left out of the term
    language_memory: Ratio = 0.99  # ours: share of the counts behind both that stays in a step
    language_drop_ratio: Ratio = (
        0.0  # ours: share of the paired points left out, those of the smallest margin; M3Net: 0
    )
    language_temperature: NonNegative = 0.0  # paper: 0, "non-probabilistic"; else softmax(cosines / it), CLIP's is 0.01
    multimodal_mix_weight: NonNegative = 1.0  # ours: share of both terms on mixed scans too; 0 switches the part off
    multimodal_mix_ramp_up_ratio: Ratio = 0.0  # ours: none

    @model_validator(mode="after")
    def _language_keys_have_an_effect(self) -> Self:
        for key in ("language_min_recall", "language_memory"):
            if not self.language_reliable and getattr(self, key) != type(self).model_fields[key].default:
                raise ValueError(f"{key} has no effect without language_reliable: leave it out")
        return self

    @property
    def reads_evidence(self) -> bool:
        """Unless both parts are off."""
        return bool(self.distillation_weight or self.language_weight)


class CBST(WithTeacher):
    """Class-balanced self-training: each class has its own confidence threshold."""

    name: Literal["cbst"] = "cbst"  # type: ignore[assignment]
    self_training_weight: NonNegative = 1.0  # CBST: pseudo-labels count as labels
    portion: tuple[Ratio, Ratio] = (0.2, 0.5)  # CBST: share of each class's points kept in the first and last round
    threshold_decay: Ratio = 0.9  # ours: the paper ranks all points at once between its rounds
    ramp_up_ratio: Ratio = 0.0  # CBST: none


class CPS(Supervised):
    """Cross pseudo supervision: two students label for each other."""

    name: Literal["cps"] = "cps"  # type: ignore[assignment]
    cross_weight: NonNegative = 1.5  # CPS on PASCAL VOC; 6 on Cityscapes
    ramp_up_ratio: Ratio = 0.0  # CPS: none


class CutMixSeg(WithTeacher):
    """Consistency with an EMA teacher on unlabelled scans that exchanged a rectangle of directions."""

    name: Literal["cutmix_seg"] = "cutmix_seg"  # type: ignore[assignment]
    cutmix_weight: NonNegative = 1.0  # CutMix-Seg
    confidence: Ratio = 0.97  # CutMix-Seg: the share of points above it scales the term
    area_ratio: Annotated[float, Field(gt=0.0, le=1.0)] = 0.5  # CutMix-Seg: the rectangle's share of the image
    ramp_up_ratio: Ratio = 0.0  # CutMix-Seg: none; its EMA, buffers too, is 0.99, as here by default


class PolarMix(PseudoLabelling):
    """Mean teacher plus PolarMix: a sector of azimuth exchanged, instances pasted at several angles."""

    name: Literal["polarmix"] = "polarmix"  # type: ignore[assignment]
    partner: Literal["unlabelled", "labelled"] = "unlabelled"  # labelled: the augmentation as published
    mix_weight: NonNegative = 1.0  # ours: as LaserMix
    swap_ratio: Ratio = 0.5  # mmdetection3d: share of the pairs that exchange a sector
    sector_deg: Annotated[float, Field(gt=0.0, le=360.0)] = 180.0  # PolarMix
    paste_ratio: Ratio = 1.0  # mmdetection3d: share of the pairs that get each other's instances
    instance_classes: tuple[Annotated[int, Field(ge=0)], ...] = ()  # class ids; none: the things of data.dataset

    @property
    def pairs_scans(self) -> bool:
        """With unlabelled partners only."""
        return self.partner == "unlabelled"


class NeRF(Supervised):
    """NeRF self-supervision (arXiv 2411.02969): the paper's numbers are not public, all defaults here are ours.

    Where a comment names a sibling, its published code has that value.
    """

    name: Literal["nerf"] = "nerf"  # type: ignore[assignment]
    target: Literal["rendered", "projected"] = "rendered"  # paper: rendered; projected: points by their projection
    masks: str = "sam"  # paper: SAM; slic, files, none, or the name of a layer of `prepare`; train writes its full name
    teacher: Literal["none", "ema"] = "none"  # who makes pseudo-labels; the paper names no teacher
    ema_decay: Ratio = 0.99  # as LaserMix's teacher
    ema_buffers: Literal["average", "copy", "own"] = "average"  # ours
    rendered_weight: NonNegative = 1.0  # of rendered against labelled; RenderOcc
    depth_weight: NonNegative = 0.1  # a metre; about UniPAD's and PonderV2's in their own units
    segment_weight: NonNegative = 0.5  # of pseudo-labels; siblings' semantic weights lie between 0.04 and 1
    warm_up_ratio: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.1  # share of the schedule before pseudo-labels count
    segment_ramp_ratio: Ratio = 0.2  # share of what is left over which their weight grows
    stop_density: bool = True  # pseudo-labels do not move density; Panoptic Lifting stops such gradients, too
    entropy_threshold: Ratio = 0.2  # of a segment, divided by ln C: about a confidence of 0.9
    pixel_entropy_threshold: Ratio = 1.0  # pixels above it have no vote; 1: all have one
    min_pixels: Count = 4  # a segment seen by fewer opaque pixels is not labelled
    min_points: Count = 1  # the same for points, target projected
    min_opacity: Ratio = 0.5  # a more transparent ray has no vote and gets no label
    step_m: Positive = 0.2  # between samples; RenderOcc and OccNeRF: half a voxel
    near_m: NonNegative = 1.0  # UniPAD
    far_m: Positive = 50.0  # the grid's radius; RenderOcc stops at 52
    beams: Annotated[int, Field(ge=0)] = 4096  # LiDAR rays of a scan
    points_per_image: Annotated[int, Field(ge=0)] = 512  # rays to labelled points, an image of a labelled scan
    pixels_per_image: Count = 1024  # 512 UniPAD and PonderV2, 4,800 SelfOcc
    pixels_per_segment: Count = 16  # at most: 64 segments an image, so that large ones do not decide alone
    reduced_dim: Count = 32  # width of features in space; RenderOcc, UniPAD, PonderV2
    hidden_dims: tuple[Count, ...] = (64, 64)  # RenderOcc: 64
    density_bias: float = -1.0  # softplus(-1): about 0.3 a metre before anything is learned
    mixing: LaserMix | None = None  # {}: LaserMix's terms on top
    log_truth: bool = False  # compare with the label images of a synthetic world (never learned from)

    @model_validator(mode="after")
    def _settings_go_together(self) -> "NeRF":
        if self.near_m >= self.far_m:
            raise ValueError(f"near_m must be below far_m, got {self.near_m} and {self.far_m}")
        if self.target == "projected" and self.masks == "none":
            raise ValueError("target projected groups points by segments: masks=none leaves nothing to group by")
        return self

    @property
    def deployed(self) -> str:
        """The teacher where there is one."""
        return "student" if self.teacher == "none" else "teacher"

    @property
    def pairs_scans(self) -> bool:
        """With LaserMix on top only."""
        return self.mixing is not None


class Optim(Section):
    """Optimiser and schedule; the learning rate is the peak."""

    name: Literal["adamw", "sgd"] = "adamw"  # authors' Cylinder3D code
    lr: Positive = 0.001  # authors' Cylinder3D code (OneCycle eta_max)
    weight_decay: NonNegative = 0.01  # authors' Cylinder3D code
    momentum: Ratio = 0.9  # authors' MinkUNet code (SGD, Nesterov)
    grad_clip_norm: NonNegative = 10.0  # authors' code; 0 switches it off
    schedule: Literal["onecycle", "cosine", "constant"] = "onecycle"
    warmup_ratio: Ratio = 0.3  # share of the steps with a rising rate; OneCycle's own default
    start_factor: Positive = 0.04  # first rate / peak; OneCycle's own default (1/25)
    final_factor: Positive = 4e-6  # last rate / peak; OneCycle's own default (1/25/1e4)


class Start(Section):
    """Weights a run begins with instead of fresh ones: pre-train then fine-tune, linear probe, few-shot."""

    run: str = ""  # a run folder: its newest checkpoint's deployed model …
    file: str = ""  # … or a .safetensors file of a model, or the state.pt of a checkpoint
    part: Literal["all", "backbone"] = "all"  # all: the head too, where it has the same classes
    frozen: bool = False  # the backbone keeps weights and batch-norm statistics, only the head learns: a linear probe
    head_lr_factor: Positive = 1.0  # rate of everything but the backbone over optim.lr; ours: 1

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if bool(self.run) == bool(self.file):
            raise ValueError("give either run (a run folder) or file (a .safetensors or state.pt)")
        return self


class Train(Section):
    """Length, batch and rhythm. The batch is global: workers and accumulation divide it, they do not change it."""

    steps: Count = 60_000  # authors' nuScenes code at 16 + 16 scans
    labelled_per_step: Count = 16  # scans in one optimiser step over all workers; authors' nuScenes code
    unlabelled_per_step: Annotated[int, Field(ge=0)] = 16
    labelled_sampling: Literal["uniform", "class_balanced"] = "uniform"  # class_balanced: ours, see datasets/sampler.py
    micro_batch: Annotated[int, Field(ge=0)] = 0  # scans of each stream in one forward of one worker; 0: all at once
    evaluate_every: Count = 1200  # authors' nuScenes code
    evaluate_first: bool = False  # also before the first step
    checkpoint_every: Count = 1200
    keep_checkpoints: Count = 2
    log_every: Count = 10
    amp: Annotated[Literal["auto", "bf16", "off"], _word_of("auto", "off")] = (
        "auto"  # bf16 (or fp16 with scaling) on CUDA; on a CPU bf16 where measured faster; bf16: on any device
    )
    evaluate_batch: Count = 4
    norm_batches: Annotated[int, Field(ge=0)] = 0  # SWA's step before evaluating and saving; 0: none, as the authors
    diagnose_frames: Annotated[int, Field(ge=0)] = 8  # unlabelled frames with known labels, read for diagnosis only


class Workers(Section):
    """What Ray gives each training worker."""

    num_workers: Count = 2
    use_gpu: Annotated[Literal["auto", "yes", "no"], _word_of("yes", "no")] = "auto"
    cpus_per_worker: Positive = 1.0
    loader_processes: Annotated[int, Field(ge=0)] = 0  # DataLoader processes inside each worker; 0: in the step loop
    max_failures: Annotated[int, Field(ge=-1)] = 3  # worker-group restarts before the run gives up; -1: never
    mkl_as_on_intel: bool = False  # overrides what MKL thinks of other processors; `doctor` says what that brings


class Sparse(Section):
    """Which sparse-convolution backend runs."""

    backend: Literal["torch", "torchsparse"] = "torch"


Model = Annotated[FIDNet | MinkUNet | SPVCNN | Cylinder3D | ImageUNet, Field(discriminator="name")]
MethodRecipe = Annotated[
    Supervised | MeanTeacher | LaserMix | LaserMixPP | CBST | CPS | CutMixSeg | PolarMix | NeRF,
    Field(discriminator="name"),
]


FREE_KEYS = (
    *("name", "workers"),
    *("train.log_every", "train.checkpoint_every", "train.keep_checkpoints", "train.evaluate_batch"),
    "train.diagnose_frames",
)
"""What decides no result: the fingerprint leaves it out, and it may differ when a run is continued."""

_LATER_KEYS = {
    ("method", "ema_memory_ratio"): 0.0,
    ("method", "ema_warm_up"): False,
    ("method", "pseudo_rule"): "confidence",
    ("method", "pseudo_memory"): 0.99,
    ("method", "pseudo_portion"): 0.5,
    ("method", "language_reliable"): False,
    ("method", "language_min_recall"): 0.05,
    ("method", "language_memory"): 0.99,
    ("method", "language_drop_ratio"): 0.0,
    ("train", "norm_batches"): 0,
    ("train", "labelled_sampling"): "uniform",
}
"""Keys younger than the first runs, and the value that changes nothing: with it a fingerprint stays what it was."""


class Recipe(Section):
    """A whole run."""

    name: str = "run"
    seed: Annotated[int, Field(ge=0)] = 0
    data: Data = Data()
    split: Split = Split()
    augment: Augment = Augment()
    image_augment: ImageAugment = ImageAugment()
    model: Model = FIDNet()
    method: MethodRecipe = LaserMix()
    optim: Optim = Optim()
    train: Train = Train()
    workers: Workers = Workers()
    sparse: Sparse = Sparse()
    start: Start | None = None

    @model_validator(mode="after")
    def _frozen_statistics_stay(self) -> Self:
        if self.start and self.start.frozen and self.train.norm_batches:
            raise ValueError("start.frozen keeps batch-norm statistics: leave train.norm_batches out")
        return self

    @model_validator(mode="after")
    def _batch_divides(self) -> "Recipe":
        ranks = self.workers.num_workers
        for key in ("labelled_per_step", "unlabelled_per_step"):
            count = getattr(self.train, key)
            if count % ranks:
                raise ValueError(f"train.{key}={count} does not divide by workers.num_workers={ranks}")
        if self.method.pairs_scans and self.train.labelled_per_step != self.train.unlabelled_per_step:
            raise ValueError(
                f"method {self.method.name} pairs scans: train.labelled_per_step must equal train.unlabelled_per_step"
            )
        return self

    @property
    def is_images(self) -> bool:
        """Whether a scan is an image: the model says so, and ``datasets.entries.check_recipe`` that the data agree."""
        return isinstance(self.model, ImageUNet)

    @model_validator(mode="after")
    def _rays_meet_cells(self) -> "Recipe":
        if isinstance(self.method, NeRF) and isinstance(self.model, FIDNet | ImageUNet):
            raise ValueError(
                f"method nerf looks through cells in space, and model {self.model.name} sees scans as images: set "
                "model.name to cylinder3d, minkunet or spvcnn"
            )
        return self

    @model_validator(mode="after")
    def _images_fit(self) -> "Recipe":
        data = self.data
        if not self.is_images and data.image_size is not None:
            raise ValueError(f"data.image_size is for images: model {self.model.name} sees scans")
        if self.is_images and (data.sensor != Sensor() or data.evidence or not data.use_intensity):
            raise ValueError(
                f"data.sensor, data.evidence and data.use_intensity are for scans: leave them out with model "
                f"{self.model.name}"
            )
        unused, default = ("augment", Augment()) if self.is_images else ("image_augment", ImageAugment())
        if getattr(self, unused) != default:
            raise ValueError(f"{unused} has no effect with model {self.model.name}: leave it out")
        return self

    @property
    def fingerprint(self) -> str:
        """Eight hex digits of what decides the result, which ``FREE_KEYS`` do not."""
        content = self.model_dump(mode="json")
        for key in FREE_KEYS:
            section, _, name = key.rpartition(".")
            (content[section] if section else content).pop(name)
        if self.start is None:
            content.pop("start")
        if self.data.ontology is None:
            content["data"].pop("ontology")
        if not self.is_images:
            content["data"].pop("image_size")
            content.pop("image_augment")
        if not self.data.evidence:
            content["data"] = {key: value for key, value in content["data"].items() if not key.startswith("evidence")}
        for (section, key), without_effect in _LATER_KEYS.items():
            if content[section].get(key) == without_effect:
                content[section].pop(key)
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:8]

    def to_yaml(self) -> str:
        """The resolved recipe, every default written out."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False)
