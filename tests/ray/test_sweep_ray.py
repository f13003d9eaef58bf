"""Sweeps on a real local Ray: a whole one, and one that is killed half-way and continued by the same command."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml

from ray_lidarseg.errors import ResourceError, RunError, StorageError
from ray_lidarseg.recipe.load import load_recipe, override
from ray_lidarseg.storage.lock import held
from ray_lidarseg.sweep import sweep
from ray_lidarseg.sweep.study import load_study
from ray_lidarseg.sweep.trials import make_trial

pytestmark = pytest.mark.ray

STUDY = """
question: Which rate?
space: {optim.lr: [0.02, 0.0001, 0.0002, 0.01, 0.0003, 0.03]}
scheduler: {name: asha, grace_ratio: 0.3, reduction: 2}
"""


@pytest.fixture(scope="module")
def short(tiny):
    """One worker, six steps, evaluated three times."""
    return override(
        tiny,
        {
            "workers.num_workers": 1,
            "train": {"steps": 6, "labelled_per_step": 2, "unlabelled_per_step": 2, "log_every": 1}
            | {"evaluate_every": 2, "checkpoint_every": 2},
        },
    )


@pytest.fixture
def study(tmp_path):
    """The file."""
    file = tmp_path / "rates.yaml"
    file.write_text(STUDY)
    return str(file)


def _records(out):
    return {file.parent.name: json.loads(file.read_text()) for file in Path(out).glob("trials/*/trial.json")}


def _over(out):
    return {name for name, record in _records(out).items() if record["state"] in ("finished", "stopped")}


def test_a_sweep_killed_half_way_goes_on_and_trains_nothing_twice(local_ray, short, study, tmp_path):
    recipe, out = tmp_path / "recipe.yaml", tmp_path / "out"
    recipe.write_text(short.to_yaml())
    command = [sys.executable, "-m", "ray_lidarseg.cli", "sweep", study, "--recipe", str(recipe), "--out", str(out)]
    driver = subprocess.Popen(command, start_new_session=True, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 300
    try:
        while len(_over(out)) < 2 and driver.poll() is None and time.monotonic() < deadline:
            time.sleep(0.02)
    finally:
        driver.send_signal(signal.SIGKILL)
        driver.wait()
    over = _over(out)
    assert 2 <= len(over) < 6
    before = {name: (Path(out, "trials", name, "metrics.jsonl")).read_bytes() for name in over}
    trials = sweep(study, short, str(out))
    assert len(trials) == 6
    assert {trial.params["optim.lr"] for trial in trials} == {0.02, 0.0001, 0.0002, 0.01, 0.0003, 0.03}
    assert {trial.state for trial in trials} <= {"finished", "stopped"}
    assert {name: (Path(out, "trials", name, "metrics.jsonl")).read_bytes() for name in over} == before
    for trial in trials:
        steps = [line["step"] for line in trial.evaluations]
        assert steps == [2, 4, 6][: len(steps)]
        assert (trial.step == 6) == (trial.state == "finished")
        assert trial.seconds > 0
    table = pq.read_table(out / "trials.parquet")
    assert sorted(table["trial"].to_pylist()) == sorted(trial.name for trial in trials)
    assert set(yaml.safe_load((out / "study.yaml").read_text())) == {"study", "recipe"}
    assert load_recipe(out / "best.yaml").optim.lr in {0.02, 0.01, 0.03, 0.0001, 0.0002, 0.0003}
    assert {line["step"] for line in _lines(out, trials[0].name) if line["kind"] == "train"} >= {1, 2}
    assert sweep(study, short, str(out)) == trials  # at once: nothing is left
    with pytest.raises(RunError, match=r"belongs to another sweep; they differ in model.width_factor"):
        sweep(study, override(short, {"model.width_factor": 0.2}), str(out))


def _lines(out, name):
    return [json.loads(line) for line in Path(out, "trials", name, "metrics.jsonl").read_text().splitlines()]


def test_trials_of_several_workers_run_ray_train_and_free_what_they_held_when_stopped(
    local_ray, short, study, tmp_path
):
    out = str(tmp_path / "out")
    Path(study).write_text(
        "question: q\nspace: {optim.lr: [0.04, 0.0001, 0.0002]}\nscheduler: {name: asha, grace_ratio: 0.3}"
    )
    best = make_trial(load_study(study), short, {"optim.lr": 0.04}, 0)
    for step in (2, 4, 6):
        best.saw(step, {"point_miou_ratio": 0.9})  # of an earlier start: no other trial will pass it
    best.state = "finished"
    best.write(out)
    nested = override(short, {"workers.num_workers": 2, "workers.cpus_per_worker": 1.9})  # one trial at a time fits
    trials = sweep(study, nested, out)
    assert [trial.state for trial in trials] == ["finished", "stopped", "stopped"]  # the third needs the second's place
    assert [(trial.num_workers, trial.step) for trial in trials] == [(1, 6), (2, 2), (2, 2)]


def test_a_trial_that_fails_says_why_and_the_others_go_on(local_ray, short, study, tmp_path):
    Path(study).write_text("question: Too fast?\nspace: {optim.lr: [1.0e+30, 0.01]}\n")
    trials = sweep(study, override(short, {"train.steps": 21, "optim.grad_clip_norm": 0}), str(tmp_path / "out"))
    assert [trial.state for trial in trials] == ["failed", "finished"]
    assert "not finite: lower optim.lr" in trials[0].reason
    table = pq.read_table(tmp_path / "out" / "trials.parquet").to_pylist()
    assert table[0]["reason"] == trials[0].reason


def test_what_cannot_work_is_said_before_the_first_trial(local_ray, short, study, tmp_path):
    out = str(tmp_path / "out")
    with pytest.raises(ResourceError, match="asks for 1 worker"):
        sweep(study, override(short, {"workers.cpus_per_worker": 99.0}), out)
    with held(out, "sweep"), pytest.raises(StorageError, match="is in use: `ray-lidarseg sweep`"):
        sweep(study, short, out)
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="file"):
        sweep(study, short, str(tmp_path / "file" / "out"))
    assert not list((tmp_path / "out").glob("trials/*"))
