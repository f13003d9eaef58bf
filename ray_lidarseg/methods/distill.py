"""Image-to-LiDAR distillation: a network learns, without a label, to say of points what images say of them."""

from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from ray_lidarseg.datasets.evidence import TextEmbeddings
from ray_lidarseg.errors import DataError, RecipeError
from ray_lidarseg.geometry.voxelize import segment_sum
from ray_lidarseg.losses.contrastive import info_nce, tolerant_info_nce
from ray_lidarseg.losses.relational import cross_modal, intra_modal, similarity
from ray_lidarseg.losses.row_blocks import PairedRows, paired_rows
from ray_lidarseg.methods.method import Losses, Method
from ray_lidarseg.models.segmentor import Segmentor
from ray_lidarseg.models.word_classifier import Words, ZeroShot
from ray_lidarseg.recipe import schema
from ray_lidarseg.sample import PointBatch
from ray_lidarseg.types import IMAGE_FEATURES, IMAGE_SEGMENT

_EXTRAS = frozenset({IMAGE_FEATURES, IMAGE_SEGMENT})


class Distill(Method):
    """``L = loss(K, Q)``: K what the network says of image segments from points, Q what a frozen teacher says of them.

    1. ``k_p = W f_p / ‖W f_p‖`` of each point p that a camera sees on a segment: W linear, dropped afterwards.
    2. K: the mean of a segment's points, of unit length again; Q: the teacher's feature of the segment, from `prepare`.
    3. The loss: ``relational`` (``λ_c L_cross + λ_i L_intra``), ``similarity``, ``contrastive`` (SLidR; with level
       ``points`` PPKT) or ``st_contrastive`` (ST-SLidR); formulas in ``losses``.

    The classifier does not learn and a run that starts from this one begins with a fresh one; no label is read. What is
    evaluated is zero-shot: points compared with the words of the layer, where its teacher has words.

    Ours, where papers and code differ or are silent: the teacher's side has no trainable head (SLidR's has; with a loss
    without negatives both sides would agree on one constant), and pooled means are normalised again (published code
    leaves them shorter than 1, so that no loss above is 0 at K = Q). Images are not augmented, since their segments'
    features come from `prepare` (ScaLR's images are not either); points are, as pairs are by index. Level ``points``
    takes the feature of a point's segment for that of its pixel.

    Source: relational: arXiv 2409.00845 (ECCV 2024); SLidR (CVPR 2022), ST-SLidR (CVPR 2023), PPKT (arXiv 2104.04687),
    OpenScene (CVPR 2023), ScaLR (CVPR 2024).

    Args:
        student: The network; any.
        recipe: Loss and its settings.
        evidence_dim: Length of the image features, ``data.evidence_dim``.

    Raises:
        RecipeError: No layer of features is named.
    """

    def __init__(self, student: Segmentor, recipe: schema.Distill, evidence_dim: int) -> None:
        super().__init__()
        require_features(evidence_dim)
        self.student, self.recipe = student, recipe
        self.head = nn.Linear(student.feature_dim, evidence_dim)
        self.words = Words()
        for name, parameter in student.named_parameters():
            if student.is_of_head(name):  # no term reads its scores; a frozen backbone stays frozen
                parameter.requires_grad_(False)

    def step(self, labelled: PointBatch, unlabelled: PointBatch, progress: float, generator: torch.Generator) -> Losses:
        """See ``Method.step``; only the unlabelled scans are looked at."""
        # k_p and the q of its segment, for each paired point of the scans x
        segment = unlabelled.extras[IMAGE_SEGMENT]
        is_paired = segment > 0
        points = self.student(unlabelled).point_features[is_paired]
        points = functional.normalize(self.head(points).float(), dim=1)
        segment = segment[is_paired]
        if self.recipe.level == "segments":
            points, segment = _pooled(points, segment)
        else:
            chosen = torch.randperm(len(points), generator=generator)[: self.recipe.max_points].to(points.device)
            points, segment = points[chosen], segment[chosen]
        images = unlabelled.segments[IMAGE_FEATURES][segment].float()
        # K and Q, with those of the other workers where asked for
        with torch.autocast(points.device.type, enabled=False):
            pairs = paired_rows(
                functional.normalize(points, dim=1), functional.normalize(images, dim=1), self.recipe.gather
            )
            terms = self._terms(pairs)
        return Losses(terms, _stats(pairs, is_paired))

    def _terms(self, pairs: PairedRows) -> dict[str, Float[Tensor, ""]]:
        recipe = self.recipe
        if recipe.loss == "relational":
            terms = {"cross_modal": recipe.cross_weight * cross_modal(pairs, recipe.relation, recipe.temperature)}
            if recipe.intra_weight:
                within = intra_modal(pairs, recipe.relation, recipe.temperature)
                terms["intra_modal"] = recipe.intra_weight * within
            return terms
        losses: dict[str, Callable[[PairedRows], Tensor]] = {
            "similarity": lambda pairs: similarity(pairs, recipe.similarity),
            "contrastive": lambda pairs: info_nce(pairs, recipe.temperature),
            "st_contrastive": lambda pairs: tolerant_info_nce(
                pairs, recipe.temperature, recipe.min_quantile, recipe.max_quantile, recipe.drop, recipe.balanced
            ),
        }
        return {recipe.loss: losses[recipe.loss](pairs)}

    def read_words(self, words: TextEmbeddings | None) -> None:
        """See ``Method.read_words``.

        Raises:
            DataError: They are of another number of classes than the student.
        """
        if words is not None and words.num_classes != self.student.num_classes:
            raise DataError(
                f"the words are of {words.num_classes} classes, the network has {self.student.num_classes}: prepare "
                "the features again with the data set's own words, or run `ray-lidarseg prototypes` with its --dataset"
            )
        self.words.read(words)

    def classifiers(self) -> dict[str, Segmentor]:
        """The student through W and the words of the layer; none without words."""
        return {"student": ZeroShot(self.student, self.head, self.words)} if self.words.num_classes else {}

    @property
    def extras(self) -> frozenset[str]:
        """Features of the images, and which points have them."""
        return _EXTRAS


def require_features(evidence_dim: int) -> None:
    """Refuses a distillation without features; a driver asks before it starts workers.

    Raises:
        RecipeError: See above.
    """
    if not evidence_dim:
        raise RecipeError(
            "method distill learns from image features, but data.evidence is empty or data.evidence_dim is 0: run "
            "`ray-lidarseg prepare` with --masks and --features, and set data.evidence=auto"
        )


def _pooled(points: Float[Tensor, "P F"], segment: Int[Tensor, "P"]) -> tuple[Float[Tensor, "N F"], Int[Tensor, "N"]]:
    """Means of the points of each segment that has any, and its number, ascending.

    A point counts once: a voxel seen by m paired points counts m times, as in SLidR.
    """
    if not len(points):  # keeps the graph
        return points, segment
    order = segment.argsort(stable=True)
    numbers, sizes = torch.unique_consecutive(segment[order], return_counts=True)
    starts = functional.pad(sizes.cumsum(0), (1, 0))
    return segment_sum(points, order, starts) / sizes[:, None], numbers


@torch.no_grad()
def _stats(pairs: PairedRows, is_paired: Tensor) -> dict[str, Float[Tensor, ""]]:
    cosine = (pairs.points * pairs.images).sum(dim=1).sum() / max(len(pairs), 1)
    gap = (pairs.points.sum(dim=0) - pairs.images.sum(dim=0)).norm() / max(len(pairs), 1)
    count = pairs.points.new_tensor(float(len(pairs)))
    paired_ratio = is_paired.float().sum() / max(len(is_paired), 1)
    return {"paired_cosine": cosine, "modality_gap": gap, "pairs_count": count, "paired_ratio": paired_ratio}
