"""Every method on every model takes a step on the pretended device: no two devices meet, and few waits for it."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ray_lidarseg.datasets.entries import dataset_of
from ray_lidarseg.datasets.prepared_frames import PreparedFrames
from ray_lidarseg.datasets.sensor import resolve_sensor
from ray_lidarseg.datasets.splits import make_split
from ray_lidarseg.datasets.stream import TrainSteps
from ray_lidarseg.foundation.build import build_features, build_masks
from ray_lidarseg.foundation.settings import ClipFeatures, SamMasks, TimmFeatures
from ray_lidarseg.foundation.teachers import as_objects
from ray_lidarseg.losses import cross_entropy
from ray_lidarseg.losses.lovasz import lovasz_softmax
from ray_lidarseg.methods import supervised
from ray_lidarseg.methods.build import build_method
from ray_lidarseg.models.inference import label_frames
from ray_lidarseg.recipe.load import override
from ray_lidarseg.recipe.schema import Recipe
from ray_lidarseg.sparse import torch_backend
from ray_lidarseg.training.loop import Ranks, StepLoop
from tests.bench import launches
from tests.foundation.clip_models import write_clip
from tests.golden import series
from tests.gpu.pretend_device import Counts, pretending

CASES = [
    (method, model)
    for method in series._METHODS
    for model in series._MODELS
    if model != "image_unet" and (method, model) != ("nerf", "fidnet")  # nerf looks through cells in space
] + [("lasermix", "image_unet")]
MOST_WAITS = 50


@pytest.fixture(scope="module")
def frames(tmp_path_factory: pytest.TempPathFactory) -> dict[bool, PreparedFrames]:
    """Prepared scans, and prepared images."""
    make = {False: series._scan_frames, True: series._image_frames}
    return {is_image: write(str(tmp_path_factory.mktemp("prepared"))) for is_image, write in make.items()}


def _recipe(method: str, model: str, **changes: Any) -> Recipe:
    one = {"train.labelled_per_step": 1, "train.unlabelled_per_step": 1}
    return override(Recipe(), {**series._settings(method, model), **one, **changes})


def _loop(recipe: Recipe, device: str) -> StepLoop:
    torch.manual_seed(0)
    method = build_method(recipe, resolve_sensor(recipe.data), dataset_of(recipe.data).taxonomy.num_classes)
    return StepLoop(method.to(device).train(), recipe, torch.device(device), Ranks())


def _steps(loop: StepLoop, frames: dict[bool, PreparedFrames], count: int) -> Iterator[dict[str, float]]:
    recipe, method = loop.recipe, loop.method
    reads = {"with_unlabelled": method.uses_unlabelled, "extras": method.extras, "rays": method.rays}
    read = frames[recipe.model.name == "image_unet"]
    stream = TrainSteps(read, make_split(read.catalog, recipe.split), recipe, resolve_sensor(recipe.data), **reads)
    for step in range(count):
        yield {name: float(value.cpu()) for name, value in loop.one_step(stream[step]).items()}


def _counted(recipe: Recipe, frames: dict[bool, PreparedFrames]) -> tuple[Counts, dict[str, float]]:
    """What the first step does, and says."""
    with pretending() as seen:
        loop = _loop(recipe, "cuda")
        seen.waits.clear()
        seen.launches.clear()
        said = next(_steps(loop, frames, 1))
    del seen.waits["elsewhere"]  # the values' way to this test
    return seen, said


@pytest.mark.parametrize(("method", "model"), CASES)
def test_a_step_is_that_of_a_cpu_and_seldom_waits(method, model, frames):
    recipe = _recipe(method, model)
    seen, said = _counted(recipe, frames)
    assert seen.waits.total() <= MOST_WAITS, seen.table()
    assert said == pytest.approx(next(_steps(_loop(recipe, "cpu"), frames, 1)), rel=1e-3, abs=1e-4)


@pytest.mark.parametrize("most_bytes", [0, 1 << 40])
def test_a_supervised_step_of_minkunet18_is_within_the_limits(most_bytes, monkeypatch):
    """How a layer is computed depends on the size of the scans: all of them gathered, and all of them unfolded."""
    monkeypatch.setattr(torch_backend, "UNFOLDED_BYTES", most_bytes)
    seen = launches.count("minkunet", "supervised", 0.125, "tiny")
    waits, num_launches = launches.LIMITS["minkunet", "supervised"]
    assert 0 < seen.waits.total() <= waits, seen.table()
    assert 0 < seen.launches.total() <= num_launches, seen.table()


@pytest.mark.parametrize(
    ("wrong", "found"),
    [
        (lambda loss: loss * torch.ones(1), "same device, got mul"),
        (lambda loss: loss + torch.zeros(2)[torch.zeros(2, dtype=torch.int64).to(loss.device)].sum(), "got index"),
    ],
)
def test_a_planted_mix_up_of_devices_is_an_error(wrong, found, frames, monkeypatch):
    right = supervised.segmentation_terms
    monkeypatch.setattr(supervised, "segmentation_terms", lambda *args: {k: wrong(v) for k, v in right(*args).items()})
    with pytest.raises(RuntimeError, match=found):
        _counted(_recipe("supervised", "fidnet"), frames)


@pytest.mark.parametrize("plant", [lambda loss: loss.item(), lambda loss: loss[None].tolist(), lambda loss: bool(loss)])
def test_a_planted_wait_is_counted(plant, frames, monkeypatch):
    recipe = _recipe("supervised", "fidnet")
    before, _ = _counted(recipe, frames)
    right = cross_entropy.cross_entropy

    def waits(*args):
        loss = right(*args)
        plant(loss)
        return loss

    monkeypatch.setattr("ray_lidarseg.methods.objective.cross_entropy", waits)
    after, _ = _counted(recipe, frames)
    assert after.waits.total() == before.waits.total() + 1
    line = next(iter(after.waits - before.waits))
    assert line.startswith("methods/objective.py:")


def test_what_counts_as_a_wait():
    """By torch's CUDA kernels: each of these has to know a number of the device, or copies without running behind."""
    with pretending() as seen:
        x = torch.arange(6).to("cuda", non_blocking=True)
        assert seen.waits.total() == 0
        for number, wait in enumerate(
            [
                lambda: x[x > 2],
                lambda: x.unique(),
                lambda: x.bincount(minlength=9),
                lambda: x.repeat_interleave(x),
                lambda: torch.tensor([1.0], device="cuda"),
                lambda: x.new_tensor([1]),
                lambda: x.cpu(),
                lambda: x[[1, 2]],
                lambda: float(x.sum()),
            ],
            start=1,
        ):
            wait()
            assert seen.waits.total() == number
        launched = seen.launches.total()
        _ = x[2:4].view(2, 1).expand(2, 3), x.detach(), x.to("cuda"), torch.empty(3, device="cuda")
        assert seen.launches.total() == launched
        _ = x.sort(), torch.zeros(3, device="cuda"), x > 3
        assert seen.launches.total() == launched + 3
        assert len(x.repeat_interleave(x, output_size=15)) == 15
        assert seen.waits.total() == 9


def test_optimisers_update_all_tensors_at_once_and_gradients_are_those_of_a_cpu():
    layers = [torch.nn.Linear(3, 3) for _ in range(4)]
    with pretending() as seen:
        model = torch.nn.Sequential(*layers).to("cuda")
        optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
        before = [weight.detach().cpu().clone() for weight in model.parameters()]
        model(torch.ones(2, 3).to("cuda")).sum().backward()
        launched = seen.launches.total()
        optimizer.step()
        assert seen.launches.total() == launched + 1
        after = [weight.detach().cpu() for weight in model.parameters()]
        gradients = [weight.grad.cpu() for weight in model.parameters()]
    for old, new, gradient in zip(before, after, gradients, strict=True):
        torch.testing.assert_close(new, old - 0.5 * gradient)


def test_numpy_does_not_see_the_device():
    with pretending():
        with pytest.raises(TypeError, match=r"Use Tensor\.cpu\(\) first"):
            torch.ones(2).to("cuda").numpy()
        assert torch.ones(2).to("cuda").cpu().numpy().tolist() == [1.0, 1.0]


def test_lovasz_leaves_ignored_cells_out_on_the_device_too():
    logits, targets = torch.randn(40, 3), torch.randint(0, 3, (40,))
    targets[::3] = 255
    with pretending() as seen:
        on_device = logits.to("cuda").requires_grad_()
        loss = lovasz_softmax(on_device, targets.to("cuda"))
        loss.backward()
        assert seen.waits.total() == 2  # the copies here
        found = loss.cpu(), on_device.grad.cpu()
    expected = logits.requires_grad_()
    lovasz_softmax(expected, targets).backward()
    torch.testing.assert_close(found, (lovasz_softmax(logits, targets), expected.grad))


@pytest.mark.parametrize("model", ["fidnet", "minkunet", "spvcnn", "cylinder3d"])
def test_predict_labels_as_on_a_cpu(model, frames):
    recipe = _recipe("supervised", model)
    sensor, scans = resolve_sensor(recipe.data), [frames[False][index] for index in (0, 1)]
    student = _loop(recipe, "cpu").method.student
    expected = label_frames(student, scans, sensor)
    with pretending():
        found = label_frames(student.to("cuda"), scans, sensor, device="cuda")
    for got, wanted in zip(found, expected, strict=True):
        assert (got.labels == wanted.labels).mean() > 0.999
        np.testing.assert_allclose(got.confidence, wanted.confidence, atol=1e-4)


def _teacher(kind: str, device: str, folder: Path) -> Any:
    if kind == "sam":
        return build_masks(SamMasks(points_per_side=4, precision="float32"), device)
    if kind == "clip":
        write_clip(folder)
        return build_features(ClipFeatures(checkpoint=f"local-dir:{folder}", precision="float32"), device)
    import timm

    torch.manual_seed(0)
    model = timm.create_model("test_vit", num_classes=0, dynamic_img_size=True)
    torch.save(model.state_dict(), folder / "vit.pth")
    settings = {"model": "test_vit", "checkpoint": str(folder / "vit.pth"), "precision": "float32"}
    return build_features(TimmFeatures(**settings), device)


@pytest.mark.parametrize("kind", ["sam", "clip", "timm"])
def test_teachers_of_prepare_answer_as_on_a_cpu(kind, tmp_path):
    image = np.random.default_rng(0).integers(0, 256, (48, 64, 3)).astype(np.uint8)
    batch = {"image": as_objects([image])}
    (expected,) = next(iter(_teacher(kind, "cpu", tmp_path)(batch).values()))
    with pretending():
        (found,) = next(iter(_teacher(kind, "cuda", tmp_path)(batch).values()))
    if kind == "sam":
        assert (found == expected).mean() > 0.99
    else:  # images are resized as floats on a device, as whole grey levels on a CPU
        assert np.abs(found - expected).max() < 0.05 * np.abs(expected).max()
