"""Prepared shards small enough to train on in a second: two walls at two heights, and the class is the wall."""

import numpy as np
from pyarrow import fs

from ray_lidarseg.datasets.catalog import write_catalog
from ray_lidarseg.datasets.shards import write_shard
from ray_lidarseg.recipe.load import override
from ray_lidarseg.recipe.schema import Recipe
from ray_lidarseg.sample import Keyframe

NUM_TRAIN, NUM_VAL = 4, 2
_TINY = {"method.name": "supervised", "model.width_px": 32, "model.width_factor": 0.125, "model.height_px": 32}
_SHORT = {"train.steps": 4, "train.evaluate_every": 4, "train.checkpoint_every": 1, "train.log_every": 1}
_BATCH = {"train.labelled_per_step": 2, "train.unlabelled_per_step": 2, "split.ratio": 1.0}


def write_walls(folder: str, num_train: int = NUM_TRAIN, lower: int = 3) -> str:
    """Writes the shards and returns their folder.

    Args:
        folder: Where.
        num_train: Training frames; the names of those there are stay the same.
        lower: Class of the lower wall.
    """
    local = fs.LocalFileSystem()
    train = [_keyframe(number, "train", lower) for number in range(num_train)]
    val = [_keyframe(100 + number, "val", lower) for number in range(NUM_VAL)]
    for frame in (*train, *val):
        write_shard(local, folder, [frame])
    write_catalog(local, folder)
    return folder


def walls_recipe(folder: str, **changes: object) -> Recipe:
    """A supervised recipe of four steps on them; changes as ``train__steps=8``."""
    dotted = {key.replace("__", "."): value for key, value in changes.items()}
    return override(Recipe(), {**_TINY, **_SHORT, **_BATCH, "data.prepared": folder, **dotted})


def _keyframe(number: int, split: str, lower: int) -> Keyframe:
    rng = np.random.default_rng(number)
    points = rng.uniform(5, 20, (60, 4)).astype(np.float32)
    points[:30, 2], points[30:, 2] = -2, 1
    labels = np.repeat([lower, 14], 30).astype(np.uint8)
    return Keyframe(f"f{number}", "nuscenes", f"s{number}", split, number, "p", "l", points=points, labels=labels)
