"""Training on a real local Ray: a whole run, and runs that are killed in the middle and end the same."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from importlib import metadata
from pathlib import Path

import pytest
import torch
from ray.train import ScalingConfig

from ray_lidarseg.errors import DataError, ResourceError, RunError, SplitError, StorageError
from ray_lidarseg.recipe.load import override
from ray_lidarseg.train import _Trainer, refuse_what_ray_misreads, train
from ray_lidarseg.training.run_folder import RunFolder, load_method
from tests.ray.train_driver import DRIVER, results, wait_for_step

pytestmark = pytest.mark.ray


def _train_workers() -> list[int]:
    """Process ids of the training workers of this process's own Ray."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if b"RayTrainWorker" in (folder / "cmdline").read_bytes() and os.getpid() in _ancestors(int(folder.name)):
                found.append(int(folder.name))
        except (FileNotFoundError, ProcessLookupError):
            continue
    return found


def _ancestors(pid: int) -> list[int]:
    ancestors = []
    while pid > 1:
        pid = int((Path("/proc") / str(pid) / "stat").read_text().rpartition(")")[2].split()[1])
        ancestors.append(pid)
    return ancestors


def test_the_run_folder_is_complete(undisturbed, tiny):
    lines = results(undisturbed)
    assert [line["step"] for line in lines if line["kind"] == "train"] == list(range(1, 21))
    assert [(line["step"], line["model"]) for line in lines if line["kind"] == "evaluate"] == [
        (step, model) for step in (10, 20) for model in ("student", "teacher")
    ]
    assert all(line["frames"] == 3 for line in lines if line["kind"] == "evaluate")
    losses = [line["loss_total"] for line in lines if line["kind"] == "train"]
    assert losses[-1] < losses[0]
    assert undisturbed.recipe() == tiny
    manifest = undisturbed.manifest()
    assert manifest["is_finished"]
    assert manifest["fingerprint"] == tiny.fingerprint
    assert manifest["versions"]["torch"] == metadata.version("torch")
    split = json.loads(Path(undisturbed.path("split.json")).read_text())
    assert (len(split["labelled"]), len(split["unlabelled"])) == (4, 4)
    assert split["digest"] == manifest["split"]["digest"]
    kept = sorted(path.name for path in Path(undisturbed.path("checkpoints")).glob("step_*"))
    assert kept == [f"step_{step:08d}" for step in sorted({undisturbed.best_step(), 15, 20})]
    assert list(Path(undisturbed.path("tensorboard")).glob("events*"))


def test_the_trained_method_loads_without_ray(undisturbed, tiny):
    method, recipe, step = load_method(undisturbed.uri)
    assert (recipe, step) == (tiny, 20)
    assert not method.training
    earlier, _, step = load_method(undisturbed.uri, 15)
    assert step == 15
    pairs = zip(method.student.parameters(), earlier.student.parameters(), strict=True)
    assert any(not torch.equal(late, early) for late, early in pairs)


def test_a_finished_run_returns_at_once_and_another_recipe_is_refused(undisturbed, tiny, capfd):
    started = time.monotonic()
    train(tiny, undisturbed.uri)
    assert time.monotonic() - started < 1
    assert "is finished: 20 steps" in capfd.readouterr().out
    with pytest.raises(RunError, match=r"differ in optim.lr \(0.001 there, 0.5 here\): give another --run"):
        train(override(tiny, {"optim.lr": 0.5}), undisturbed.uri)


def test_a_killed_driver_continues_with_the_same_numbers(local_ray, undisturbed, tiny, tmp_path):
    run, recipe = tmp_path / "run", tmp_path / "recipe.yaml"
    recipe.write_text(tiny.to_yaml())
    command = [sys.executable, "-c", DRIVER, str(recipe), str(run)]
    driver = subprocess.Popen(command, start_new_session=True)
    try:
        wait_for_step(run, 7)
    finally:
        driver.kill()
        driver.wait()
    assert not RunFolder(str(run)).is_finished()
    Path(run, "checkpoints", "checkpoint_manager_snapshot.json").write_text("{torn")  # as a kill during its write would
    train(tiny, str(run))
    assert results(run) == results(undisturbed)


def test_a_killed_worker_is_replaced_and_the_numbers_stay_the_same(local_ray, undisturbed, tiny, tmp_path):
    run, killed = tmp_path / "run", []

    def kill_one() -> None:
        wait_for_step(run, 7)
        killed.append(_train_workers()[0])
        os.kill(killed[0], signal.SIGKILL)

    killer = threading.Thread(target=kill_one)
    killer.start()
    folder = train(tiny, str(run))
    killer.join()
    assert killed
    assert results(folder) == results(undisturbed)


def test_an_error_in_a_worker_arrives_as_itself_and_is_not_tried_again(local_ray, prepared, tiny, tmp_path):
    broken = tmp_path / "prepared"
    shutil.copytree(prepared, broken)
    for shard in broken.glob("shard-*.parquet"):
        shard.unlink()
    with pytest.raises(DataError, match=r"shard-.*is missing: run `ray-lidarseg prepare`") as caught:
        train(override(tiny, {"data.prepared": str(broken)}), str(tmp_path / "run"))
    assert "Traceback" not in str(caught.value)


def test_what_can_be_known_before_is_said_before_any_worker_starts(local_ray, tiny, tmp_path):
    run = str(tmp_path / "run")
    with pytest.raises(SplitError, match=r"split.ratio=0.001 of 8 training frames with labels selects none"):
        train(override(tiny, {"split.ratio": 0.001}), run)
    with pytest.raises(ResourceError, match=r"asks for 4 worker\(s\) of 8 CPU"):
        train(override(tiny, {"workers.num_workers": 4, "workers.cpus_per_worker": 8}), run)
    with pytest.raises(ResourceError, match="1 GPU each, but the cluster has 4 CPU and 0 GPU"):
        train(override(tiny, {"workers.use_gpu": "yes"}), run)
    assert not Path(run, "recipe.yaml").exists()


def test_callbacks_that_a_platform_injects_are_kept(local_ray, monkeypatch):
    monkeypatch.setenv("RAY_TRAIN_CALLBACKS", "tests.ray.train_driver.Injected")
    callbacks = _Trainer(lambda: None, scaling_config=ScalingConfig(num_workers=1))._create_default_callbacks()
    assert "Injected" in [type(callback).__name__ for callback in callbacks]


def test_a_key_that_ray_takes_for_another_one_is_refused_before_anything_is_written():
    with pytest.raises(StorageError, match=r"cannot train in s3://logs/day#1: Ray takes this key for another one"):
        refuse_what_ray_misreads("s3://logs/day#1")
    refuse_what_ray_misreads("s3://logs/day-1/run_2?region=eu")
    refuse_what_ray_misreads("/logs/what?/day#1")
