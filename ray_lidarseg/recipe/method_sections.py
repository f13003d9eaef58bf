"""The methods' parts of a recipe; every default names its source, as in ``recipe.schema``."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from ray_lidarseg.recipe.frozen_section import Count, NonNegative, Positive, Ratio, Section


class MethodSection(Section):
    """What every method says of itself."""

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

    @property
    def reads_labels(self) -> bool:
        """Whether steps need labelled scans."""
        return True


class Supervised(MethodSection):
    """Labelled scans only."""

    name: Literal["supervised"] = "supervised"
    cross_entropy_weight: NonNegative = 1.0  # authors' code
    cross_entropy_over: Literal["known", "all"] = (
        "known"  # mean over cells with a label: authors' MinkUNet; all: Cylinder3D
    )
    lovasz_weight: NonNegative = 2.0  # authors' nuScenes code; 3 on SemanticKITTI, 0 for MinkUNet


class WithTeacher(Supervised):
    """What every method with an EMA teacher says of it."""

    ema_decay: Ratio = 0.99  # LaserMix: best on nuScenes and SemanticKITTI, and the authors' code
    ema_memory_ratio: Ratio = 0.0  # ours: above 0 the teacher remembers this share of the steps, instead of ema_decay
    ema_warm_up: bool = False  # after Mean Teacher's code: update k moves by min(decay, 1 - 1/k); LaserMix: none
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
    unmixed_evidence_weight: NonNegative = 1.0  # ours: share of both terms on the scans as they are
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
        """Unless both parts are off, or both places where they act."""
        is_somewhere = self.unmixed_evidence_weight or self.multimodal_mix_weight
        return bool((self.distillation_weight or self.language_weight) and is_somewhere)


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


class NeRF(WithTeacher):
    """NeRF self-supervision (arXiv 2411.02969): the paper's numbers are not public, all defaults here are ours.

    Where a comment names a sibling, its published code has that value.
    """

    name: Literal["nerf"] = "nerf"  # type: ignore[assignment]
    target: Literal["rendered", "projected"] = "rendered"  # paper: rendered; projected: points by their projection
    masks: str = "sam"  # paper: SAM; slic, files, none, or the name of a layer of `prepare`; train writes its full name
    cameras: tuple[str, ...] = ()  # the only ones looked through, by name; empty: all. Ours, for studies of coverage
    teacher: Literal["none", "ema"] = "none"  # who makes pseudo-labels; the paper names no teacher
    rendered_weight: NonNegative = 1.0  # of rendered against labelled; RenderOcc
    depth_weight: NonNegative = 0.1  # a metre; about UniPAD's and PonderV2's in their own units
    segment_weight: NonNegative = 0.5  # of pseudo-labels; siblings' semantic weights lie between 0.04 and 1
    warm_up_ratio: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.1  # share of the schedule before pseudo-labels count
    segment_ramp_ratio: Ratio = 0.2  # share of what is left over which their weight grows
    stop_density: bool = True  # pseudo-labels do not move density; Panoptic Lifting stops such gradients, too
    entropy_threshold: Ratio = 0.2  # of a segment, divided by ln C: about a confidence of 0.9
    pixel_entropy_threshold: Ratio = 1.0  # pixels above it have no vote; 1: all have one
    min_pixels: Count = 4  # a segment in which fewer opaque pixels vote is not labelled
    min_points: Count = 1  # the same for points, target projected
    min_opacity: Ratio = 0.5  # a more transparent ray has no vote and gets no label
    step_m: Positive | None = None  # between samples; none: 0.2 m (RenderOcc's, OccNeRF's), in small cells two edges
    near_m: NonNegative = 1.0  # UniPAD
    far_m: Positive = 50.0  # the grid's radius; RenderOcc stops at 52
    beams: Annotated[int, Field(ge=0)] = 4096  # LiDAR rays of a scan
    points_per_image: Annotated[int, Field(ge=0)] = 512  # rays to labelled points, an image of a labelled scan
    pixels_per_image: Count = 1024  # 512 UniPAD and PonderV2, 4,800 SelfOcc
    pixels_per_segment: Count = 16  # at most: 64 segments an image, so that large ones do not decide alone
    reduced_dim: Count = 32  # width of features in space; RenderOcc, UniPAD, PonderV2
    hidden_dims: tuple[Count, ...] = (64, 64)  # RenderOcc: 64
    density_bias: float = -1.0  # softplus(-1): about 0.3 a metre before anything is learned
    mixing: LaserMix | None = None  # {}: LaserMix's terms on top, with its own teacher, cross entropy and Lovász
    log_truth: bool = False  # compare with the label images of a synthetic world (never learned from)

    @model_validator(mode="after")
    def _settings_go_together(self) -> "NeRF":
        if self.near_m >= self.far_m:
            raise ValueError(f"near_m must be below far_m, got {self.near_m} and {self.far_m}")
        if self.target == "projected" and self.masks == "none":
            raise ValueError("target projected groups points by segments: masks=none leaves nothing to group by")
        return self

    @model_validator(mode="after")
    def _nerf_keys_have_an_effect(self) -> Self:
        is_rendered, has_masks = self.target == "rendered", self.masks != "none"
        read = {
            "min_points": (not is_rendered, "target"),
            **dict.fromkeys(("min_opacity", "stop_density"), (is_rendered, "target")),
            **dict.fromkeys(("min_pixels", "pixels_per_segment"), (has_masks, "masks")),
        }
        for key, (is_read, other) in read.items():
            if not is_read and getattr(self, key) != type(self).model_fields[key].default:
                raise ValueError(f"{key} has no effect with {other} {getattr(self, other)}: leave it out")
        return self

    @property
    def deployed(self) -> str:
        """The teacher where there is one: its own, or LaserMix's."""
        return "student" if self.teacher == "none" and self.mixing is None else "teacher"

    @property
    def pairs_scans(self) -> bool:
        """With LaserMix on top only."""
        return self.mixing is not None


class Distill(MethodSection):
    """Pre-training from frozen image features, without labels; a key that its ``loss`` does not read is refused."""

    name: Literal["distill"] = "distill"
    loss: Literal["relational", "similarity", "contrastive", "st_contrastive"] = "relational"  # arXiv 2409.00845
    level: Literal["segments", "points"] = "segments"  # SLidR; points: PPKT, with a segment's feature for a pixel's
    max_points: Count = 4096  # PPKT: pairs drawn a forward; level points
    gather: bool = False  # all published code: relations and negatives within each worker's scans only
    temperature: Positive = 0.07  # SLidR and PPKT; relation kl: ours
    min_quantile: Ratio = 0.01  # ST-SLidR: share of the most similar negatives that is dropped
    max_quantile: Ratio = 1.0  # ST-SLidR: all of the farthest stay
    drop: Literal["zero_logit", "mask"] = "zero_logit"  # ST-SLidR's code
    balanced: bool = True  # ST-SLidR: anchors of which there are many alike weigh less
    similarity: Literal["cosine", "l2"] = "cosine"  # OpenScene; l2: ScaLR
    relation: Literal["l1", "mse", "kl", "rkd"] = "l1"  # arXiv 2409.00845
    cross_weight: Positive = 1.0  # arXiv 2409.00845; what holds the features to the images', so never 0
    intra_weight: NonNegative = 1.0  # ours: the paper's is not public

    @model_validator(mode="after")
    def _keys_have_an_effect(self) -> Self:
        is_contrastive, is_relational = "contrastive" in self.loss, self.loss == "relational"
        read = {
            "max_points": self.level == "points",
            "temperature": is_contrastive or (is_relational and self.relation == "kl"),
            **dict.fromkeys(("min_quantile", "max_quantile", "drop", "balanced"), self.loss == "st_contrastive"),
            "similarity": self.loss == "similarity",
            **dict.fromkeys(("relation", "cross_weight", "intra_weight"), is_relational),
        }
        for key, is_read in read.items():
            if not is_read and getattr(self, key) != type(self).model_fields[key].default:
                raise ValueError(f"{key} has no effect with loss {self.loss}, level {self.level}: leave it out")
        return self

    @property
    def reads_evidence(self) -> bool:
        """Always."""
        return True

    @property
    def reads_labels(self) -> bool:
        """Never."""
        return False


MethodRecipe = Annotated[
    Supervised | MeanTeacher | LaserMix | LaserMixPP | CBST | CPS | CutMixSeg | PolarMix | NeRF | Distill,
    Field(discriminator="name"),
]
