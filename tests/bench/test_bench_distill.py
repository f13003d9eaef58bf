"""What the table of distillations says, and the recipes behind it; nothing is trained."""

import pytest

from ray_lidarseg.recipe import schema
from tests.bench.distill import LOSSES, claims, correlation, missing_figures, recipes


def row(loss: str, gap: float, zero_shot: float, tuned: float, seed: int = 0) -> dict:
    structure = dict.fromkeys(("uniformity", "tolerance", "modality_gap", "alignment_gap"), 0.5)
    scores = {"zero_shot": zero_shot, "linear_probe": 0.3, "fine_tuned": tuned}
    return {"loss": loss, "seed": seed, "structural_gap": gap, **structure, **scores}


def test_claims_hold_or_do_not_by_what_the_rows_say():
    rows = [row("relational", 0.1, 0.3, 0.5), row("similarity", 0.3, 0.2, 0.4), row("contrastive", 0.6, 0.1, 0.2)]
    structure, zero_shot, of_zero_shot, of_tuned = claims(rows)
    assert structure == "closest in structure: relational (claim holds)"
    assert zero_shot == "best zero-shot: relational (claim holds)"
    assert of_zero_shot.endswith("-0.99 (claimed: negative)")
    assert of_tuned.endswith("-1.00 (claimed: negative)")
    worse = [{**rows[0], "structural_gap": 0.9, "zero_shot": 0.05}, *rows[1:]]
    assert claims(worse)[:2] == [
        "closest in structure: similarity (claim does not hold)",
        "best zero-shot: similarity (claim does not hold)",
    ]
    assert claims(rows[:2]) == []
    assert correlation([1.0, 1.0], [0.0, 2.0]) == 0.0


def test_a_figure_that_is_missing_or_not_finite_is_named():
    rows = [row("relational", 0.1, float("nan"), 0.5), {"loss": "random", "seed": 0, "linear_probe": 0.1}]
    assert missing_figures(rows, [("relational", 0), ("random", 0)]) == [
        "zero_shot of relational, seed 0",
        "fine_tuned of random, seed 0",
    ]
    assert len(missing_figures([], [("random", 1)])) == 2


@pytest.mark.parametrize("name", LOSSES)
def test_rows_differ_in_nothing_but_their_loss(name):
    made = recipes("prepared", "features-1/pairs-1", name, 2, 40, 0.01, "run")
    assert set(made) == {"linear_probe", "fine_tuned", *(() if name == "random" else ("distilled",))}
    assert {recipe.seed for recipe in made.values()} == {2}
    assert {recipe.train.steps for recipe in made.values()} == {40}
    assert (made["linear_probe"].split.ratio, made["fine_tuned"].split.ratio) == (1.0, 0.01)
    if name == "random":
        assert made["linear_probe"].start is None
        return
    assert made["linear_probe"].start == schema.Start(run="run", part="backbone", frozen=True)
    assert not made["fine_tuned"].start.frozen
    wanted = {"contrastive": "contrastive", "st-contrastive": "st_contrastive", "similarity": "similarity"}
    assert made["distilled"].method.loss == wanted.get(name, "relational")
    assert made["distilled"].model == made["fine_tuned"].model
