"""Geometry computed ahead gives the same steps, and spares a device what it would have been asked."""

from collections.abc import Iterator

import pytest
import torch

from ray_lidarseg.datasets.prepared_frames import PreparedFrames
from ray_lidarseg.datasets.sensor import resolve_sensor
from ray_lidarseg.datasets.splits import make_split
from ray_lidarseg.datasets.stream import TrainSteps
from ray_lidarseg.models.minkunet import MinkUNet
from ray_lidarseg.recipe.load import override
from ray_lidarseg.recipe.schema import Recipe
from ray_lidarseg.training.host_geometry import RepresentedSteps, foreseen
from ray_lidarseg.training.loading import loaded
from ray_lidarseg.training.loop import StepLoop
from tests.golden import series
from tests.gpu.pretend_device import Counts, pretending
from tests.gpu.test_pretend_device import _loop

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def frames(tmp_path_factory: pytest.TempPathFactory) -> PreparedFrames:
    return series._scan_frames(str(tmp_path_factory.mktemp("prepared")))


def _recipe(method: str, model: str) -> Recipe:
    return override(Recipe(), series._settings(method, model))


def _stream(loop: StepLoop, frames: PreparedFrames) -> TrainSteps:
    recipe, method = loop.recipe, loop.method
    reads = {"with_unlabelled": method.uses_unlabelled, "extras": method.extras, "rays": method.rays}
    return TrainSteps(frames, make_split(frames.catalog, recipe.split), recipe, resolve_sensor(recipe.data), **reads)


def _ahead(loop: StepLoop, frames: PreparedFrames) -> RepresentedSteps:
    return RepresentedSteps(_stream(loop, frames), loop.recipe, resolve_sensor(loop.recipe.data))


def _losses(loop: StepLoop, batches: Iterator) -> list[dict[str, float]]:
    return [{name: float(value.cpu()) for name, value in loop.one_step(step).items()} for step in batches]


@pytest.mark.parametrize(
    ("method", "model", "processes"),
    [
        ("supervised", "fidnet", 0),
        ("lasermix", "minkunet", 0),
        ("lasermix", "spvcnn", 0),
        ("lasermix", "cylinder3d", 0),
        ("mean_teacher", "minkunet", 1),
    ],
)
def test_losses_are_those_of_geometry_in_the_step(method, model, processes, frames):
    plain, ahead = (_loop(_recipe(method, model), "cpu") for _ in range(2))
    expected = _losses(plain, loaded(_stream(plain, frames), range(2), 0, CPU, True))
    assert _losses(ahead, loaded(_ahead(ahead, frames), range(2), processes, CPU, True)) == expected


def test_a_step_of_labels_only_computes_no_geometry(frames, monkeypatch):
    loop = _loop(_recipe("supervised", "minkunet"), "cpu")
    (batches,) = loaded(_ahead(loop, frames), range(1), 0, CPU, True)
    monkeypatch.setattr(MinkUNet, "represent", lambda *_: pytest.fail("represented in the step"))
    assert _losses(loop, iter([batches]))[0]["loss_total"] > 0


def test_other_labels_are_other_cells(frames):
    loop = _loop(_recipe("supervised", "minkunet"), "cpu")
    student = loop.method.student
    batch = _stream(loop, frames)[0][0][0]
    cells = student.represent(batch)
    with foreseen(loop.method, [(batch, cells)]):
        assert student.cells_of(batch) is cells
        assert (student.cells_of(batch.unlabelled()).targets == 255).all()
    assert student.cells_of(batch) is not cells


def test_a_device_waits_less(frames):
    seen: dict[bool, Counts] = {}
    for is_ahead in (False, True):
        with pretending() as counts:
            loop = _loop(_recipe("supervised", "minkunet"), "cuda")
            (batches,) = loaded(_ahead(loop, frames) if is_ahead else _stream(loop, frames), range(1), 0, CPU, True)
            counts.waits.clear()
            counts.launches.clear()
            loop.one_step(batches)
        seen[is_ahead] = counts
    assert seen[True].waits.total() == 1, seen[True].table()  # whether the gradient is finite
    assert seen[True].launches.total() < 0.8 * seen[False].launches.total(), seen[True].table()
