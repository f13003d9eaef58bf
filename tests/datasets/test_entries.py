"""Every data set through one door, and one that is added as a file and an entry: listed, prepared and trained on."""

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from pyarrow import fs

from ray_lidarseg.datasets import entries
from ray_lidarseg.datasets.catalog import write_catalog
from ray_lidarseg.datasets.decode import decode
from ray_lidarseg.datasets.entries import DATASETS, check_recipe, dataset_named, dataset_of, entry_named
from ray_lidarseg.datasets.shards import write_shard
from ray_lidarseg.datasets.spec import DatasetSpec
from ray_lidarseg.errors import DataError, RecipeError
from ray_lidarseg.foundation.prompts import vocabulary
from ray_lidarseg.index import index
from ray_lidarseg.methods.build import build_method
from ray_lidarseg.models.build import build_segmentor
from ray_lidarseg.recipe.load import parse_recipe
from ray_lidarseg.recipe.schema import Data
from ray_lidarseg.report.pictures import best_camera, ground_axes
from ray_lidarseg.sample import CameraImage, Keyframe
from ray_lidarseg.training.run_folder import RunFolder
from ray_lidarseg.training.trainer import train_alone
from tests.datasets import toy_dataset


def test_each_entry_says_what_its_classes_are() -> None:
    names = [entry.name for entry in DATASETS]
    assert len(set(names)) == len(names)
    for entry in DATASETS:
        if not isinstance(entry, DatasetSpec):
            continue
        assert entry.taxonomy.name == entry.name
        assert set(entry.words) in (set(), set(entry.taxonomy.class_names))
        assert all(0 <= thing < entry.taxonomy.num_classes for thing in entry.things)


def test_a_mistyped_name_is_answered_with_the_nearest() -> None:
    with pytest.raises(
        DataError, match=r"unknown data set 'nuscens': expected one of nuscenes, .*did you mean 'nuscenes'"
    ):
        entry_named("nuscens")
    with pytest.raises(RecipeError, match=r"data\.dataset: unknown data set 'semantic_kitti': .*mean 'semantickitti'"):
        check_recipe(parse_recipe("data: {dataset: semantic_kitti}"))


def test_own_logs_need_their_ontology() -> None:
    with pytest.raises(DataError, match="data set manifest needs an ontology"):
        dataset_named("manifest")
    with pytest.raises(DataError, match=r"data.dataset=manifest needs data.ontology"):
        dataset_of(Data(dataset="manifest"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("data: {dataset: cityscapes}", "model fidnet does not see cityscapes, which holds images: model image_unet"),
        ("model: {name: image_unet}", "model image_unet does not see nuscenes, which holds LiDAR scans"),
    ],
)
def test_a_model_that_does_not_see_the_data_is_refused(text: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        check_recipe(parse_recipe(text))


def test_a_recipe_that_fits_comes_back() -> None:
    recipe = parse_recipe("{data: {dataset: cityscapes, image_size: [8, 16]}, model: {name: image_unet}}")
    assert check_recipe(recipe) is recipe


RECIPE = """
data: {{dataset: toy, prepared: {prepared}}}
model: {{name: fidnet, height_px: 16, width_px: 32, width_factor: 0.125}}
method: {{name: supervised}}
split: {{ratio: 1.0}}
train: {{steps: 2, evaluate_every: 2, checkpoint_every: 2, log_every: 1, labelled_per_step: 2, unlabelled_per_step: 2}}
workers: {{num_workers: 1, use_gpu: no}}
"""


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> None:
    """One entry, nothing else."""
    monkeypatch.setattr(entries, "DATASETS", (*DATASETS, toy_dataset.SPEC))


def write_toy(root: Path) -> None:
    """A ground at -1.5 m and a wall 10 m ahead."""
    rng = np.random.default_rng(0)
    for drive, count in (("a-train", 4), ("b-val", 1)):
        (root / drive).mkdir(parents=True)
        for number in range(count):
            ground = np.column_stack([rng.uniform(-9, 9, (300, 2)), np.full(300, -1.5), rng.uniform(0, 1, 300)])
            wall = np.column_stack(
                [rng.uniform(-9, 9, 200), np.full(200, 10.0), rng.uniform(-1, 1, (200, 1)), np.ones(200)]
            )
            np.save(root / drive / f"{number:04d}.scan.npy", np.concatenate([ground, wall]).astype(np.float32))
            np.save(root / drive / f"{number:04d}.labels.npy", np.repeat([7, 8, 9], [300, 100, 100]).astype(np.int32))


def test_a_new_data_set_is_a_file_and_an_entry(toy: None, tmp_path: Path) -> None:
    write_toy(tmp_path / "raw")
    listing, prepared = str(tmp_path / "index.parquet"), str(tmp_path / "prepared")
    assert index("toy", str(tmp_path / "raw"), listing) == 5
    frames = [decode(Keyframe.from_row(row)) for row in pq.read_table(listing).to_pylist()]
    assert np.bincount(frames[0].labels).tolist() == [300, 200]
    write_shard(fs.LocalFileSystem(), prepared, frames)
    write_catalog(fs.LocalFileSystem(), prepared)
    run = RunFolder(train_alone(parse_recipe(RECIPE.format(prepared=prepared)), str(tmp_path / "run")).plan.run)
    assert run.is_finished()
    scored = run.metrics()[-1]
    assert (scored["kind"], scored["frames"]) == ("evaluate", 1)
    assert vocabulary("toy").words == ("road", "wall", "house")


def test_what_else_asks_a_data_set_asks_the_new_one(toy: None) -> None:
    cylinder = parse_recipe("{data: {dataset: toy}, model: {name: cylinder3d, width_factor: 0.1}}")
    assert build_segmentor(cylinder, toy_dataset.SPEC.sensor, 2).grid.height_m == (-3.0, 4.0)
    polarmix = parse_recipe(
        "{data: {dataset: toy}, method: {name: polarmix}, model: {name: fidnet, width_factor: 0.1}}"
    )
    assert build_method(polarmix, toy_dataset.SPEC.sensor, 2) is not None
    right, forward = ground_axes(np.array([[1.0, 2.0, 3.0]]), "toy")
    assert (right[0], forward[0]) == (1.0, 2.0)
    cameras = tuple(CameraImage(name, "", np.eye(3), np.eye(4), 0, 1, 1) for name in ("aside", "forward"))
    chosen = best_camera(cameras)
    assert chosen is not None
    assert chosen.name == "forward"
