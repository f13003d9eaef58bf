"""The table, the best recipe, and the terminal's table."""

import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
import pytest

from ray_lidarseg.recipe.load import load_recipe
from ray_lidarseg.sweep.board import Board
from ray_lidarseg.sweep.result_table import best_trial, results, write_results
from ray_lidarseg.sweep.study import parse_study
from ray_lidarseg.sweep.trial_queue import TrialQueue

STUDY = parse_study("question: q\nspace: {split.ratio: [10%, 50%], method.num_areas: [[3], [4, 5]]}\nseeds: [0, 1]\n")


@pytest.fixture
def trials():
    """Eight: means 0.2, 0.4, 0.6 (one seed only), and a stopped pair that is best so far."""
    made = TrialQueue(STUDY, load_recipe("demo", ["train.steps=2000"]), {}).check()
    states = ["finished"] * 5 + ["failed"] + ["stopped"] * 2
    for trial, state, value in zip(made, states, (0.1, 0.3, 0.5, 0.3, 0.6, 0.9, 0.9, 0.8), strict=True):
        trial.state, trial.seconds, trial.num_workers, trial.num_gpus = state, 1800.0, 2, 2
        trial.saw(50, {"point_miou_ratio": value})
    return made


def test_a_row_a_trial_with_time_and_cost(trials, tmp_path):
    write_results(str(tmp_path), STUDY, trials, price_per_hour=3.0)
    table = pq.read_table(tmp_path / "trials.parquet")
    assert table.num_rows == 8
    row = table.to_pylist()[0]
    assert (row["space.split.ratio"], row["space.method.num_areas"]) == (0.1, "[3]")
    assert (row["step"], row["steps"], row["point_miou_ratio"], row["cell_miou_ratio"]) == (50, 2000, 0.1, None)
    assert (row["gpu_hours"], row["cost"]) == (1.0, 3.0)  # half an hour of two
    assert row["run"] == f"{tmp_path}/trials/{trials[0].name}"
    assert pa_csv.read_csv(tmp_path / "trials.csv").column_names == table.column_names
    assert load_recipe(tmp_path / "best.yaml") == trials[2].recipe


def test_the_best_is_the_best_mean_of_whole_combinations(trials):
    assert best_trial(STUDY, trials) is trials[2]  # 0.4 of two seeds; 0.6 is of one, 0.85 was stopped
    assert best_trial(parse_study("question: q\nmode: min\nspace: {optim.lr: [1]}\n"), trials) is trials[0]
    assert best_trial(STUDY, trials[6:]) is trials[6]
    assert best_trial(STUDY, trials[5:6]) is None


def test_no_trials_make_an_empty_table():
    assert results(STUDY, [], 0.0, "out").num_rows == 0


def test_the_board_ranks_by_the_metric_and_counts_states(trials, capsys):
    board = Board("point_miou_ratio", 10)
    with board.shown():
        for trial in trials:
            board.saw(trial)
    said = capsys.readouterr().out
    assert "1 failed, 5 finished, 2 stopped, 2 to come" in said
    shown = [line for line in said.splitlines() if "/2000" in line]
    assert [line.split("│")[1].strip() for line in shown] == [trials[place].name for place in (5, 6, 7, 4, 2, 1, 3, 0)]
    assert "90.0 %" in shown[0]
