"""The verbs on real SemanticKITTI scans of 120,000 points, and semi-supervised training with every backbone.

One backbone trains on Ray, the others in this process: what Ray adds does not depend on the backbone.
"""

import pytest

from ray_lidarseg.index import index
from ray_lidarseg.prepare import prepare
from ray_lidarseg.recipe.load import load_recipe, override
from ray_lidarseg.train import train
from ray_lidarseg.training.run_folder import RunFolder
from ray_lidarseg.training.trainer import train_alone

pytestmark = pytest.mark.ray
SMALLER = {
    "fidnet": {"model.width_factor": 0.125},
    "minkunet": {"model.width_factor": 0.125, "model.voxel_size_m": 0.2},
    "spvcnn": {"model.width_factor": 0.125, "model.voxel_size_m": 0.2},
    "cylinder3d": {"model.width_factor": 0.125},
}
"""By backbone: as published, but of a size that two CPU cores train in seconds."""
ON_RAY = "minkunet"
STEPS = 2
ONE_OF_EACH = {
    "split.ratio": 0.5,  # three scans: one labelled, one not, one to validate on
    "method.consistency_weight": 1.0,
    "method.confidence": 0.0,  # else an untrained teacher labels nothing
    "train.steps": STEPS,
    "train.evaluate_every": STEPS,
    "train.checkpoint_every": STEPS,
    "train.log_every": 1,
    "train.labelled_per_step": 1,
    "train.unlabelled_per_step": 1,
    "workers.num_workers": 1,
    "workers.use_gpu": "no",
}


@pytest.fixture(scope="module")
def real(local_ray, samples, tmp_path_factory) -> str:
    """The samples as `index` and `prepare` bring them in."""
    folder = tmp_path_factory.mktemp("kitti")
    index("semantickitti", str(samples / "semantickitti_seq00"), str(folder / "index.parquet"))
    prepare(str(folder / "index.parquet"), str(folder / "prepared"))
    return str(folder / "prepared")


@pytest.mark.parametrize("backbone", SMALLER)
def test_every_backbone_learns_from_labelled_and_unlabelled_real_scans(backbone, real, tmp_path):
    published = load_recipe(f"{backbone}-semantickitti")
    where = {"data.prepared": real, "data.val_frames": ["00/000002"]}
    recipe = override(published, {**where, **ONE_OF_EACH, **SMALLER[backbone]})
    run = RunFolder(str(tmp_path / "run"))
    (train if backbone == ON_RAY else train_alone)(recipe, run.uri)
    lines = run.metrics()
    steps = [line for line in lines if line["kind"] == "train"]
    assert [line["step"] for line in steps] == [1, 2]
    assert all(line["loss_mix_cross_entropy"] > 0 for line in steps)
    assert steps[-1]["loss_consistency"] > 0  # a teacher with batch statistics of its own begins as the student's equal
    assert all(0 < line["pseudo_keep_ratio"] <= 1 for line in steps)
    assert steps[-1]["skipped_steps"] == 0
    scores = {line["model"]: line["point_miou_ratio"] for line in lines if line["kind"] == "evaluate"}
    assert scores.keys() == {"student", "teacher"}
    assert all(0 <= miou <= 1 for miou in scores.values())
    assert run.manifest()["split"]["num_labelled"] == run.manifest()["split"]["num_unlabelled"] == 1
