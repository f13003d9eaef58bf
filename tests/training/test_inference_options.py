import pytest
import torch

from ray_lidarseg.datasets.sensor import resolve_sensor
from ray_lidarseg.errors import RecipeError, RunError
from ray_lidarseg.methods.build import build_method
from ray_lidarseg.models.combined import Combined
from ray_lidarseg.models.knn_vote import KNNVote
from ray_lidarseg.recipe.load import override
from ray_lidarseg.recipe.schema import Recipe
from ray_lidarseg.training import checkpoints
from ray_lidarseg.training.inference_options import PLAIN, InferenceOptions, load_models
from ray_lidarseg.training.run_folder import RunFolder

CPU = torch.device("cpu")
TINY = {"name": "fidnet", "height_px": 8, "width_px": 64, "width_factor": 0.0625, "blocks": [1, 1, 1, 1]}
MINK = {"name": "minkunet", "depth": 14, "width_factor": 0.125, "voxel_size_m": 0.5}


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> dict[str, str]:
    """Run folders of random weights, by name."""
    made = {}
    for name, model, dataset in (
        ("first", TINY, "nuscenes"),
        ("second", TINY, "nuscenes"),
        ("voxels", MINK, "nuscenes"),
        ("other", TINY, "semantickitti"),
        ("blind", TINY, "nuscenes"),
    ):
        changes = {"method.name": "mean_teacher", "model": model, "data.dataset": dataset}
        changes["data.use_intensity"] = name != "blind"
        recipe = override(Recipe(), changes)
        folder = RunFolder(str(tmp_path_factory.mktemp(name)))
        num_classes = 16 if dataset == "nuscenes" else 19
        method = build_method(recipe, resolve_sensor(recipe.data), num_classes)
        state = checkpoints.pack({"step": 3, "method": method.state_dict(), "metrics": ""})
        folder.write("recipe.yaml", recipe.to_yaml().encode())
        folder.write(f"{checkpoints.FOLDER}/{checkpoints.folder_name(3)}/{checkpoints.FILE}", state)
        made[name] = folder.uri
    return made


def test_names_and_digests_tell_numbers_apart(runs):
    assert PLAIN.name == InferenceOptions().name == ""
    options = InferenceOptions(views=4, knn=True, ensemble=(runs["second"],))
    assert options.name == "tta4-knn-ensemble2"
    assert options.weights() == [RunFolder(runs["second"]).checkpoint()["sha256"][:16]]


def test_a_run_of_an_ensemble_has_one_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert InferenceOptions(ensemble=("r",)) == InferenceOptions(ensemble=("./r",))
    assert InferenceOptions(ensemble=("r", "s3://b/r")).ensemble == (str(tmp_path / "r"), "s3://b/r")


def test_without_options_all_models_come_as_they_are(runs):
    models, recipe, step = load_models(runs["first"], "latest", CPU)
    assert list(models) == ["student", "teacher"]
    assert step == 3
    assert recipe.method.deployed == "teacher"


def test_options_are_applied_to_the_model_to_deploy(runs):
    models, _, _ = load_models(runs["first"], "latest", CPU, InferenceOptions(knn=True))
    assert list(models) == ["teacher"]
    assert isinstance(models["teacher"], KNNVote)
    both = InferenceOptions(views=2, knn=True, ensemble=(runs["second"],))
    (combined,) = load_models(runs["first"], "latest", CPU, both)[0].values()
    assert isinstance(combined, Combined)
    assert [type(member) for member in combined.members] == [KNNVote, KNNVote]
    assert combined.num_views == 2
    one, two = (member.model.stem[0][0].weight for member in combined.members)
    assert not torch.equal(one, two)


@pytest.mark.parametrize(
    ("name", "options", "error", "words"),
    [
        ("first", {"views": 9}, RecipeError, "--tta 9: expected 1"),
        ("voxels", {"knn": True}, RecipeError, "model minkunet has none"),
        ("first", {"knn": True, "ensemble": ("voxels",)}, RecipeError, "model minkunet has none"),
        ("first", {"ensemble": ("other",)}, RunError, "predicts other classes"),
        ("first", {"ensemble": ("blind",)}, RunError, "sees intensity and the run it would be averaged with not"),
        ("first", {"ensemble": ("nowhere",)}, RunError, "no recipe.yaml"),
    ],
)
def test_what_does_not_fit_is_refused(runs, name, options, error, words):
    made = InferenceOptions(**{**options, "ensemble": tuple(runs.get(run, run) for run in options.get("ensemble", ()))})
    with pytest.raises(error, match=words):
        made.check(RunFolder(runs[name]).recipe())


def test_images_have_no_views():
    recipe = override(Recipe(), {"model": {"name": "image_unet"}, "data.dataset": "cityscapes"})
    with pytest.raises(RecipeError, match="for a model of images"):
        InferenceOptions(views=2).check(recipe)
