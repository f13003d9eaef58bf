"""Runs that begin with the weights of others: fine-tuning, linear probe, and what is refused."""

import shutil
from pathlib import Path

import pytest
import safetensors.torch
import torch

from ray_lidarseg.datasets.nuscenes import CLASSES as NUSCENES
from ray_lidarseg.datasets.sensor import resolve_sensor
from ray_lidarseg.errors import DataError, RecipeError, RunError
from ray_lidarseg.models.build import build_segmentor
from ray_lidarseg.recipe import schema
from ray_lidarseg.recipe.load import override
from ray_lidarseg.recipe.schema import Start
from ray_lidarseg.training import checkpoints
from ray_lidarseg.training.loop import Ranks
from ray_lidarseg.training.run_folder import RunFolder, load_method
from ray_lidarseg.training.starting import Source, begin_with, read_source
from ray_lidarseg.training.trainer import Trainer, make_plan, train_alone
from tests.training.prepared_walls import walls_recipe, write_walls

HEAD = ["classifier.weight", "classifier.bias"]


@pytest.fixture(scope="module")
def walls(tmp_path_factory) -> str:
    return write_walls(str(tmp_path_factory.mktemp("prepared")))


@pytest.fixture(scope="module")
def source(walls, tmp_path_factory) -> str:
    """A mean teacher of four steps: what it deploys is not its student."""
    recipe = walls_recipe(walls, method__name="mean_teacher", optim__lr=0.01)
    return train_alone(recipe, str(tmp_path_factory.mktemp("runs") / "source")).plan.run


def _deployed(run: str) -> dict[str, torch.Tensor]:
    return load_method(run)[0].deployed_model.state_dict()


def _started(walls: str, source: str, **changes):
    """A supervised recipe with another seed that begins with the source."""
    start = {"run": source, **{key.removeprefix("start__"): changes.pop(key) for key in [*changes] if "start" in key}}
    return override(walls_recipe(walls, seed=7, **changes), {"start": start})


def _is_equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor], names) -> bool:
    return all(torch.equal(one[name], other[name]) for name in names)


def test_a_fine_tune_begins_where_its_source_ended(walls, source, tmp_path):
    recipe = _started(walls, source, train__evaluate_first=True)
    trainer = Trainer(make_plan(recipe, RunFolder(str(tmp_path / "run"))), Ranks(), torch.device("cpu"))
    trainer._begin()
    ((labelled, unlabelled),) = trainer._steps[0]
    teacher = load_method(source)[0].deployed_model
    loss = trainer.loop.one_step([(labelled, unlabelled)])["loss_total"]
    alone = trainer.loop.method
    alone.student.load_state_dict(teacher.state_dict())
    expected = alone.train()(labelled, unlabelled, 0.0, torch.Generator().manual_seed(0)).total
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)

    lines = RunFolder(train_alone(recipe, str(tmp_path / "run")).plan.run).metrics()
    first = next(line for line in lines if line["kind"] == "evaluate")
    ended = [line for line in RunFolder(source).metrics() if line.get("model") == "teacher"][-1]
    assert (first["step"], first["point_iou_ratio"]) == (0, ended["point_iou_ratio"])
    manifest = RunFolder(str(tmp_path / "run")).manifest()
    newest = checkpoints.load(source, 4)
    assert manifest["start"] == {"from": source, "step": 4, "sha256": newest["sha256"]}


@pytest.mark.parametrize("method", ["supervised", "mean_teacher"])
def test_a_linear_probe_moves_the_head_and_not_a_bit_of_the_backbone(walls, source, method, tmp_path):
    trainer = train_alone(_started(walls, source, start__frozen=True, method__name=method), str(tmp_path / "run"))
    before = _deployed(source)
    for name, model in trainer.loop.method.segmentors().items():
        after = model.state_dict()
        assert _is_equal(before, after, before.keys() - set(HEAD)), name
        assert not _is_equal(before, after, HEAD), name
    rated = [parameter for group in trainer.loop.optimizer.param_groups for parameter in group["params"]]
    assert len(rated) == len(HEAD)
    assert load_method(trainer.plan.run)[1].start.frozen


def test_a_teacher_begins_as_its_student_and_two_students_have_their_own_heads(walls, source, tmp_path):
    def begun(method: str):
        recipe = _started(walls, source, method__name=method)
        trainer = Trainer(make_plan(recipe, RunFolder(str(tmp_path / method))), Ranks(), torch.device("cpu"))
        trainer._begin()
        return {name: model.state_dict() for name, model in trainer.loop.method.segmentors().items()}

    before = _deployed(source)
    models = begun("mean_teacher")
    assert all(_is_equal(before, model, before) for model in models.values())
    models = begun("cps")
    assert _is_equal(before, models["student"], before)
    assert _is_equal(before, models["second"], before.keys() - set(HEAD))
    assert not _is_equal(before, models["second"], HEAD)


def test_the_head_stays_fresh_where_it_is_not_asked_for_or_has_other_classes(source):
    model, read = load_method(source)[0].student, read_source(Start(run=source))
    fresh = {name: torch.zeros_like(value) for name, value in model.state_dict().items()}
    for part, names, left_out in (
        ("all", NUSCENES.class_names, []),
        ("backbone", NUSCENES.class_names, HEAD),
        ("all", ("barrier", *NUSCENES.class_names[1:-1], "lamp"), HEAD),
    ):
        model.load_state_dict(fresh)
        assert begin_with(model, read, Start(run=source, part=part), names) == left_out
        after = model.state_dict()
        assert all(
            torch.equal(value, fresh[name] if name in left_out else read.weights[name]) for name, value in after.items()
        )


def test_a_run_that_goes_on_does_not_start_again_and_needs_its_source_no_more(walls, source, tmp_path):
    copy, run = str(tmp_path / "copy"), str(tmp_path / "run")
    shutil.copytree(source, copy)
    recipe = _started(walls, copy)
    whole = _deployed(train_alone(recipe, str(tmp_path / "whole")).plan.run)
    train_alone(recipe, run)
    for folder in ("step_00000004", "step_00000003"):
        assert Path(run, "checkpoints", folder).exists()
    shutil.rmtree(Path(run, "checkpoints", "step_00000004"))
    shutil.rmtree(copy)
    train_alone(recipe, run)
    assert _is_equal(whole, _deployed(run), whole)


def test_a_file_of_weights_or_a_checkpoint_starts_as_well(walls, source, tmp_path):
    weights = _deployed(source)
    safetensors.torch.save_file(weights, tmp_path / "model.safetensors")
    state = Path(source, "checkpoints", "step_00000004", checkpoints.FILE)
    for file in (tmp_path / "model.safetensors", state):
        found = read_source(Start(file=str(file)))
        assert _is_equal(weights, found.weights, weights)
        assert len(found.sha256) == 64
    recipe = override(walls_recipe(walls), {"start": {"file": str(tmp_path / "model.safetensors")}})
    assert train_alone(recipe, str(tmp_path / "run")).loop.step == 4


def test_what_cannot_start_says_why(walls, source, tmp_path):
    def refused(message: str, **changes) -> None:
        with pytest.raises((DataError, RunError), match=message):
            train_alone(_started(walls, source, **changes), str(tmp_path / "run"))

    refused(r"no recipe.yaml in .*nothing|has no checkpoint yet", start__run=str(tmp_path / "nothing"))
    refused(r"does not fit: \d+ of \d+ weights of the backbone differ, such as .* there and", model__width_factor=0.25)
    (tmp_path / "torn.safetensors").write_bytes(b"torn")
    safetensors.torch.save_file({"other": torch.zeros(1)}, tmp_path / "other.safetensors")
    refused("is no .safetensors file", start__run="", start__file=str(tmp_path / "torn.safetensors"))
    refused("holds no weight of this model", start__run="", start__file=str(tmp_path / "other.safetensors"))
    refused(
        "no checkpoint file at .*absent.safetensors", start__run="", start__file=str(tmp_path / "absent.safetensors")
    )
    assert not (tmp_path / "run" / "recipe.yaml").exists()


def test_recipes_of_starts(walls, source):
    with pytest.raises(RecipeError, match=r"give either run \(a run folder\) or file"):
        _started(walls, source, start__file="x.safetensors")
    with pytest.raises(RecipeError, match=r"leave train.norm_batches out"):
        _started(walls, source, start__frozen=True, train__norm_batches=2)
    fresh, tuned = walls_recipe(walls, seed=7), _started(walls, source)
    assert len({fresh.fingerprint, tuned.fingerprint, _started(walls, source, start__frozen=True).fingerprint}) == 3


def test_the_head_may_learn_faster_than_the_backbone(walls, source, tmp_path):
    recipe = _started(walls, source, start__head_lr_factor=10.0, optim__schedule="constant", optim__lr=0.001)
    trainer = Trainer(make_plan(recipe, RunFolder(str(tmp_path / "run"))), Ranks(), torch.device("cpu"))
    backbone, head = trainer.loop.optimizer.param_groups
    assert (backbone["lr"], head["lr"]) == (0.001, pytest.approx(0.01))
    assert [tuple(parameter.shape) for parameter in head["params"]] == [
        tuple(_deployed(source)[name].shape) for name in HEAD
    ]


def test_a_deeper_source_is_not_cut_short():
    def network(depth: int):
        recipe = schema.Recipe(model=schema.MinkUNet(depth=depth, width_factor=0.125, voxel_size_m=1.0))
        return build_segmentor(recipe, resolve_sensor(recipe.data), NUSCENES.num_classes)

    weights = network(34).state_dict()
    model, start = network(18), Start(run="deep", part="backbone")
    surplus = len(weights) - len(model.state_dict())
    with pytest.raises(RunError, match=rf"deep does not fit: {surplus} weights of the source's backbone.*take model"):
        begin_with(model, Source("deep", 0, "", weights, None), start, NUSCENES.class_names)
    own = network(18).state_dict()
    distilled = {**own, "projection.weight": torch.zeros(1), "projection.bias": torch.zeros(1)}
    left_out = begin_with(model, Source("own", 0, "", distilled, None), start, NUSCENES.class_names)
    assert all(map(model.is_of_head, left_out))
    assert _is_equal(own, model.state_dict(), own.keys() - set(left_out))
