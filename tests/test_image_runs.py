"""Images from files to a trained model: every method, unchanged, on the loop the train verb runs."""

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from pyarrow import fs

from ray_lidarseg.datasets.catalog import write_catalog
from ray_lidarseg.datasets.decode import decode
from ray_lidarseg.datasets.entries import dataset_of
from ray_lidarseg.datasets.prepared_frames import PreparedFrames
from ray_lidarseg.datasets.sensor import resolve_sensor
from ray_lidarseg.datasets.shards import write_shard
from ray_lidarseg.datasets.splits import make_split
from ray_lidarseg.datasets.stream import TrainSteps
from ray_lidarseg.errors import DataError
from ray_lidarseg.index import index
from ray_lidarseg.methods.build import build_method
from ray_lidarseg.metrics.scoring import score
from ray_lidarseg.recipe.load import load_recipe, override, with_method
from ray_lidarseg.recipe.schema import Recipe
from ray_lidarseg.sample import Keyframe
from ray_lidarseg.training.loop import Ranks, StepLoop
from ray_lidarseg.types import COLOURS
from ray_lidarseg.validate import validate
from tests.datasets import image_trees

LOCAL = fs.LocalFileSystem()
TINY = {
    "data.image_size": [12, 24],
    "model.width_factor": 0.25,
    "model.num_levels": 3,
    "train.steps": 20,
    "train.labelled_per_step": 2,
    "train.unlabelled_per_step": 2,
    "workers.num_workers": 1,
    "split.ratio": 0.5,
    "optim.lr": 0.01,
}
METHODS = ("lasermix", "mean_teacher", "supervised", "cps", "cutmix_seg", "cbst")
SKY, CAR, ROAD = 23, 26, 7


def picture(number: int) -> tuple[np.ndarray, np.ndarray]:
    """Sky above road with a car somewhere: colours tell them apart. [24, 48] pixels."""
    rng = np.random.default_rng(number)
    labels = np.full((24, 48), SKY, np.uint8)
    labels[10 + number % 5 :] = ROAD
    labels[12:18, 4 + 3 * number % 30 :][:, :10] = CAR
    palette = {SKY: (120, 160, 240), ROAD: (90, 90, 90), CAR: (200, 30, 30)}
    pixels = np.zeros((24, 48, 3))
    for raw, colour in palette.items():
        pixels[labels == raw] = colour
    return (pixels + rng.normal(0, 10, pixels.shape)).clip(0, 255).astype(np.uint8), labels


@pytest.fixture(scope="module")
def rows(tmp_path_factory) -> list[Keyframe]:
    """Index rows of eight images to train on and two to validate on, as the verb writes them."""
    root = tmp_path_factory.mktemp("cityscapes")
    for number in range(10):
        split, city = ("train", "aachen") if number < 8 else ("val", "lindau")
        pixels, labels = picture(number)
        name = f"{city}_000000_{number:06d}"
        image_trees.write_png(root / "leftImg8bit" / split / city / f"{name}_leftImg8bit.png", pixels)
        image_trees.write_png(root / "gtFine" / split / city / f"{name}_gtFine_labelIds.png", labels)
    assert index("cityscapes", str(root), str(root / "index.parquet")) == 10
    with pytest.raises(DataError, match=r"holds images of cityscapes: validate checks scans"):
        validate(str(root / "index.parquet"))
    return [Keyframe.from_row(row) for row in pq.read_table(root / "index.parquet").to_pylist()]


@pytest.fixture(scope="module")
def frames(rows, tmp_path_factory) -> PreparedFrames:
    folder = str(tmp_path_factory.mktemp("prepared"))
    write_shard(LOCAL, folder, [decode(row, lambda uri: Path(uri).read_bytes()) for row in rows])
    return PreparedFrames(LOCAL, folder, write_catalog(LOCAL, folder))


def tiny(method: str) -> Recipe:
    return override(with_method(load_recipe("image_unet-cityscapes"), method), TINY)


def steps_of(frames: PreparedFrames, recipe: Recipe) -> TrainSteps:
    return TrainSteps(frames, make_split(frames.catalog, recipe.split), recipe, resolve_sensor(recipe.data))


@pytest.mark.parametrize("method", METHODS)
def test_a_method_trains_on_images_as_it_is(frames, method):
    recipe = tiny(method)
    torch.manual_seed(0)
    built = build_method(recipe, resolve_sensor(recipe.data), dataset_of(recipe.data).taxonomy.num_classes)
    loop, steps = StepLoop(built, recipe, torch.device("cpu"), Ranks()), steps_of(frames, recipe)
    said = [loop.one_step(steps[step])["loss_cross_entropy"] for step in range(20)]
    assert np.mean(said[-3:]) < 0.7 * np.mean(said[:3])
    assert loop.skipped_steps == 0


def test_scores_count_every_stored_pixel(frames):
    recipe = tiny("lasermix")
    sensor = resolve_sensor(recipe.data)
    torch.manual_seed(0)
    model = build_method(recipe, sensor, 19).student
    val = [frames[number] for number in range(10) if frames.catalog.split[number] == "val"]
    scores = score(model, val, sensor, 19, batch=2)
    assert int(np.sum(scores.point.as_list())) == 2 * 24 * 48
    assert int(np.sum(scores.cell.as_list())) == 2 * 12 * 24


def test_streams_bring_colours_and_a_repeated_image_another_jitter(frames):
    steps = steps_of(frames, override(tiny("lasermix"), {"image_augment.flip_ratio": 0.0}))
    ((labelled, unlabelled),) = steps[0]
    assert labelled.extras[COLOURS].shape == unlabelled.extras[COLOURS].shape == (2 * 12 * 24, 3)
    assert torch.equal(labelled.points[: 12 * 24, :3], labelled.points[12 * 24 :, :3])
    assert not torch.equal(steps[0][0][0].extras[COLOURS], steps[4][0][0].extras[COLOURS])
    assert torch.equal(steps[0][0][0].extras[COLOURS], labelled.extras[COLOURS])


def test_settings_of_images_leave_the_fingerprints_of_scans_alone():
    """A run folder made before images were there must still be recognised."""
    as_then = {"method.ema_buffers": "average", "optim.eps": 1e-8}  # that recipe has the authors' since
    content = override(load_recipe("fidnet-nuscenes", labels="1%"), as_then)
    assert content.fingerprint == "51c4bb90"
    world = load_recipe("image_unet-world")
    assert world.fingerprint != override(world, {"data.image_size": [32, 56]}).fingerprint
    assert world.fingerprint != override(world, {"image_augment.brightness": 0.5}).fingerprint
