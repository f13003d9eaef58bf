"""What a sweep does where Tune gives a trial up that was never begun; Tune itself is played here."""

from types import SimpleNamespace

import pytest

from ray_lidarseg.errors import StorageError
from ray_lidarseg.recipe.load import load_recipe
from ray_lidarseg.sweep import tuning
from ray_lidarseg.sweep.launch import _conclude
from ray_lidarseg.sweep.study import parse_study
from ray_lidarseg.sweep.trial_queue import TrialQueue
from ray_lidarseg.sweep.trials import read_trials
from ray_lidarseg.sweep.tuning import tune_trials

STUDY = parse_study("question: q\nspace: {optim.lr: [0.1, 0.2]}\n")


@pytest.fixture
def played(monkeypatch):
    """Runs of Tune: the process of the second trial dies so often, while the trial is handed to it."""
    runs: list[list[float]] = []

    def play(deaths: int):
        def run(work, search_alg, callbacks, **settings):
            runs.append([])
            records = callbacks[0]
            while isinstance(config := search_alg.suggest("id"), dict):
                trial = SimpleNamespace(config=config, get_error=lambda: "its actor died")
                own = search_alg.trial(config["name"])
                runs[-1].append(own.recipe.optim.lr)
                if own.recipe.optim.lr == 0.2 and len(runs) <= deaths:
                    search_alg.suggest("id")  # Tune had asked for more already, and heard that there is none
                    records.on_trial_error(0, [], trial)
                    break
                records.on_trial_start(0, [], trial)
                records.on_trial_result(
                    0, [], trial, {"step": 9, "seconds": 1.0, "point_miou_ratio": 0.5, "is_finished": 1}
                )
                records.on_trial_complete(0, [], trial)

        monkeypatch.setattr(tuning.tune, "run", run)
        return runs

    return play


def _tuned(out) -> TrialQueue:
    base = load_recipe("demo", ["workers.num_workers=1", "workers.max_failures=2", "data.prepared=/nowhere"])
    queue = TrialQueue(STUDY, base, {})
    queue.check()
    tune_trials(STUDY, queue, str(out), base, 1, lambda trial: None)
    return queue


def test_a_trial_whose_process_dies_before_it_begins_is_tried_again(played, tmp_path):
    runs = played(deaths=1)
    queue = _tuned(tmp_path)
    assert runs == [[0.1, 0.2], [0.2]]  # the first is not trained twice
    assert [trial.state for trial in queue.trials.values()] == ["finished", "finished"]


def test_but_not_without_end(played, tmp_path):
    runs = played(deaths=9)
    queue = _tuned(tmp_path)
    assert runs == [[0.1, 0.2], [0.2], [0.2]]
    assert [(trial.state, trial.reason) for trial in queue.trials.values()][1] == ("failed", "its actor died")


@pytest.mark.parametrize(("is_of_place", "state"), [(True, "running"), (False, "failed")])
def test_a_full_disk_says_nothing_against_a_trial(monkeypatch, tmp_path, is_of_place, state):
    def run(work, search_alg, callbacks, **settings):
        trial = SimpleNamespace(config=search_alg.suggest("id"))
        callbacks[0].on_trial_start(0, [], trial)
        said = {"reason": "the disk is full", "is_of_place": is_of_place, "seconds": 1.0}
        callbacks[0].on_trial_result(0, [], trial, said)
        callbacks[0].on_trial_complete(0, [], trial)
        while search_alg.suggest("id") != tuning.Searcher.FINISHED:
            pass

    monkeypatch.setattr(tuning.tune, "run", run)
    queue = _tuned(tmp_path)
    first = next(iter(queue.trials.values()))
    assert (first.state, first.reason) == (state, "the disk is full")
    if is_of_place:
        with pytest.raises(StorageError, match="1 of 2 trials are not over: the disk is full"):
            _conclude(STUDY, list(queue.trials.values()), str(tmp_path), 0.0)
    assert read_trials(str(tmp_path))[first.name].is_over == (not is_of_place)  # the same command takes it up again
