"""What a run's own numbers say about it."""

import math

import pytest

from ray_lidarseg.training.health import Health


def _train(step: int, loss: float | None, skipped: int = 0) -> dict:
    return {"kind": "train", "step": step, "loss_total": loss, "skipped_steps": skipped}


def _evaluate(step: int, ratio: float | None, model: str = "teacher") -> dict:
    return {"kind": "evaluate", "step": step, "model": model, "point_miou_ratio": ratio}


def _warnings(losses: list[float], ratios: list[float]) -> list[bool]:
    health = Health("teacher")
    pairs = zip(losses, ratios, strict=True)
    return [
        health.take(_train(n, loss)) + health.take(_evaluate(n, ratio)) != ""
        for n, (loss, ratio) in enumerate(pairs, 1)
    ]


def test_the_best_step_is_that_of_the_deployed_model():
    lines = [_evaluate(0, 0.9), _evaluate(1, 0.3), _evaluate(2, 0.4), _evaluate(2, 0.8, "student"), _evaluate(3, 0.4)]
    health = Health("teacher", [*lines, _evaluate(4, None), _evaluate(5, math.nan)])
    assert (health.best_step, health.best_ratio) == (2, 0.4)
    assert Health("teacher").best_step == 0


@pytest.mark.parametrize(
    ("losses", "ratios", "expected"),
    [
        ([3, 2, 1, 0.9], [0.6, 0.2, 0.2, 0.1], [False, False, True, False]),  # said once
        ([3, 2, 1], [0.6, 0.2, 0.4], [False] * 3),  # came back
        ([3, 2, 1], [0.6, 0.2, 0.3], [False] * 3),  # half is not below half
        ([3, 4, 5], [0.6, 0.2, 0.2], [False] * 3),  # the loss tells it already
        ([3, 2, 1, 1, 1, 1], [0.6, 0.2, 0.2, 0.5, 0.1, 0.1], [False, False, True, False, False, True]),
    ],
)
def test_a_collapse_is_two_bad_evaluations_while_the_loss_falls(losses, ratios, expected):
    assert _warnings(losses, ratios) == expected


def test_the_warning_names_numbers_and_the_checkpoint_that_is_kept():
    health = Health("teacher", [_train(1, 3.0), _evaluate(1, 0.6), _train(2, 2.0), _evaluate(2, 0.2), _train(3, 1.0)])
    warning = health.take(_evaluate(3, 0.1))
    assert (
        "validation mIoU 10.0%, 60.0% at step 1, while the loss fell from 3 to 1: the checkpoint of step 1 is kept"
        in warning
    )


def test_a_resumed_run_knows_what_was_said_before():
    before = [_train(1, 3.0), _evaluate(1, 0.6), _train(2, 2.0), _evaluate(2, 0.2), _train(3, 1.0)]
    assert Health("teacher", [*before, _evaluate(3, 0.1)]).take(_evaluate(4, 0.1)) == ""


def test_losses_that_are_not_finite_are_said_when_they_begin():
    health = Health("teacher")
    skipped = [0, 1, 2, 2, 3]
    warnings = [health.take(_train(n, None if n in (1, 2) else 1.0, count)) for n, count in enumerate(skipped)]
    assert [bool(warning) for warning in warnings] == [False, True, False, False, True]
    assert "step 1: a loss or gradient is not finite (1 steps skipped so far)" in warnings[1]
