import math

import pytest
import torch

from ray_lidarseg.losses.cross_entropy import cross_entropy
from ray_lidarseg.losses.lovasz import lovasz_softmax
from ray_lidarseg.methods.objective import agreement, ramp_up, segmentation_terms
from ray_lidarseg.models.segmentor import Cells, Output
from ray_lidarseg.recipe import schema

LOGITS = torch.tensor([[1.0, 0.0], [0.5, 2.0], [0.0, 0.0]])
TARGETS = torch.tensor([0, 0, 255])


def output() -> Output:
    return said(LOGITS, LOGITS, Cells(torch.arange(3), TARGETS, None))


def said(point_logits: torch.Tensor, cell_logits: torch.Tensor, cells: Cells) -> Output:
    features = torch.zeros(len(point_logits), 1)
    return Output(point_logits, features, cell_logits, cells, lambda: features)


def test_terms_carry_the_weights_of_the_recipe_and_of_the_caller():
    recipe = schema.Supervised(cross_entropy_weight=2.0, lovasz_weight=3.0)
    terms = segmentation_terms(output(), recipe, "mix_", 0.5)
    assert float(terms["mix_cross_entropy"]) == pytest.approx(1.0 * float(cross_entropy(LOGITS, TARGETS)))
    assert float(terms["mix_lovasz"]) == pytest.approx(1.5 * float(lovasz_softmax(LOGITS, TARGETS)))


def test_a_model_that_refines_points_is_trained_on_their_scores_too():
    scores, labels = torch.tensor([[3.0, 0.0], [0.0, 1.0]]), torch.tensor([1, 255])
    cells = Cells(torch.tensor([0, 1]), TARGETS, None, labels)
    recipe = schema.Supervised(cross_entropy_weight=2.0, lovasz_weight=0.0)
    terms = segmentation_terms(said(scores, LOGITS, cells), recipe, "mix_", 0.5)
    assert set(terms) == {"mix_cross_entropy", "mix_point_cross_entropy"}
    assert float(terms["mix_point_cross_entropy"]) == pytest.approx(math.log(1 + math.exp(3.0)))


def test_no_lovasz_at_weight_zero():
    assert set(segmentation_terms(output(), schema.Supervised(lovasz_weight=0.0))) == {"cross_entropy"}


def test_ramp_up():
    assert ramp_up(0.0, 0.0) == 1.0
    assert ramp_up(0.0, 0.5) == pytest.approx(math.exp(-5))
    assert ramp_up(0.25, 0.5) == pytest.approx(math.exp(-1.25))
    assert ramp_up(0.5, 0.5) == ramp_up(0.9, 0.5) == 1.0


def test_agreement_counts_every_cell_alike():
    student = [said(logits, logits, Cells(torch.arange(len(logits)), TARGETS, None)) for logits in (LOGITS, LOGITS[:1])]
    teacher = [
        said(logits + 1, 0 * logits, Cells(torch.arange(len(logits)), TARGETS, None)) for logits in (LOGITS, LOGITS[:1])
    ]
    probability = torch.cat([LOGITS, LOGITS[:1]]).softmax(1)
    torch.testing.assert_close(agreement(student, teacher), (probability - 0.5).square().mean())
