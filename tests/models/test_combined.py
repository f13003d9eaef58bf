import math

import pytest
import torch
from torch import nn

from ray_lidarseg.errors import RecipeError
from ray_lidarseg.models.combined import VIEWS, Combined
from ray_lidarseg.models.segmentor import Cells, Output, Segmentor
from ray_lidarseg.sample import PointBatch


class ByPosition(Segmentor):
    """Scores of two classes: those of points with positive x, and of the others; every point is a cell."""

    num_classes, feature_dim = 2, 1

    def __init__(self, strength: float, num_classes: int = 2) -> None:
        super().__init__()
        self.strength, self.num_classes = nn.Parameter(torch.tensor(strength)), num_classes
        self.seen: list[torch.Tensor] = []

    def represent(self, batch: PointBatch) -> Cells:
        return Cells(torch.arange(len(batch)), batch.labels, None)

    def forward(self, batch: PointBatch, cells: Cells | None = None) -> Output:
        self.seen.append(batch.points)
        logits = torch.stack([batch.points[:, 0] * self.strength, 0 * batch.points[:, 0]], dim=1)
        return Output(logits, batch.points[:, :1], logits, cells or self.represent(batch), lambda: batch.points)


@pytest.fixture
def batch() -> PointBatch:
    return PointBatch.of_scan(torch.tensor([[1.0, 2.0, 3.0, 0.5], [-2.0, 0.0, 1.0, 0.1]]))


def test_the_mean_of_probabilities_over_models_worked_out_by_hand(batch):
    output = Combined([ByPosition(0.0), ByPosition(math.log(3.0))])(batch)
    expected = torch.tensor([(0.5 + 0.75) / 2, (0.5 + 1 / 10) / 2])
    torch.testing.assert_close(output.point_logits.softmax(dim=1)[:, 0], expected)
    torch.testing.assert_close(output.cell_logits, torch.zeros(2, 2))  # the first model's


def test_views_are_the_scan_itself_its_mirror_images_and_these_turned(batch):
    model = ByPosition(1.0)
    output = Combined([model], num_views=8)(batch)
    assert len(model.seen) == len(VIEWS) == 8
    torch.testing.assert_close(model.seen[0], batch.points)
    torch.testing.assert_close(model.seen[1][:, :2], torch.tensor([[1.0, -2.0], [-2.0, 0.0]]))
    torch.testing.assert_close(model.seen[4][0, :2], torch.tensor([-1.0, 3.0]) / math.sqrt(2))
    for points in model.seen:
        torch.testing.assert_close(points[:, 2:], batch.points[:, 2:])
        torch.testing.assert_close(points[:, :2].norm(dim=1), batch.points[:, :2].norm(dim=1))
    torch.testing.assert_close(output.point_logits.softmax(dim=1)[1, 0], torch.tensor(0.5))  # as often on either side


def test_one_model_and_one_view_change_no_answer(batch):
    model = ByPosition(0.7)
    torch.testing.assert_close(Combined([model])(batch).point_logits.softmax(1), model(batch).point_logits.softmax(1))


def test_no_such_views_and_other_classes_are_refused():
    with pytest.raises(RecipeError, match="expected 1 to 8 views of a scan, got 9"):
        Combined([ByPosition(1.0)], num_views=9)
    with pytest.raises(RecipeError, match="got 2, 3 classes"):
        Combined([ByPosition(1.0), ByPosition(1.0, num_classes=3)])
