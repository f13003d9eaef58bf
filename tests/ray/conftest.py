"""What the Ray tests share: small prepared shards, a recipe that trains in seconds, and one local Ray."""

import os
import shutil
import tempfile
from pathlib import Path

import numpy as np
import pytest
from pyarrow import fs

from ray_lidarseg.datasets.catalog import write_catalog
from ray_lidarseg.datasets.shards import write_shard
from ray_lidarseg.recipe.load import parse_recipe
from ray_lidarseg.recipe.schema import Recipe
from ray_lidarseg.runtime import cluster
from ray_lidarseg.sample import Keyframe
from ray_lidarseg.train import train
from ray_lidarseg.training.run_folder import RunFolder

NUM_TRAIN, NUM_VAL = 8, 3


def scan(seed: int, num_points: int = 900) -> tuple[np.ndarray, np.ndarray]:
    """A road, a sidewalk beside it and a wall, as a spinning LiDAR at 1.8 m height would see them."""
    rng = np.random.default_rng(seed)
    azimuth = rng.uniform(-np.pi, np.pi, num_points)
    range_m = rng.uniform(3.0, 25.0, num_points)
    x, y = range_m * np.cos(azimuth), range_m * np.sin(azimuth)
    is_wall, is_road = y > 12, np.abs(y) < 5
    z = np.where(is_wall, rng.uniform(-1.8, 2.0, num_points), -1.8 + 0.15 * ~is_road)
    intensity = np.where(is_wall, 0.8, np.where(is_road, 0.2, 0.5))
    labels = np.where(is_wall, 14, np.where(is_road, 10, 12))
    return np.stack([x, y, z, intensity], axis=1).astype(np.float32), labels.astype(np.uint8)


def keyframe(index: int, split: str) -> Keyframe:
    """One labelled key-frame of two scenes' worth of scans."""
    points, labels = scan(index)
    name = f"{split}-{index:02d}"
    return Keyframe(
        frame_id=name,
        dataset="nuscenes",
        scene=f"scene-{index % 2}",
        split=split,
        timestamp_us=index * 50_000,
        points_uri=f"{name}.bin",
        labels_uri=f"{name}.label",
        points=points,
        labels=labels,
    )


@pytest.fixture(scope="session")
def prepared(tmp_path_factory) -> str:
    """A folder as `ray-lidarseg prepare` writes it."""
    folder = str(tmp_path_factory.mktemp("prepared"))
    frames = [keyframe(index, "train") for index in range(NUM_TRAIN)]
    frames += [keyframe(100 + index, "val") for index in range(NUM_VAL)]
    local = fs.LocalFileSystem()
    for start in range(0, len(frames), 4):
        write_shard(local, folder, frames[start : start + 4])
    write_catalog(local, folder)
    return folder


@pytest.fixture(scope="session")
def tiny(prepared) -> Recipe:
    """LaserMix with a small FIDNet on two workers, 20 steps."""
    return parse_recipe(
        f"""
        data: {{prepared: {prepared}}}
        split: {{ratio: 0.5}}
        model: {{name: fidnet, height_px: 16, width_px: 64, width_factor: 0.1, blocks: [1, 1, 1, 1]}}
        method: {{name: lasermix, confidence: 0.1, consistency_weight: 1.0}}
        train:
          {{steps: 20, labelled_per_step: 4, unlabelled_per_step: 4, micro_batch: 1, evaluate_every: 10,
           checkpoint_every: 5, log_every: 1}}
        workers: {{num_workers: 2, use_gpu: "no"}}
        """
    )


@pytest.fixture(scope="session")
def undisturbed(local_ray, tiny, tmp_path_factory) -> RunFolder:
    """A run that nothing happened to."""
    return train(tiny, str(tmp_path_factory.mktemp("runs") / "undisturbed"))


@pytest.fixture(scope="session")
def local_ray():
    """A Ray of this session's own, shared by the tests that do not kill it."""
    before = os.environ.get("RAY_TMPDIR")
    folder = tempfile.mkdtemp(prefix="rlt", dir=before or Path(tempfile.gettempdir()))
    os.environ["RAY_TMPDIR"] = folder
    with cluster.connect(4):
        yield
    shutil.rmtree(folder, ignore_errors=True)
    os.environ.pop("RAY_TMPDIR") if before is None else os.environ.update(RAY_TMPDIR=before)
