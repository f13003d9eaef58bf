"""The search: in order, or learning; and what it knows after a restart."""

import pytest

from ray_lidarseg.sweep.proposals import ListedProposals, OptunaProposals, proposals
from ray_lidarseg.sweep.study import parse_study

SPACE = "{method.confidence: {uniform: [0.0, 1.0]}, method.num_areas: [[3], [4, 5]], train.steps: {integers: [1, 9]}}"
OPTUNA = parse_study(f"question: q\nspace: {SPACE}\nsearch: optuna\ntrials: 30\n")


def _all(search):
    found = []
    while (params := search.next()) is not None:
        found.append(params)
        search.tell(params, params["method.confidence"])
    return found


def test_a_list_is_given_in_order_and_ends():
    study = parse_study("question: q\nspace: {optim.lr: [1, 2]}\n")
    search = proposals(study, ())
    assert isinstance(search, ListedProposals)
    assert [search.next(), search.next(), search.next()] == [{"optim.lr": 1}, {"optim.lr": 2}, None]


def test_optuna_draws_what_the_space_holds_and_learns():
    found = _all(OptunaProposals(OPTUNA))
    assert len(found) == 30
    assert found == _all(OptunaProposals(OPTUNA))
    assert {type(params["train.steps"]) for params in found} == {int}
    assert {str(params["method.num_areas"]) for params in found} == {"[3]", "[4, 5]"}
    first, last = ([params["method.confidence"] for params in part] for part in (found[:10], found[20:]))
    assert sum(last) / 10 > sum(first) / 10  # the higher, the better: ten random draws, then informed ones


def test_after_a_restart_optuna_goes_on_with_what_is_open_and_repeats_nothing():
    found = _all(OptunaProposals(OPTUNA))
    known = [(params, params["method.confidence"], True) for params in found[:5]] + [(found[5], None, False)]
    search = OptunaProposals(OPTUNA, known)
    assert search.next() == found[5]
    rest = [search.next() for _ in range(24)]
    assert search.next() is None
    assert not [params for params in rest if params in found[:6]]


def test_a_failed_combination_is_told_as_such():
    search = OptunaProposals(OPTUNA)
    search.tell(search.next(), None)
    assert search.next() is not None
    with pytest.raises(StopIteration):
        search.tell({"method.confidence": 2.0}, 0.5)
