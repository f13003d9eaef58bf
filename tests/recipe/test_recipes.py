"""The built-in recipes: one a backbone and data set; with two flags they give each published setting."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import cv2
import pytest
import torch
from pyarrow import fs

from ray_lidarseg.datasets import nuscenes, semantickitti
from ray_lidarseg.datasets.catalog import write_catalog
from ray_lidarseg.datasets.decode import decode
from ray_lidarseg.datasets.entries import dataset_named
from ray_lidarseg.datasets.prepared_frames import PreparedFrames
from ray_lidarseg.datasets.sensor import resolve_sensor
from ray_lidarseg.datasets.shards import write_shard
from ray_lidarseg.datasets.splits import make_split
from ray_lidarseg.datasets.stream import TrainSteps
from ray_lidarseg.errors import RecipeError
from ray_lidarseg.methods.build import build_method
from ray_lidarseg.recipe.former_names import arguments_now
from ray_lidarseg.recipe.load import builtin_recipes, load_recipe, override, with_method
from ray_lidarseg.recipe.schema import Recipe
from ray_lidarseg.sample import PointBatch
from ray_lidarseg.synthetic import nuscenes_writer, semantickitti_writer
from ray_lidarseg.synthetic.options import with_options
from ray_lidarseg.synthetic.presets import PRESETS
from ray_lidarseg.synthetic.scene import Scene
from ray_lidarseg.training.loop import Ranks, StepLoop
from ray_lidarseg.types import IMAGE_FEATURES, IMAGE_SEGMENT, LANGUAGE_LOGITS

METHODS = ("lasermix", "lasermix_pp")
BACKBONES = ("fidnet", "cylinder3d", "minkunet", "spvcnn")
DATASETS = ("nuscenes", "semantickitti")
PUBLISHED = json.loads(Path(__file__).with_name("published_fingerprints.json").read_text())
"""Former names to fingerprints, from commit 6209cd2, when there was a recipe for each method and labelled share. A
fingerprint is a digest of everything but the name, the workers and the rhythm of logging and checkpoints."""

STARTED = [("lasermix", model, data) for model in BACKBONES for data in (*DATASETS, "scribblekitti")]
STARTED += [("lasermix_pp", model, "nuscenes") for model in BACKBONES]
EVIDENCE_DIM = 8
LOCAL = fs.LocalFileSystem()
TINY_MODELS = {
    "fidnet": {"model.height_px": 16, "model.width_px": 64, "model.width_factor": 0.125, "model.blocks": [1, 1, 1, 1]},
    "minkunet": {"model.depth": 14, "model.width_factor": 0.125, "model.voxel_size_m": 1.0},
    "spvcnn": {"model.depth": 14, "model.width_factor": 0.125, "model.voxel_size_m": 1.0},
    "cylinder3d": {"model.grid": [40, 30, 10], "model.width_factor": 0.125},
}
TINY = {
    "split.ratio": 0.5,
    "train.steps": 3,
    "train.labelled_per_step": 1,
    "train.unlabelled_per_step": 1,
    "workers.num_workers": 1,
    "data.evidence_dim": EVIDENCE_DIM,
}


def _flags(former: str) -> dict[str, str]:
    """The arguments of ``load_recipe`` that a former name's message tells people to give."""
    name, *flags = arguments_now(former).split()
    return {
        "path": name,
        **{flag.removeprefix("--"): value for flag, value in zip(flags[::2], flags[1::2], strict=True)},
    }


def test_the_grid_of_published_settings_is_whole():
    grid = {
        f"{method}-{model}-{data}-{percent}pct"
        for method in METHODS
        for model in BACKBONES
        for data in (*DATASETS, "scribblekitti")
        for percent in (1, 10, 20, 50)
    }
    images = {f"images-lasermix-cityscapes-1of{part}" for part in (2, 4, 8, 16)} | {"images-lasermix-world"}
    assert set(PUBLISHED) == grid | images | {"three-scans"}  # the demo is ours to tune
    assert len(builtin_recipes()) == 15


CORRECTED = {"method.ema_buffers": "average", "method.cross_entropy_over": "known", "optim.eps": 1e-8}
"""What the recipes of that commit had where the authors have something else."""


@pytest.mark.parametrize("former", PUBLISHED)
def test_flags_give_each_published_setting(former):
    recipe = load_recipe(**_flags(former)) if arguments_now(former) else load_recipe(former)
    assert override(recipe, CORRECTED).fingerprint == PUBLISHED[former]


@pytest.mark.parametrize("name", [f"{backbone}-{data}" for backbone in BACKBONES for data in DATASETS])
def test_teacher_loss_and_optimiser_are_the_authors(name):
    recipe = load_recipe(name)
    assert recipe.method.ema_buffers == "own"
    assert recipe.method.cross_entropy_over == ("all" if "cylinder3d" in name else "known")
    assert recipe.optim.eps == (5e-6 if "fidnet" in name else 1e-8)


@pytest.mark.parametrize("former", [name for name in PUBLISHED if name not in builtin_recipes()])
def test_a_former_name_says_what_to_write_now(former):
    with pytest.raises(RecipeError, match=f"recipe {former} is now said with flags: {arguments_now(former)}"):
        load_recipe(former)


@pytest.mark.parametrize("backbone", BACKBONES)
@pytest.mark.parametrize("data", DATASETS)
def test_a_recipe_is_what_its_name_says(backbone, data):
    recipe, text = load_recipe(f"{backbone}-{data}"), builtin_recipes()[f"{backbone}-{data}"].read_text()
    assert (recipe.name, recipe.model.name, recipe.data.dataset) == (f"{backbone}-{data}", backbone, data)
    assert (recipe.method.name, recipe.split.ratio, recipe.data.evidence) == ("lasermix", 0.1, "")
    assert (recipe.workers.num_workers, recipe.workers.use_gpu, recipe.workers.loader_processes) == (8, "yes", 0)
    assert recipe.train.checkpoint_every == recipe.train.evaluate_every
    comment = " ".join(line.lstrip("# ") for line in text.splitlines() if line[0] == "#")
    assert "authors" in comment
    assert ("--labels scribbles" in comment) == (data == "semantickitti")


@pytest.mark.parametrize("backbone", BACKBONES)
@pytest.mark.parametrize("data", DATASETS)
def test_lasermix_pp_is_lasermix_with_its_own_keys_at_their_defaults(backbone, data):
    plain, more = (load_recipe(f"{backbone}-{data}", method=method, labels="20%") for method in METHODS)
    assert with_method(more, "lasermix").method == plain.method
    assert more.method == with_method(plain, "lasermix_pp").method
    assert (plain.data.evidence, more.data.evidence) == ("", "auto")
    for section in ("split", "augment", "model", "optim", "train", "workers"):
        assert getattr(more, section) == getattr(plain, section)


def test_authors_values_of_their_released_configurations():
    """LaserMix's code: thresholds, areas, consistency, Lovász, steps and scans of a step."""
    values = {}
    for name in ("cylinder3d-nuscenes", "cylinder3d-semantickitti", "minkunet-semantickitti"):
        recipe = load_recipe(name)
        method, train = recipe.method, recipe.train
        values[name] = (method.confidence, method.num_areas, method.consistency_weight, method.lovasz_weight)
        values[name] += (train.steps, train.labelled_per_step)
    assert values == {
        "cylinder3d-nuscenes": (0.95, (3, 4, 5, 6), 500.0, 2.0, 60_000, 16),
        "cylinder3d-semantickitti": (0.9, (4, 5, 6, 7, 8), 250.0, 3.0, 45_000, 8),
        "minkunet-semantickitti": (0.9, (3, 4, 5, 6), 200.0, 0.0, 25_000, 16),
    }
    model = load_recipe("cylinder3d-nuscenes").model
    assert (model.grid, model.height_m, model.width_factor) == ((240, 180, 20), (-4.0, 2.0), 1.0)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory) -> Callable[[str], PreparedFrames]:
    """A few synthetic key-frames in each data set's own format, indexed and decoded as ``prepare`` does."""
    cv2.setNumThreads(1)
    folders = {data: tmp_path_factory.mktemp(data) for data in ("nuscenes", "kitti")}
    preset = with_options(PRESETS["tiny"], {"columns": 120, "frames": 4, "train_scenes": 1, "val_scenes": 1})
    scenes = [Scene(preset, 0, index) for index in range(2)]
    rows = [nuscenes_writer.write_scene(folders["nuscenes"], scene) for scene in scenes]
    nuscenes_writer.write_tables(folders["nuscenes"], preset, 0, rows)
    options = {"columns": 120, "frames": 4, "image_width_px": 64, "train_scenes": 1, "val_scenes": 1}
    semantickitti_writer.write_scene(folders["kitti"], Scene(with_options(PRESETS["kitti"], options), 0, 0))
    found = {
        "nuscenes": nuscenes.index(str(folders["nuscenes"])),
        "semantickitti": semantickitti.index(str(folders["kitti"])),
        "scribblekitti": semantickitti.index(str(folders["kitti"]), "scribbles"),
    }

    def frames_of(data: str, frames) -> PreparedFrames:
        folder = str(tmp_path_factory.mktemp(f"prepared-{data}"))
        write_shard(LOCAL, folder, [decode(frame, lambda uri: Path(uri).read_bytes()) for frame in frames])
        return PreparedFrames(LOCAL, folder, write_catalog(LOCAL, folder))

    shards = {data: frames_of(data, frames) for data, frames in found.items()}
    return shards.__getitem__


def _tiny(method: str, backbone: str, data: str) -> Recipe:
    recipe = load_recipe(f"{backbone}-{data.replace('scribble', 'semantic')}", method=method)
    return override(recipe, {**TINY, **TINY_MODELS[recipe.model.name]})


def _with_evidence(scan: PointBatch, num_classes: int) -> PointBatch:
    """About every second point is paired, with a random feature."""
    generator = torch.Generator().manual_seed(len(scan))
    features = torch.nn.functional.normalize(torch.randn(9, EVIDENCE_DIM, generator=generator))
    segments = {
        IMAGE_FEATURES: features.half(),
        LANGUAGE_LOGITS: torch.rand(9, num_classes, generator=generator).half(),
    }
    number = torch.arange(len(scan)) % 9 * (torch.arange(len(scan)) % 2)
    return replace(scan, extras={IMAGE_SEGMENT: number}, segments=segments)


@pytest.mark.parametrize(("method_name", "backbone", "data"), STARTED)
def test_it_starts_on_data_of_its_format(method_name, backbone, data, prepared):
    recipe, frames = _tiny(method_name, backbone, data), prepared(data)
    sensor = resolve_sensor(recipe.data)
    num_classes = dataset_named(recipe.data.dataset).taxonomy.num_classes
    steps = TrainSteps(frames, make_split(frames.catalog, recipe.split), recipe, sensor)
    torch.manual_seed(recipe.seed)
    method = build_method(recipe, sensor, num_classes)
    before = {name: value.clone() for name, value in method.student.state_dict().items()}
    loop = StepLoop(method, recipe, torch.device("cpu"), Ranks())
    for step in range(2):
        batches = steps[step]
        if method.extras:
            batches = [tuple(_with_evidence(scan, num_classes) for scan in pair) for pair in batches]
        values = loop.one_step(batches)
        assert values["loss_total"].isfinite()
        assert values["loss_cross_entropy"] > 0
    assert loop.skipped_steps == 0
    moved = [name for name, value in method.student.state_dict().items() if not torch.equal(value, before[name])]
    assert len(moved) > 0.9 * len(before)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("train.steps=true", "expected a number, got true"),
        ("optim.lr=no", "expected a number, got false"),
        ("name=../../x", "expected a name that a folder can have"),
        ("name=..", "expected a name that a folder can have"),
    ],
)
def test_values_that_would_mean_something_else_are_refused(change, message):
    with pytest.raises(RecipeError, match=message):
        load_recipe("demo", [change])
