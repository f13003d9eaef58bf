"""LaserMix++: LaserMix that also learns from what frozen image and language models say of the points cameras see."""

from dataclasses import replace
from itertools import accumulate

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from ray_lidarseg.errors import RecipeError
from ray_lidarseg.geometry.mixing import mix_pairs
from ray_lidarseg.losses.alignment import centred, cosine_distance, projected_distance
from ray_lidarseg.losses.softmax import class_probabilities
from ray_lidarseg.methods.language_reliability import LanguageReliability
from ray_lidarseg.methods.method import Losses, Method
from ray_lidarseg.methods.objective import agreement, ramp_up, segmentation_terms
from ray_lidarseg.methods.pseudo_label import PseudoLabeller, keep_ratio
from ray_lidarseg.models.ema import EMATeacher
from ray_lidarseg.models.segmentor import Output, Segmentor
from ray_lidarseg.recipe import schema
from ray_lidarseg.sample import PointBatch, SensorSpec, join
from ray_lidarseg.types import IMAGE_FEATURES, IMAGE_SEGMENT, LANGUAGE_LOGITS

_TABLES = frozenset({IMAGE_FEATURES, LANGUAGE_LOGITS})
_NO_EVIDENCE = (
    "method lasermix_pp reads image evidence (distillation_weight or language_weight > 0), but data.evidence is empty "
    "or data.evidence_dim is 0: run `ray-lidarseg prepare` with --masks and --features and set data.evidence=auto, or "
    "set both weights to 0"
)
_NO_TEXT = (
    "method lasermix_pp: method.language_weight > 0, but the features layer has no text embeddings: "
    "prepare with a teacher that has a text tower (--features clip), or set method.language_weight=0"
)


class LaserMixPP(Method):
    """``L = L_sup + λ_mix L_mix + λ_mt L_mt + λ_c2l L_c2l + λ_ldg L_ldg``; the first three as in LaserMix.

    A point is paired where a camera sees it on a segment with a feature; the terms below are means over paired points.

    - ``L_c2l = 1 - cos(W f, g)``: f the point's feature, W a linear head that inference drops, g the frozen feature of
      its image segment; over the labelled and the unlabelled scans.
    - ``L_ldg = 1 - cos(s, t)``: s the point's class scores, t the cosines of g with the text embeddings of the
      classes; over the unlabelled scans, where no label says better. t is not a probability.
    - Multi-modal mixing: each point of a mixed scan keeps what its own scan's cameras say of it, and both terms are
      taken once more on the mixed scans, times ``multimodal_mix_weight``; on the scans as they are they count times
      ``unmixed_evidence_weight`` (ours). With both weights 0 nothing reads the evidence, so mixing it changes nothing.
      Strips of images are not mixed: training reads one pooled feature a segment and no pixels, so exchanging the
      strips of pixels behind the bands is exchanging per-point evidence.

    Each weight of 0 skips its term and the forwards only it needs; all of them 0 is LaserMix bit for bit. A batch
    without a paired point contributes exactly 0, with a gradient for every parameter.

    What the paper leaves open to us (its code was never released), and what is done here:

    - λ_c2l, λ_ldg, ramps, W: 1, none and one linear layer, those of M3Net (CVPR 2024, same first authors).
    - Layer tapped: the features before the classifier. Image and language model: whichever ``prepare`` ran.
    - Scans and weight of the terms beside L_mix: ours, see above.
    - ``language_centred``: CLIP's cosines lie close together (about 0.2 whatever the class), so t is nearly parallel
      to (1, …, 1), and a network could satisfy the term by one bias that softmax cannot see. The mean over classes is
      therefore subtracted from s and t by default (ours); then the cosine is their correlation over classes.
    - ``language_temperature``: the cosine does not see the scale of t, so a temperature matters only through a
      softmax. 0 (default) takes t as it is, as the paper says; τ > 0 takes ``softmax(t / τ)``, which sets the best
      class against all others, at the price of trusting the teacher's noise.
    - ``language_balanced``: off, every paired point counts alike (M3Net); on, every class does that the teacher names
      best anywhere in the batch (ours). A class of few points is otherwise outvoted where the weight is high.

    - ``language_reliable`` (ours): a teacher that never names a class teaches that it is something else. So its words
      are checked against the labels of the labelled scans, and of nothing else: each point counts by the share of
      labelled points under the same word that are of that class, and classes of which it names less than
      ``language_min_recall`` are taken out of s and t, which then say nothing about them.
    - ``language_drop_ratio`` (ours): the points between whose best and second class t sees the least difference.

    Source: LaserMix++ (arXiv 2405.05258, TPAMI 2025); LaserMix as in ``methods/lasermix.py``.

    Args:
        student: The model to train; the teacher starts as its copy. Both stay LiDAR-only.
        recipe: Weights, ramps and switches.
        sensor: Its field of view is what the bands divide.
        evidence_dim: Length of the image features, ``data.evidence_dim``.

    Raises:
        RecipeError: A weight asks for evidence and there is none.
    """

    def __init__(
        self, student: Segmentor, recipe: schema.LaserMixPP, sensor: SensorSpec, evidence_dim: int = 0
    ) -> None:
        super().__init__()
        self.student, self.recipe, self.sensor = student, recipe, sensor
        self.teacher = EMATeacher(student, recipe.ema_decay, recipe.ema_buffers, recipe.ema_warm_up)
        self.labeller = PseudoLabeller(student.num_classes, recipe)
        require_evidence(recipe, evidence_dim)
        self.words = LanguageReliability(student.num_classes, recipe) if recipe.language_reliable else None
        if recipe.distillation_weight and recipe.reads_evidence:  # a head without a gradient would stop DDP
            self.head = nn.Linear(student.feature_dim, evidence_dim)

    def step(self, labelled: PointBatch, unlabelled: PointBatch, progress: float, generator: torch.Generator) -> Losses:
        """See ``Method.step``; as many unlabelled scans as labelled ones, both with ``extras``."""
        recipe, unlabelled_weight = self.recipe, ramp_up(progress, self.recipe.ramp_up_ratio)
        self._require_extras(labelled, unlabelled)
        # L_sup: student on the labelled scans (x_l, y_l)
        student_l = self.student(labelled)
        terms = segmentation_terms(student_l, recipe)
        # ŷ_u: the teacher's confident points of the unlabelled scans x_u
        cells_u = self.student.cells_of(unlabelled)
        teacher_u = self.teacher(unlabelled, cells_u)
        pseudo_u = self.labeller(teacher_u.point_logits, labelled.labels, progress)
        # L_mix: student on both mixed scans of each pair; labels and evidence mixed alike
        if recipe.mix_weight or self._mixes_evidence:
            x_l, x_u = self._to_mix(labelled), self._to_mix(unlabelled.with_labels(pseudo_u))
            mixed = mix_pairs(x_l, x_u, self.sensor, recipe.num_areas, generator)
            student_m = self.student(mixed)
            if recipe.mix_weight:
                terms |= segmentation_terms(student_m, recipe, "mix_", recipe.mix_weight * unlabelled_weight)
        # L_mt: student against teacher on x_l and x_u, over the same cells
        if recipe.consistency_weight or self._reads_unmixed_evidence:
            student_u = self.student(unlabelled, cells_u)
        if recipe.consistency_weight:
            teacher_l = self.teacher(labelled, student_l.cells)
            weight = recipe.consistency_weight * unlabelled_weight
            terms["consistency"] = weight * agreement([student_l, student_u], [teacher_l, teacher_u])
        # L_c2l and L_ldg: student against image and language on x_l and x_u, and again on the mixed scans
        stats = {"pseudo_keep_ratio": keep_ratio(pseudo_u)}
        if self.extras:
            if self.words is not None and recipe.language_weight:
                word = labelled.segments[LANGUAGE_LOGITS].argmax(dim=1)[labelled.extras[IMAGE_SEGMENT]]
                self.words.note(word, labelled.labels, _is_paired(labelled), progress)
            stats["paired_ratio"] = _is_paired(unlabelled).float().sum() / max(len(unlabelled), 1)
        if self._reads_unmixed_evidence:
            seen = [(labelled, student_l), (unlabelled, student_u)]
            terms |= self._evidence_terms(seen, seen[1:], "", progress)
        if self._mixes_evidence:
            terms |= self._evidence_terms([(mixed, student_m)], [(mixed, student_m)], "mix_", progress)
        return Losses(terms, stats)

    def _evidence_terms(
        self,
        distilled: list[tuple[PointBatch, Output]],
        guided: list[tuple[PointBatch, Output]],
        prefix: str,
        progress: float,
    ) -> dict[str, Float[Tensor, ""]]:
        recipe, terms = self.recipe, {}
        share = recipe.unmixed_evidence_weight
        if prefix:
            share = recipe.multimodal_mix_weight * ramp_up(progress, recipe.multimodal_mix_ramp_up_ratio)
        if recipe.distillation_weight:
            weight = share * recipe.distillation_weight * ramp_up(progress, recipe.distillation_ramp_up_ratio)
            terms[f"{prefix}distillation"] = weight * self._distillation(distilled)
        if recipe.language_weight:
            weight = share * recipe.language_weight * ramp_up(progress, recipe.language_ramp_up_ratio)
            terms[f"{prefix}language"] = weight * self._language(guided)
        return terms

    def _distillation(self, seen: list[tuple[PointBatch, Output]]) -> Float[Tensor, ""]:
        """``mean(1 - cos(W f, g))`` over the paired points of all batches, each counting alike."""
        features = torch.cat([output.point_features[_is_paired(batch)] for batch, output in seen])
        return projected_distance(features, self.head.weight, self.head.bias, *_segments(IMAGE_FEATURES, seen))

    def _language(self, seen: list[tuple[PointBatch, Output]]) -> Float[Tensor, ""]:
        """``mean(1 - cos(s, t))`` over the paired points of all batches; see the class for which counts how much."""
        scores = torch.cat([output.point_logits[_is_paired(batch)] for batch, output in seen])
        targets, row = _segments(LANGUAGE_LOGITS, seen)
        group = targets.argmax(dim=1)[row] if self.recipe.language_balanced else None
        weight = None if self.words is None else self.words.weight(targets)[row]
        if self.recipe.language_drop_ratio:
            weight = _sure(targets[row], self.recipe.language_drop_ratio) * (1.0 if weight is None else weight)
        if self.recipe.language_temperature:
            targets = class_probabilities(targets.float() / self.recipe.language_temperature)
        known = None if self.words is None else self.words.known
        if self.recipe.language_centred:
            scores, targets = centred(scores, known), centred(targets, known)
        elif known is not None:
            scores, targets = scores * known, targets * known
        return cosine_distance(scores, targets[row], group, weight)

    @property
    def _reads_unmixed_evidence(self) -> bool:
        return bool(self.extras and self.recipe.unmixed_evidence_weight)

    @property
    def _mixes_evidence(self) -> bool:
        return bool(self.extras and self.recipe.multimodal_mix_weight)

    def _to_mix(self, scans: PointBatch) -> PointBatch:
        """The scans without evidence nobody reads after mixing; every other extra stays."""
        read: frozenset[str] = self.extras if self._mixes_evidence else frozenset()
        extras = {name: value for name, value in scans.extras.items() if name != IMAGE_SEGMENT or name in read}
        return replace(scans, extras=extras, segments={name: scans.segments[name] for name in read & _TABLES})

    def _require_extras(self, *batches: PointBatch) -> None:
        missing = sorted({name for batch in batches for name in self.extras - {*batch.extras, *batch.segments}})
        if LANGUAGE_LOGITS in missing:
            raise RecipeError(_NO_TEXT)
        if missing:
            raise RecipeError(f"method lasermix_pp needs {', '.join(missing)}: set data.evidence to a features layer")

    def after_step(self, progress: float) -> None:
        """Moves the teacher towards the student."""
        self.teacher.update(self.student)
        self.labeller.after_step()
        if self.words is not None:
            self.words.after_step()

    def pseudo_labels(self, unlabelled: PointBatch) -> Int[Tensor, "P"] | None:
        """See ``Method.pseudo_labels``; none while the rule has no statistics."""
        return self.labeller.preview(self.teacher(unlabelled).point_logits)

    def segmentors(self) -> dict[str, Segmentor]:
        """Student and teacher, without the head; the teacher is the one to deploy, as in LaserMix."""
        return {"student": self.student, "teacher": self.teacher.model}

    @property
    def extras(self) -> frozenset[str]:
        """What the weights above 0 read."""
        if not self.recipe.reads_evidence:
            return frozenset()
        wanted = {IMAGE_FEATURES: self.recipe.distillation_weight, LANGUAGE_LOGITS: self.recipe.language_weight}
        names = {name for name, weight in wanted.items() if weight}
        return frozenset({*names, IMAGE_SEGMENT} if names else ())


def require_evidence(recipe: schema.LaserMixPP, evidence_dim: int, has_text: bool = True) -> None:
    """Refuses weights that ask for evidence there is none of; a driver asks before it starts workers.

    Args:
        recipe: The method's settings.
        evidence_dim: Length of the image features; 0: no layer is read.
        has_text: Whether the layer holds text embeddings of the classes.

    Raises:
        RecipeError: See above.
    """
    if recipe.reads_evidence and not evidence_dim:
        raise RecipeError(_NO_EVIDENCE)
    if recipe.language_weight and not has_text:
        raise RecipeError(_NO_TEXT)


def _sure(targets: Float[Tensor, "Q C"], drop_ratio: float) -> Float[Tensor, "Q"]:
    """0 for the share of points with the smallest margin between best and second class, 1 for the others."""
    best = targets.float().topk(2, dim=1).values if targets.shape[1] > 1 else targets.float().expand(-1, 2)
    margin = best[:, 0] - best[:, 1]
    is_dropped = margin.argsort().argsort() < int(drop_ratio * len(margin))
    return (~is_dropped).float()


def _segments(name: str, seen: list[tuple[PointBatch, Output]]) -> tuple[Float[Tensor, "N F"], Int[Tensor, "Q"]]:
    """What is known of the segments of all batches, and for each paired point the row there of its own."""
    tables = [batch.segments[name] for batch, _ in seen]
    starts = accumulate((len(table) for table in tables[:-1]), initial=0)
    rows = [
        batch.extras[IMAGE_SEGMENT][_is_paired(batch)] + start for (batch, _), start in zip(seen, starts, strict=True)
    ]
    return join(tables), torch.cat(rows)


def _is_paired(batch: PointBatch) -> Bool[Tensor, "P"]:
    return batch.extras[IMAGE_SEGMENT] > 0
