"""The structure of a feature space: how evenly it is spread, how tight its classes are, how far from its source's.

All features are of unit length. ``U`` and ``T`` of a distilled network are to be read beside its teacher's own.
"""

import hashlib
import math
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from ray_lidarseg.types import IGNORE

_BLOCK_PAIRS = 1 << 22


def uniformity(features: Float[Tensor, "N F"], t: float = 2.0) -> float:
    """``U = -ln mean over i ≠ j of exp(-t ‖x_i - x_j‖²)``: 0 where all features are one; larger is more even.

    Source: the negative of the uniformity loss of Wang & Isola (ICML 2020), as Wang & Liu (CVPR 2021) measure it.

    Args:
        features: [N, F] unit rows; fewer than two have no pairs and give NaN.
        t: 2 in both papers.
    """
    count, total = len(features), 0.0
    if count < 2:
        return math.nan
    for block in features.split(max(1, _BLOCK_PAIRS // count)):
        total += float(torch.exp(2 * t * (block @ features.T - 1)).sum(dtype=torch.float64))
    return -math.log((total - count) / (count * count - count))  # without each row's pair with itself


def tolerance(features: Float[Tensor, "N F"], labels: Int[Tensor, "N"]) -> float:
    """``T = mean of x_i · x_j over pairs i ≠ j of one class``: 1 where every class is one point.

    No pair is looked at: with s_c the sum of class c's n_c features, the sum over its ordered pairs is
    ``‖s_c‖² - n_c``. NaN where no class has two features.

    Source: Wang & Liu (CVPR 2021).
    """
    classes, of_row = torch.unique(labels, return_inverse=True)
    sums = features.new_zeros(len(classes), features.shape[1], dtype=torch.float64)
    sums.index_add_(0, of_row, features.double())
    sizes = torch.bincount(of_row, minlength=len(classes)).double()
    own = features.double().square().sum()
    num_pairs = float((sizes.square() - sizes).sum())
    return float(sums.square().sum() - own) / num_pairs if num_pairs else math.nan


def modality_gap(one: Float[Tensor, "N F"], other: Float[Tensor, "M F"]) -> float:
    """``G = ‖mean of one - mean of the other‖``, of unit features. Source: Liang et al. (NeurIPS 2022)."""
    return float((one.double().mean(dim=0) - other.double().mean(dim=0)).norm())


def alignment_gap(one: Float[Tensor, "N F"], other: Float[Tensor, "N F"]) -> float:
    """``mean of 1 - k_i · q_i`` over pairs: what ``modality_gap`` cannot see. Source: ours."""
    return float(1 - (one.double() * other.double()).sum(dim=1).mean())


@dataclass(frozen=True)
class Structure:
    """What a table says of a feature space beside its source's.

    Attributes:
        uniformity: U.
        tolerance: T.
        source_uniformity: U of the image features at the same points.
        source_tolerance: T of these.
        modality_gap: G between both.
        alignment_gap: The paired variant.
        counts: [C] features of each class that it was measured on.
    """

    uniformity: float
    tolerance: float
    source_uniformity: float
    source_tolerance: float
    modality_gap: float
    alignment_gap: float
    counts: tuple[int, ...]

    @property
    def structural_gap(self) -> float:
        """``|U - U_source| + |T - T_source|`` (their sum is ours; the paper names both)."""
        return abs(self.uniformity - self.source_uniformity) + abs(self.tolerance - self.source_tolerance)


class FeatureReservoir:
    """A fair sample of at most ``per_class`` points of each class, whatever the order and number of workers.

    A point's place in the draw is a hash of the seed, its frame's name and its number, and each class keeps the points
    with the smallest: so reservoirs of parts of the data, merged, hold what one of all of it holds.

    Args:
        num_classes: C.
        per_class: Points kept of each class; the relational paper: 5,000.
        seed: Of the draw.
    """

    def __init__(self, num_classes: int, per_class: int = 5000, seed: int = 0) -> None:
        self.num_classes, self.per_class, self.seed = num_classes, per_class, seed
        self._kept: list[tuple[np.ndarray, Tensor, Tensor]] = [
            (np.zeros(0, np.uint64), torch.zeros(0, 0), torch.zeros(0, 0)) for _ in range(num_classes)
        ]

    def add(
        self, frame_id: str, points: Float[Tensor, "P F"], images: Float[Tensor, "P F"], labels: Int[Tensor, "P"]
    ) -> None:
        """Takes the paired points of a frame.

        Args:
            frame_id: Its name; no frame may come twice.
            points: [P, F] features of the points; any length.
            images: [P, F] image features at the same points.
            labels: [P] class ids; IGNORE is left out.
        """
        name = int.from_bytes(hashlib.sha256(frame_id.encode()).digest()[:8], "big")  # of all of it: ends may be alike
        draw = np.random.default_rng([self.seed, name]).integers(0, 1 << 63, len(labels), np.uint64)
        for class_id in range(self.num_classes):
            chosen = torch.nonzero((labels == class_id) & (labels != IGNORE))[:, 0].cpu()
            if not len(chosen):
                continue
            order = np.argsort(draw[chosen.numpy()], kind="stable")[: self.per_class]
            rows = chosen[torch.from_numpy(order)]
            mine = [functional.normalize(part[rows.to(part.device)].float(), dim=1).cpu() for part in (points, images)]
            self._put(class_id, draw[rows.numpy()], *mine)

    def merge(self, other: "FeatureReservoir") -> "FeatureReservoir":
        """Takes what the other kept, and returns this one."""
        for class_id, (draw, points, images) in enumerate(other._kept):
            self._put(class_id, draw, points, images)
        return self

    def _put(self, class_id: int, draw: np.ndarray, points: Tensor, images: Tensor) -> None:
        own = self._kept[class_id]
        if not len(own[0]):
            own = (own[0], points[:0], images[:0])
        if not len(draw):
            return
        draws = np.concatenate([own[0], draw])
        order = np.argsort(draws, kind="stable")[: self.per_class]
        rows = torch.from_numpy(order)
        both = (torch.cat(pair)[rows] for pair in ((own[1], points), (own[2], images)))
        self._kept[class_id] = (draws[order], *both)

    def state(self) -> list[tuple[Tensor, Tensor, Tensor]]:
        """All that was kept, for another process."""
        return [(torch.from_numpy(draw.astype(np.int64)), points, images) for draw, points, images in self._kept]

    def load(self, state: list[tuple[Tensor, Tensor, Tensor]]) -> None:
        """Takes what ``state`` of another gave instead of its own."""
        self._kept = [(draw.numpy().astype(np.uint64), points, images) for draw, points, images in state]

    def sample(self) -> tuple[Float[Tensor, "N F"], Float[Tensor, "N F"], Int[Tensor, "N"]]:
        """Unit features of points and of images, and classes, of all that was kept, class by class."""
        kept = [(class_id, *parts) for class_id, parts in enumerate(self._kept) if len(parts[0])]
        if not kept:
            return torch.zeros(0, 0), torch.zeros(0, 0), torch.zeros(0, dtype=torch.int64)
        labels = torch.cat([torch.full((len(draw),), class_id) for class_id, draw, _, _ in kept])
        return torch.cat([part[2] for part in kept]), torch.cat([part[3] for part in kept]), labels

    def structure(self) -> Structure | None:
        """The metrics over all classes together; None where nothing was kept."""
        points, images, labels = self.sample()
        if not len(labels):
            return None
        return Structure(
            uniformity(points),
            tolerance(points, labels),
            uniformity(images),
            tolerance(images, labels),
            modality_gap(points, images),
            alignment_gap(points, images),
            tuple(torch.bincount(labels, minlength=self.num_classes).tolist()),
        )
