"""A LaserMix run whose teacher is never wrong: pseudo-labels are the labels that the run may not see.

`python -m tests.bench.never_wrong RECIPE FOLDER`, otherwise as `tests.bench.runs`. A ceiling: all that better
pseudo-labels could still give.
"""

import sys
from pathlib import Path
from unittest.mock import patch

import torch

from ray_lidarseg.batches import PointBatch
from ray_lidarseg.methods.lasermix import LaserMix
from ray_lidarseg.methods.method import Losses
from ray_lidarseg.recipe.load import load_recipe
from ray_lidarseg.recipe.schema import Recipe
from tests.bench.ledger import Row
from tests.bench.runs import train_here

_step = LaserMix.step


def train_never_wrong(recipe: Recipe, folder: Path) -> Row:
    """As ``tests.bench.runs.train_here``, with the truth in place of the teacher's labels."""
    # the stream hides the labels of its second half by this one call
    with patch.object(PointBatch, "unlabelled", lambda batch: batch), patch.object(LaserMix, "step", _told_step):
        return train_here(recipe, folder)


def _told_step(
    method: LaserMix, labelled: PointBatch, unlabelled: PointBatch, progress: float, generator: torch.Generator
) -> Losses:
    with patch.object(method.labeller, "forward", lambda *_: unlabelled.labels):
        return _step(method, labelled, unlabelled, progress, generator)


if __name__ == "__main__":
    train_never_wrong(load_recipe(sys.argv[1]), Path(sys.argv[2]))
