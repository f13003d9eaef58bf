"""A run of method nerf whose segments are never wrong: each is what most of its pixels are in the world's label images.

`python -m tests.bench.never_wrong_segments RECIPE FOLDER`, otherwise as `tests.bench.runs`, with ``method.log_truth``.
A ceiling: what better pseudo-labels of the same segments could still give. The gate of opacity stays, so that the
pixels that learn are those the method itself could teach.
"""

import sys
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import torch
from torch.nn.functional import one_hot

from ray_lidarseg.geometry.rays import LIDAR
from ray_lidarseg.geometry.rendering import Rendered
from ray_lidarseg.methods import nerf
from ray_lidarseg.methods.segment_labels import SegmentLabels, segment_labels
from ray_lidarseg.recipe.load import load_recipe
from ray_lidarseg.recipe.schema import Recipe
from ray_lidarseg.sample import RayBatch
from ray_lidarseg.types import IGNORE, RAY_CAMERA, RAY_SEGMENT, RAY_TRUTH
from tests.bench.ledger import Row
from tests.bench.runs import train_here


def train_never_wrong_segments(recipe: Recipe, folder: Path) -> Row:
    """As ``tests.bench.runs.train_here``, with the truth in place of what is rendered."""
    with patch.object(nerf.NeRF, "_of_pixels", of_truth):
        return train_here(recipe, folder)


def of_truth(method: nerf.NeRF, judge: Rendered, rays: RayBatch) -> SegmentLabels:
    """The majority's class for all opaque pixels of each segment; one whose pixels have no class gets none."""
    truth, is_pixel = rays.extras[RAY_TRUTH], rays.extras[RAY_CAMERA] != LIDAR
    is_known = is_pixel & (truth != IGNORE)
    votes = one_hot(torch.where(is_known, truth, 0), method.student.num_classes).float()
    groups = nerf._groups(rays.extras[RAY_SEGMENT], rays.scan_idx)
    told = segment_labels(votes, groups, is_known, entropy_threshold=torch.inf)
    is_taught = is_pixel & (judge.opacity >= method.recipe.min_opacity)
    return replace(told, of_members=torch.where(is_taught, told.of(groups), IGNORE))


if __name__ == "__main__":
    train_never_wrong_segments(load_recipe(sys.argv[1]), Path(sys.argv[2]))
