"""The verbs on images: index, prepare, train and evaluate, as they are."""

import numpy as np
import pytest

from ray_lidarseg.evaluate import evaluate
from ray_lidarseg.index import index
from ray_lidarseg.prepare import prepare
from ray_lidarseg.recipe.load import load_recipe, override
from ray_lidarseg.train import train
from tests.datasets import image_trees

pytestmark = pytest.mark.ray
SIZE = (10, 16)


def test_images_go_from_files_to_scores(tmp_path, local_ray):
    labels = np.full(SIZE, 23, np.uint8)
    labels[4:] = 7
    root = image_trees.cityscapes(tmp_path / "cityscapes", count=3, labels=labels)
    index("cityscapes", str(root), str(tmp_path / "index.parquet"))
    prepare(str(tmp_path / "index.parquet"), str(tmp_path / "prepared"))
    tiny = {"data.prepared": str(tmp_path / "prepared"), "data.image_size": [5, 8], "split.ratio": 0.5}
    tiny |= {"model.width_factor": 0.25, "model.num_levels": 2, "train.steps": 4, "train.evaluate_every": 2}
    tiny |= {"train.labelled_per_step": 2, "train.unlabelled_per_step": 2, "workers.num_workers": 2}
    tiny |= {"workers.use_gpu": "no", "workers.loader_processes": 0, "train.checkpoint_every": 4}
    run = train(override(load_recipe("image_unet-cityscapes"), tiny), str(tmp_path / "run"))
    assert {line["frames"] for line in run.metrics() if line["kind"] == "evaluate"} == {3}
    scored = evaluate(run.uri)["models"]["teacher"]
    assert np.sum(scored["point"]["confusion"]) == 3 * SIZE[0] * SIZE[1]
    assert np.sum(scored["cell"]["confusion"]) == 3 * 5 * 8
