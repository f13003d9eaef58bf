"""The run whose teacher is never wrong."""

from ray_lidarseg.recipe.load import override
from ray_lidarseg.training.run_folder import RunFolder
from tests.bench.never_wrong import train_never_wrong
from tests.bench.runs import train_here
from tests.training.prepared_walls import walls_recipe, write_walls


def test_it_learns_from_the_truth_where_the_teacher_has_no_say(tmp_path):
    unsure = {"method.name": "lasermix", "method.confidence": 1.0, "train.unlabelled_per_step": 2}
    recipe = override(walls_recipe(write_walls(str(tmp_path / "prepared"))), unsure)
    told, taught = tmp_path / "told", tmp_path / "taught"
    train_never_wrong(recipe, told)
    train_here(recipe, taught)  # after it: nothing of the first stays behind
    kept = {
        folder.name: [
            line["pseudo_keep_ratio"] for line in RunFolder(str(folder)).metrics() if "pseudo_keep_ratio" in line
        ]
        for folder in (told, taught)
    }
    assert set(kept["taught"]) == {0.0}
    assert min(kept["told"]) > 0.9
