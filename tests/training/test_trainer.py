"""A whole run in this process: folder, resume, and who keeps the checkpoints."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from ray_lidarseg.datasets.entries import dataset_of
from ray_lidarseg.datasets.sampler import StepSampler
from ray_lidarseg.datasets.sensor import resolve_sensor
from ray_lidarseg.errors import RecipeError, RunError, SplitError, StorageError
from ray_lidarseg.methods.build import build_method
from ray_lidarseg.recipe.load import override
from ray_lidarseg.recipe.schema import Recipe
from ray_lidarseg.storage.lock import held
from ray_lidarseg.training import checkpoints, tracking
from ray_lidarseg.training.loop import Ranks, StepLoop
from ray_lidarseg.training.run_folder import RunFolder, load_method
from ray_lidarseg.training.trainer import Trainer, continues, make_plan, train_alone
from ray_lidarseg.training.validation import Validation
from tests.training.prepared_walls import NUM_TRAIN, NUM_VAL, walls_recipe, write_walls

CPU = torch.device("cpu")
_TIMINGS = ("scans_per_s", "data_wait_ratio", "memory_gib")


@pytest.fixture(scope="module")
def walls(tmp_path_factory) -> str:
    return write_walls(str(tmp_path_factory.mktemp("prepared")))


@pytest.fixture(scope="module")
def recipe(walls):
    return walls_recipe(walls)


@pytest.fixture(scope="module")
def whole(recipe, tmp_path_factory) -> RunFolder:
    """A run that nothing happened to."""
    return RunFolder(train_alone(recipe, str(tmp_path_factory.mktemp("runs") / "whole")).plan.run)


def _lines(run: RunFolder) -> list[dict]:
    return [{key: value for key, value in line.items() if key not in _TIMINGS} for line in run.metrics()]


def _begin_of(recipe: Recipe) -> dict[str, torch.Tensor]:
    """Parameters before the first step."""
    torch.manual_seed(recipe.seed)
    sensor, num_classes = resolve_sensor(recipe.data), dataset_of(recipe.data).taxonomy.num_classes
    parameters = build_method(recipe, sensor, num_classes).named_parameters()
    return {name: value.detach() for name, value in parameters}


def test_a_run_leaves_a_whole_folder(whole, recipe):
    assert [(line["kind"], line["step"]) for line in whole.metrics()] == [
        *(("train", step) for step in (1, 2, 3, 4)),
        ("evaluate", 4),
    ]
    assert whole.metrics()[-1]["frames"] == NUM_VAL
    assert whole.recipe() == recipe
    assert whole.is_finished()
    assert whole.manifest()["split"]["num_labelled"] == NUM_TRAIN
    assert json.loads(Path(whole.path("split.json")).read_text())["digest"] == whole.manifest()["split"]["digest"]
    assert checkpoints.steps(whole.uri) == [3, 4]
    method, loaded, step = load_method(whole.uri)
    assert (loaded, step, method.training) == (recipe, 4, False)


def test_a_run_that_died_in_a_step_continues_to_the_same_numbers(whole, recipe, tmp_path, monkeypatch):
    done, one_step, run = [], StepLoop.one_step, str(tmp_path / "run")

    def dies_once_in_its_third_step(self, *arguments):
        if self.step == 2 and 2 not in done:
            done.append(2)
            raise KeyboardInterrupt
        done.append(self.step)
        return one_step(self, *arguments)

    monkeypatch.setattr(StepLoop, "one_step", dies_once_in_its_third_step)
    with pytest.raises(KeyboardInterrupt):
        train_alone(recipe, run)
    assert not RunFolder(run).is_finished()
    train_alone(recipe, run)
    assert done == [0, 1, 2, 2, 3]
    assert _lines(RunFolder(run)) == _lines(whole)
    states = [load_method(uri)[0].state_dict() for uri in (whole.uri, run)]
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())


def test_a_finished_run_is_loaded_and_not_trained_again(whole, recipe):
    before = _lines(whole)
    trainer = train_alone(recipe, whole.uri)
    assert trainer.loop.step == 4
    assert _lines(whole) == before


def test_another_recipe_is_refused(whole, recipe):
    with pytest.raises(RunError, match=r"differ in seed \(0 there, 5 here\)"):
        train_alone(override(recipe, {"seed": 5}), whole.uri)


def _stops_after_two_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    one_step = StepLoop.one_step

    def stop(self, *arguments):
        if self.step == 2:
            raise KeyboardInterrupt
        return one_step(self, *arguments)

    monkeypatch.setattr(StepLoop, "one_step", stop)


def _begun(folder: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Recipe, str]:
    """A run that was interrupted in the middle, with a labelled set of half the frames."""
    recipe = walls_recipe(write_walls(str(folder / "p")), split__ratio=0.5)
    with monkeypatch.context() as patch:
        _stops_after_two_steps(patch)
        with pytest.raises(KeyboardInterrupt):
            train_alone(recipe, str(folder / "run"))
    return recipe, str(folder / "run")


def test_frames_that_come_between_do_not_change_what_is_learnt_from(tmp_path, monkeypatch, capsys):
    recipe, run = _begun(tmp_path, monkeypatch)
    split = Path(run, "split.json").read_bytes()
    write_walls(recipe.data.prepared, num_train=9)
    read, row = [], StepSampler.step
    monkeypatch.setattr(StepSampler, "step", lambda self, step: read.append((self, row(self, step))) or row(self, step))
    train_alone(recipe, run)
    assert (
        "has 5 training and 0 validation frames more than when this run began: it keeps the 2"
        in capsys.readouterr().out
    )
    assert Path(run, "split.json").read_bytes() == split
    assert [line["step"] for line in RunFolder(run).metrics() if line["kind"] == "train"] == [1, 2, 3, 4]
    assert {index for _, (labelled, _) in read for index in labelled} <= {0, 1}


def test_labels_corrected_between_end_the_start_also_of_a_finished_run(tmp_path, monkeypatch):
    recipe, run = _begun(tmp_path, monkeypatch)
    write_walls(recipe.data.prepared, lower=4)
    message = r"the labels of 4 frames changed \(for example f\d.*Give another --run"  # two labelled, two of validation
    with pytest.raises(RunError, match=message):
        train_alone(recipe, run)
    write_walls(recipe.data.prepared)
    train_alone(recipe, run)
    write_walls(recipe.data.prepared, lower=4)
    with pytest.raises(RunError, match=message):
        continues(RunFolder(run), recipe)


def test_a_prepared_folder_that_moved_is_known_by_its_content(tmp_path, monkeypatch, capsys):
    recipe, run = _begun(tmp_path, monkeypatch)
    (tmp_path / "p").rename(tmp_path / "q")
    moved = override(recipe, {"data.prepared": str(tmp_path / "q")})
    train_alone(moved, run)
    assert f"the frames of {tmp_path}/p lie in {tmp_path}/q now, going on" in capsys.readouterr().out
    assert RunFolder(run).recipe().data.prepared == f"{tmp_path}/q"
    other = override(recipe, {"data.prepared": write_walls(str(tmp_path / "other"), lower=4)})
    with pytest.raises(RunError, match=r"differ in data\.prepared"):
        continues(RunFolder(run), other)


def test_a_second_trainer_in_the_folder_is_refused(recipe, tmp_path):
    with held(str(tmp_path), "train"), pytest.raises(StorageError, match="is in use: `ray-lidarseg train`, process"):
        train_alone(recipe, str(tmp_path))


def test_whoever_starts_it_may_keep_the_checkpoints(recipe, tmp_path):
    kept, plan = {}, make_plan(recipe, RunFolder(str(tmp_path / "run")))
    Trainer(plan, Ranks(), CPU, kept.__setitem__).run()
    assert list(kept) == [1, 2, 3, 4]
    assert checkpoints.unpack(kept[3])["step"] == 3
    assert checkpoints.steps(plan.run) == []


def test_what_is_wrong_is_said_before_the_first_step(recipe, tmp_path):
    folder = RunFolder(str(tmp_path / "run"))
    with pytest.raises(RecipeError, match=r"data.prepared is not set: give the folder"):
        make_plan(override(recipe, {"data.prepared": ""}), folder)
    with pytest.raises(SplitError, match=r"selects none"):
        make_plan(override(recipe, {"split.ratio": 0.001}), folder)


def test_scans_without_labels_that_have_some_are_diagnosed_and_change_nothing(walls, tmp_path):
    settings = {"method__name": "lasermix", "method__confidence": 0.0, "split__ratio": 0.5, "train__steps": 2}
    lines, states = {}, {}
    for frames in (2, 0):
        recipe = walls_recipe(walls, **settings, train__diagnose_frames=frames)
        trainer = train_alone(recipe, str(tmp_path / str(frames)))
        states[frames] = trainer.loop.method.state_dict()
        lines[frames] = [line for line in RunFolder(trainer.plan.run).metrics() if line["kind"] == "diagnose"]
    assert all(torch.equal(value, states[0][name]) for name, value in states[2].items())
    assert lines[0] == []
    (line,) = lines[2]
    assert (line["step"], line["frames"]) == (2, 2)
    assert line["truth_ratio"][3] == line["truth_ratio"][14] == 0.5
    assert line["kept_total_ratio"] > 0.9
    assert {"student_unlabelled_miou_ratio", "teacher_unlabelled_miou_ratio"} <= line.keys()


def test_statistics_of_the_deployed_model_are_measured_for_checkpoints_and_not_for_training(walls, tmp_path):
    settings = {"method__name": "mean_teacher", "method__ema_buffers": "average", "split__ratio": 0.5}
    states, scores, saved = {}, {}, {}
    for number in (0, 3):
        recipe = walls_recipe(walls, **settings, train__norm_batches=number)
        trainer = train_alone(recipe, str(tmp_path / str(number)))
        states[number] = trainer.loop.method.state_dict()
        saved[number] = load_method(trainer.plan.run)[0].deployed_model.state_dict()
        scores[number] = [line for line in RunFolder(trainer.plan.run).metrics() if line["kind"] == "evaluate"]
    assert all(torch.equal(value, states[0][name]) for name, value in states[3].items())
    changed = {name for name, value in saved[0].items() if not torch.equal(value, saved[3][name])}
    assert changed
    assert all("running_" in name or "num_batches_tracked" in name for name in changed)
    assert int(next(value for name, value in saved[3].items() if "num_batches_tracked" in name)) == 3
    assert scores[0][0] == scores[3][0]  # the student is scored as it is


def test_the_diagnosis_scores_the_model_that_is_validated_and_saved(walls, tmp_path, monkeypatch):
    seen = []

    def remembered(self, method, step, statistics=None):
        seen.append((method.deployed, statistics))
        return []

    monkeypatch.setattr("ray_lidarseg.training.trainer.Diagnosis.__call__", remembered)
    settings = {"method__name": "mean_teacher", "split__ratio": 0.5, "train__norm_batches": 2}
    trainer = train_alone(walls_recipe(walls, **settings), str(tmp_path / "run"))
    saved = load_method(trainer.plan.run)[0].deployed_model.state_dict()
    deployed, statistics = seen[-1]
    assert deployed == "teacher"
    assert statistics
    assert all(torch.equal(value, saved[name]) for name, value in statistics.items())


def test_a_step_in_which_a_rank_has_nothing_is_measured_by_none(walls, tmp_path, monkeypatch):
    """Where batch norms are synchronised, a rank that passed its batch over would leave the others waiting."""
    plan = make_plan(walls_recipe(walls, train__steps=3, train__norm_batches=3), RunFolder(str(tmp_path / "run")))
    trainer = Trainer(plan, Ranks(), CPU)
    said = []
    monkeypatch.setattr(
        Ranks, "least", lambda self, number, device: said.append(number) or number * (len(said) != 2)
    )  # another rank has no point in the second step
    batches = list(trainer._scans_of(range(3)))
    assert said == [1, 1, 1]
    assert len(batches) == len(trainer._steps[0]) + len(trainer._steps[2])


def test_labelled_frames_may_come_as_their_classes_need_them(walls, tmp_path):
    plan = make_plan(walls_recipe(walls, train__labelled_sampling="class_balanced"), RunFolder(str(tmp_path / "run")))
    sampler = Trainer(plan, Ranks(), CPU)._steps.sampler
    assert sampler.passes[0].tolist() == list(range(NUM_TRAIN))  # all of them hold both classes alike


def test_one_two_and_three_workers_take_the_same_steps(walls, tmp_path):
    """Five scans are two and three, or two, two and one; a teacher's batch norms, kept by worker, come after step 1."""
    sizes = {"train__labelled_per_step": 5, "train__unlabelled_per_step": 5, "train__micro_batch": 1}
    fixed = {**sizes, "optim__name": "sgd", "optim__lr": 0.05, "workers__num_workers": [1, 3]}
    recipes = [
        walls_recipe(
            walls, **{"name": method, "method__name": method}, **fixed, train__steps=n, train__evaluate_every=n
        )
        for method, n in (("supervised", 2), ("lasermix", 1))
    ]
    files = [str(tmp_path / f"{recipe.name}.yaml") for recipe in recipes]
    for recipe, file in zip(recipes, files, strict=True):
        Path(file).write_text(recipe.to_yaml())
    script, port = str(Path(__file__).with_name("elastic_rank.py")), str(20_000 + os.getpid() % 20_000)
    ranks = [subprocess.Popen([sys.executable, script, str(rank), port, str(tmp_path), *files]) for rank in range(3)]
    assert [rank.wait(timeout=240) for rank in ranks] == [0, 0, 0]
    for recipe in recipes:
        one, begin = torch.load(tmp_path / f"{recipe.name}-1-0.pt"), _begin_of(recipe)
        moved = max(float((value - begin[name]).abs().max()) for name, value in one.items())
        for file in (f"{recipe.name}-{workers}-{rank}.pt" for workers in (2, 3) for rank in range(workers)):
            for name, value in torch.load(tmp_path / file).items():
                assert (value - one[name]).abs().max() < 1e-3 * moved, (file, name)
        lines = [_lines(RunFolder(str(tmp_path / f"{recipe.name}-{workers}")))[0] for workers in (1, 2, 3)]
        assert [line["loss_total"] for line in lines] == pytest.approx([lines[0]["loss_total"]] * 3, rel=1e-5)


def test_a_collapse_is_said_and_the_best_checkpoint_stays(walls, tmp_path, monkeypatch, capsys):
    ratios = {1: 0.3, 2: 0.6, 3: 0.25, 4: 0.2, 5: 0.1}

    def scripted(self, method, step):
        return [{"kind": "evaluate", "step": step, "model": "student", "point_miou_ratio": ratios[step], "frames": 2}]

    monkeypatch.setattr(Validation, "__call__", scripted)
    monkeypatch.setattr(tracking, "evaluation_sentence", lambda line: f"evaluated {line['step']}")
    recipe = walls_recipe(walls, train__steps=5, train__evaluate_every=1, optim__lr=0.01)
    run = RunFolder(train_alone(recipe, str(tmp_path / "run")).plan.run)
    assert checkpoints.steps(run.uri) == [2, 4, 5]
    assert load_method(run.uri, "best")[2] == run.best_step() == 2
    (warning,) = [line for line in run.metrics() if line["kind"] == "warn"]
    assert warning["step"] == 4
    assert f"WARNING: {warning['warning']}" in capsys.readouterr().out
    assert "validation mIoU 20.0%, 60.0% at step 2" in warning["warning"]


def test_training_imports_no_ray():
    program = "import sys, ray_lidarseg.training.trainer; sys.exit('ray' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program]).returncode == 0
