"""Several looks at a scan as one answer: test-time augmentation, ensembles, and both."""

import math
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from ray_lidarseg.errors import RecipeError
from ray_lidarseg.models.segmentor import Cells, Output, Segmentor
from ray_lidarseg.sample import PointBatch

_FLIPS = ((1.0, 1.0), (1.0, -1.0), (-1.0, 1.0), (-1.0, -1.0))
VIEWS = tuple((x, y, turn_rad) for turn_rad in (0.0, math.pi / 4) for x, y in _FLIPS)
"""Signs of x and y, then a turn about z, of each view in the order they are added; the first is the scan itself. Ours,
within what training draws from (flips of both axes, turns of up to 45 degrees)."""


class Combined(Segmentor):
    """The mean over models and views of the class probabilities of each point.

    What concerns cells (scores, targets, features) is the first model's on the scan as it is, as other models and views
    have other cells.

    Args:
        members: At least one; all with the same classes.
        num_views: How many of ``VIEWS`` each sees.

    Raises:
        RecipeError: No such number of views, or models of different classes.
    """

    def __init__(self, members: Sequence[Segmentor], num_views: int = 1) -> None:
        super().__init__()
        if not 1 <= num_views <= len(VIEWS):
            raise RecipeError(f"expected 1 to {len(VIEWS)} views of a scan, got {num_views}")
        if len({member.num_classes for member in members}) > 1:
            counts = ", ".join(str(member.num_classes) for member in members)
            raise RecipeError(f"an ensemble needs models of the same classes, got {counts} classes")
        self.members, self.num_views = nn.ModuleList(members), num_views
        self.num_classes, self.feature_dim = members[0].num_classes, members[0].feature_dim
        self.is_spatial = members[0].is_spatial

    def represent(self, batch: PointBatch) -> Cells:
        """The first model's cells."""
        return self.members[0].represent(batch)  # type: ignore[operator]

    def forward(self, batch: PointBatch, cells: Cells | None = None) -> Output:
        """See ``Segmentor.forward``; the scores of points are logarithms of the mean probability."""
        first: Output = self.members[0](batch, cells)
        total = torch.zeros_like(first.point_logits, dtype=torch.float32)
        for number, member in enumerate(self.members):
            for view in range(self.num_views):
                is_first = number == 0 and view == 0
                output = first if is_first else member(_seen(batch, *VIEWS[view]))
                total += output.point_logits.float().softmax(dim=1)
        mean = total / (len(self.members) * self.num_views)
        return replace(first, point_logits=mean.clamp_min(torch.finfo(mean.dtype).tiny).log())


def _seen(batch: PointBatch, x_sign: float, y_sign: float, turn_rad: float) -> PointBatch:
    cosine, sine = math.cos(turn_rad), math.sin(turn_rad)
    linear: Tensor = batch.points.new_tensor([[cosine * x_sign, -sine * y_sign], [sine * x_sign, cosine * y_sign]])
    return replace(batch, points=torch.cat([batch.points[:, :2] @ linear.T, batch.points[:, 2:]], dim=1))
