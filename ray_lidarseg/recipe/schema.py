"""The whole run as one frozen, validated model; ``recipes/*.yaml`` are instances of it.

Angles are degrees here and nowhere else. Every default names its source in the comment behind it: a paper, its
authors' code, or "ours" where both are silent.
"""

import hashlib
import json
from typing import Annotated, Literal, Self

import yaml
from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from ray_lidarseg.recipe.frozen_section import (
    Count,
    NonNegative,
    Positive,
    Ratio,
    Section,
    count_or_range,
    file_name,
    share_of,
    word_of,
)
from ray_lidarseg.recipe.method_sections import (
    CBST,
    CPS,
    CutMixSeg,
    Distill,
    LaserMix,
    LaserMixPP,
    MeanTeacher,
    MethodRecipe,
    MethodSection,
    NeRF,
    PolarMix,
    PseudoLabelling,
    Supervised,
    WithTeacher,
)
from ray_lidarseg.recipe.ontology import Ontology

__all__ = [  # readers of recipes need no other door
    "CBST",
    "CPS",
    "FREE_KEYS",
    "SPVCNN",
    "Augment",
    "CutMixSeg",
    "Cylinder3D",
    "Data",
    "Distill",
    "FIDNet",
    "ImageAugment",
    "ImageUNet",
    "LaserMix",
    "LaserMixPP",
    "MeanTeacher",
    "MethodRecipe",
    "MethodSection",
    "MinkUNet",
    "Model",
    "NeRF",
    "Optim",
    "PolarMix",
    "PseudoLabelling",
    "Recipe",
    "Section",
    "Sensor",
    "Sparse",
    "Split",
    "Start",
    "Supervised",
    "Train",
    "WithTeacher",
    "Workers",
]


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

    protocol: Literal["uniform", "scene", "slidr-skip", "slidr-scenes", "list"] = "uniform"  # LaserMix's
    ratio: Annotated[Ratio, BeforeValidator(share_of)] = 0.1  # LaserMix: 1, 10, 20, 50 %; also written 10% or 1/16
    seed: int = 0
    frames: tuple[str, ...] = ()  # protocol list: frame ids …
    file: str = ""  # … or a text file with one frame id a line

    @model_validator(mode="after")
    def _lists_are_read(self) -> Self:
        if self.protocol != "list" and (self.file or self.frames):
            raise ValueError(
                f"file and frames have no effect with protocol {self.protocol}: set protocol to list, or leave them out"
            )
        return self


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


class Optim(Section):
    """Optimiser and schedule; the learning rate is the peak."""

    name: Literal["adamw", "sgd"] = "adamw"  # authors' Cylinder3D code
    lr: Positive = 0.001  # authors' Cylinder3D code (OneCycle eta_max)
    weight_decay: NonNegative = 0.01  # authors' Cylinder3D code
    eps: Positive = 1e-8  # AdamW's term in the denominator; PyTorch's own, as in the authors' Cylinder3D code
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
    amp: Annotated[Literal["auto", "bf16", "off"], word_of("auto", "off")] = (
        "auto"  # bf16 (or fp16 with scaling) on CUDA; on a CPU bf16 where measured faster; bf16: on any device
    )
    evaluate_batch: Count = 4
    norm_batches: Annotated[int, Field(ge=0)] = 0  # SWA's step before evaluating and saving; 0: none, as the authors
    diagnose_frames: Annotated[int, Field(ge=0)] = 8  # unlabelled frames with known labels, read for diagnosis only


class Workers(Section):
    """What Ray gives each training worker."""

    num_workers: Annotated[int | tuple[int, int], BeforeValidator(count_or_range)] = 2  # [least, most]: elastic
    use_gpu: Annotated[Literal["auto", "yes", "no"], word_of("yes", "no")] = "auto"
    cpus_per_worker: Positive = 1.0
    loader_processes: Annotated[int, Field(ge=0)] = 0  # DataLoader processes inside each worker; 0: in the step loop
    max_failures: Annotated[int, Field(ge=-1)] = 3  # worker-group restarts before the run gives up; -1: never
    max_preemptions: Annotated[int, Field(ge=-1)] = -1  # Ray's budget of announced losses, -1: any number
    geometry_in_loader: bool = (
        False  # voxels, maps and pixels on the host, ahead of the step; for GPUs that wait for them
    )
    compile_dense: bool = False  # torch.compile of dense networks; off: no gain in bf16 on CPUs (tests.bench.compiled)
    mkl_as_on_intel: bool = False  # overrides what MKL thinks of other processors; `doctor` says what that brings

    @property
    def num_workers_range(self) -> tuple[int, int]:
        """The least and the most workers; equal where the number is fixed."""
        return self.num_workers if isinstance(self.num_workers, tuple) else (self.num_workers, self.num_workers)

    @property
    def least(self) -> int:
        """So many workers a run needs to start, or to go on."""
        return self.num_workers_range[0]

    @property
    def most(self) -> int:
        """So many workers a run makes use of."""
        return self.num_workers_range[1]


class Sparse(Section):
    """Which sparse-convolution backend runs."""

    backend: Literal["torch", "torchsparse", "spconv", "spconv-triton", "auto"] = "torch"  # auto: the fastest present


Model = Annotated[FIDNet | MinkUNet | SPVCNN | Cylinder3D | ImageUNet, Field(discriminator="name")]


FREE_KEYS = (
    *("name", "workers", "tracking"),
    *("train.log_every", "train.checkpoint_every", "train.keep_checkpoints", "train.evaluate_batch"),
    "train.diagnose_frames",
)
"""What decides no result: the fingerprint leaves it out, and it may differ when a run is continued."""

_LATER_KEYS = {
    ("method", "cross_entropy_over"): "known",
    ("method", "ema_memory_ratio"): 0.0,
    ("method", "ema_warm_up"): False,
    ("method", "pseudo_rule"): "confidence",
    ("method", "pseudo_memory"): 0.99,
    ("method", "pseudo_portion"): 0.5,
    ("method", "cameras"): [],
    ("method", "language_reliable"): False,
    ("method", "language_min_recall"): 0.05,
    ("method", "language_memory"): 0.99,
    ("method", "language_drop_ratio"): 0.0,
    ("optim", "eps"): 1e-8,
    ("train", "norm_batches"): 0,
    ("train", "labelled_sampling"): "uniform",
    ("method", "unmixed_evidence_weight"): 1.0,
}
"""Keys younger than the first runs, and the value that changes nothing: with it a fingerprint stays what it was."""


class Recipe(Section):
    """A whole run."""

    name: Annotated[str, AfterValidator(file_name)] = "run"  # of the default run folder, too
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
    tracking: str = ""  # mlflow:URI; TensorBoard and metrics.jsonl are always written

    @model_validator(mode="after")
    def _tracker_is_known(self) -> Self:
        kind, _, uri = self.tracking.partition(":")
        if self.tracking and (kind != "mlflow" or not uri):
            raise ValueError(f"tracking: expected mlflow:URI, such as mlflow:http://host:5000 (got {self.tracking!r})")
        if "@" in uri:
            raise ValueError("tracking holds credentials: give them as MLFLOW_TRACKING_USERNAME and …_PASSWORD")
        return self

    @model_validator(mode="after")
    def _frozen_statistics_stay(self) -> Self:
        if self.start and self.start.frozen and self.train.norm_batches:
            raise ValueError("start.frozen keeps batch-norm statistics: leave train.norm_batches out")
        return self

    @model_validator(mode="after")
    def _batch_divides(self) -> "Recipe":
        for key in ("labelled_per_step", "unlabelled_per_step"):
            if 0 < (count := getattr(self.train, key)) < (most := self.workers.most):
                raise ValueError(
                    f"train.{key}={count} is too few for workers.num_workers={most}: every worker needs a scan a step"
                )
        if self.method.pairs_scans and self.train.labelled_per_step != self.train.unlabelled_per_step:
            raise ValueError(
                f"method {self.method.name} pairs scans: train.labelled_per_step must equal train.unlabelled_per_step"
            )
        if not self.method.reads_labels and not self.train.unlabelled_per_step:
            raise ValueError(
                f"method {self.method.name} learns from scans without their labels: train.unlabelled_per_step must be "
                "at least 1 (train.labelled_per_step has no effect)"
            )
        return self

    @property
    def is_elastic(self) -> bool:
        """Whether workers share a step by whole micro-batches: their number may change, or does not divide it.

        A fixed number that divides shares it by scans, and draws the random numbers that it drew in earlier releases.
        """
        least, most = self.workers.num_workers_range
        return least != most or any(n % most for n in (self.train.labelled_per_step, self.train.unlabelled_per_step))

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
