"""Range-view post-processing: each point asks the pixels around its own which of them are as far away, and they vote.

Source: RangeNet++ (IROS 2019): window, number of votes, cut-off and Gaussian as there. Ours: a pixel votes with its
class probabilities instead of with one class, so that a confidence remains.
"""

from dataclasses import replace
from typing import cast

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ray_lidarseg.geometry.range_image import RangeImages
from ray_lidarseg.geometry.spherical import ranges
from ray_lidarseg.models.fidnet import FIDNet, RangeView
from ray_lidarseg.models.segmentor import Cells, Output, Segmentor
from ray_lidarseg.sample import PointBatch

WINDOW_PX, NUM_VOTES, CUT_OFF_M, SIGMA_PX = 5, 5, 1.0, 1.0


class KNNVote(Segmentor):
    """A FIDNet whose points take the mean of the pixels around them that are nearest in range.

    A point hidden behind the one its pixel shows else takes that one's class: a wall the car's in front of it. Cells
    are as they were.

    Args:
        model: The network; columns of its image are neighbours across the seam, rows are not.
    """

    def __init__(self, model: FIDNet) -> None:
        super().__init__()
        self.model = model
        self.num_classes, self.feature_dim = model.num_classes, model.feature_dim

    def represent(self, batch: PointBatch) -> Cells:
        """The network's pixels."""
        return self.model.represent(batch)

    def forward(self, batch: PointBatch, cells: Cells | None = None) -> Output:
        """See ``Segmentor.forward``; the scores of points are logarithms of the mean probability of the votes."""
        output = self.model(batch, cells)
        images = cast(RangeView, output.cells.geometry).images
        range_m = ranges(batch.points)
        voters, is_vote = votes(images, range_m)
        share = output.cell_logits.float().softmax(dim=1)
        mean = torch.zeros(len(batch), self.num_classes, device=batch.device)
        for voter, counts in zip(voters.T, is_vote.T, strict=True):
            mean += share[voter] * counts[:, None]
        mean /= is_vote.sum(dim=1, keepdim=True)
        return replace(output, point_logits=mean.clamp_min(torch.finfo(mean.dtype).tiny).log())


def votes(images: RangeImages, range_m: Float[Tensor, "P"]) -> tuple[Int[Tensor, "P K"], Int[Tensor, "P K"]]:
    """Which occupied pixels each point asks, and which of them (1) count: those within the cut-off.

    The point's own pixel is at distance 0 whatever it shows, so one vote always counts; the others are at the
    difference in range, times one less a Gaussian over the window.
    """
    height, width = images.height_px, images.width_px
    cell_of = torch.full((images.num_scans * height * width,), -1, device=range_m.device)
    cell_of[images.pixel] = torch.arange(len(images.pixel), device=range_m.device)
    own = images.pixel[images.point_cell]
    row, column, scan = own // width % height, own % width, own // (width * height)
    reach = torch.arange(WINDOW_PX, device=range_m.device) - WINDOW_PX // 2
    rows = (row[:, None, None] + reach[:, None]).expand(-1, -1, WINDOW_PX)
    columns = (column[:, None, None] + reach).expand(-1, WINDOW_PX, -1) % width
    is_inside = (rows >= 0) & (rows < height)
    asked = cell_of[(scan[:, None, None] * height + rows.clamp(0, height - 1)) * width + columns]
    is_there = (is_inside & (asked >= 0)).flatten(1)
    asked = asked.clamp_min(0).flatten(1)
    away_m = (range_m[images.nearest][asked] - range_m[:, None]).abs()
    centre = WINDOW_PX**2 // 2
    away_m[:, centre] = 0.0
    bell = torch.exp(-(reach.float() ** 2) / (2 * SIGMA_PX**2))
    bell = torch.outer(bell, bell) / torch.outer(bell, bell).sum()
    weighted = (away_m * (1 - bell.flatten())).masked_fill(~is_there, torch.inf)
    nearest_m, place = weighted.topk(min(NUM_VOTES, WINDOW_PX**2), dim=1, largest=False)
    return asked.gather(1, place), (nearest_m <= CUT_OFF_M).long()
