"""The order of trials: seeds, repeated recipes, what is over already, and what the search is told."""

import pytest

from ray_lidarseg.errors import RecipeError
from ray_lidarseg.recipe.load import load_recipe
from ray_lidarseg.sweep.study import parse_study
from ray_lidarseg.sweep.trial_queue import TrialQueue

DEMO = load_recipe("demo")
GRID = parse_study("question: q\nspace: {optim.lr: [0.1, 0.2]}\nseeds: [0, 7]\n")


def _drain(queue):
    found = []
    while (trial := queue.next()) is not None:
        found.append(trial)
    return found


def test_every_combination_gets_every_seed():
    queue = TrialQueue(GRID, DEMO, {})
    assert [trial.name for trial in queue.check()] == [trial.name for trial in _drain(queue)]
    assert [(trial.params["optim.lr"], trial.seed) for trial in queue.trials.values()] == [
        (0.1, 0),
        (0.1, 7),
        (0.2, 0),
        (0.2, 7),
    ]


def test_what_is_over_is_not_given_again_and_what_was_begun_keeps_its_record():
    before = _drain(TrialQueue(GRID, DEMO, {}))
    before[0].state, before[1].state, before[2].state = "finished", "stopped", "running"
    before[2].seconds = 5.0
    queue = TrialQueue(GRID, DEMO, {trial.name: trial for trial in before[:3]})
    assert [(trial.name, trial.seconds) for trial in _drain(queue)] == [(before[2].name, 5.0), (before[3].name, 0.0)]
    assert len(queue.trials) == 4


def test_combinations_that_make_one_recipe_are_trained_once():
    study = parse_study("question: q\nspace: {rate: {low: {optim.lr: 0.1}, same: {optim.lr: 0.1}}}\n")
    assert len(_drain(TrialQueue(study, DEMO, {}))) == 1


def test_all_of_a_grid_and_the_ends_of_an_interval_are_tried_before_the_first_trial():
    with pytest.raises(RecipeError, match=r"(?s)trial optim.lr=-1: .*optim.lr: expected more than 0"):
        TrialQueue(parse_study("question: q\nspace: {optim.lr: [0.1, -1]}\n"), DEMO, {}).check()
    space = "{optim.lr: {uniform: [0.1, 0.2]}, method.confidence: {uniform: [0.5, 2.0]}}"
    optuna = parse_study(f"question: q\nspace: {space}\nsearch: optuna\ntrials: 2\n")
    with pytest.raises(RecipeError, match=r"method.confidence: expected at most 1"):
        TrialQueue(optuna, DEMO, {}).check()


def test_a_search_that_goes_on_keeps_what_is_over_and_asks_for_the_rest():
    text = "question: q\nspace: {optim.lr: {uniform: [0.1, 0.2]}}\nsearch: optuna\ntrials: 4\n"
    first = TrialQueue(parse_study(text), DEMO, {})
    before = [first.next(), first.next(), first.next()]
    for trial in before[:2]:
        trial.saw(10, {"point_miou_ratio": 0.5})
        trial.state = "finished"
    queue = TrialQueue(parse_study(text), DEMO, {trial.name: trial for trial in before})
    assert set(queue.trials) == {before[0].name, before[1].name}
    assert queue.next().name == before[2].name  # begun, so it goes first
    assert queue.next() is not None
    assert queue.next() is None
    assert len(queue.trials) == 4


def test_the_search_hears_the_mean_over_seeds_when_all_are_over(monkeypatch):
    queue, told = TrialQueue(GRID, DEMO, {}), []
    monkeypatch.setattr(queue._proposals, "tell", lambda params, value: told.append((params, value)))
    trials = _drain(queue)
    for trial, value in zip(trials[:3], (0.25, 0.75, 0.5), strict=True):
        trial.saw(10, {"point_miou_ratio": value})
        trial.state = "finished"
        queue.done()
    trials[3].state = "failed"
    queue.done()
    queue.done()
    assert told == [({"optim.lr": 0.1}, 0.5), ({"optim.lr": 0.2}, None)]
