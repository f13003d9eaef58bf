from pathlib import Path

import pytest
import yaml

from ray_lidarseg.datasets import ontology_files
from ray_lidarseg.datasets.entries import dataset_of
from ray_lidarseg.datasets.parquet_files import parquet_bytes
from ray_lidarseg.datasets.sensor import resolve_sensor
from ray_lidarseg.datasets.shards import keyframe_table
from ray_lidarseg.errors import DataError, RecipeError
from ray_lidarseg.recipe.load import override, parse_recipe
from ray_lidarseg.recipe.ontology import Ontology, parse_ontology
from ray_lidarseg.recipe.schema import Data, Recipe
from ray_lidarseg.sample import Keyframe
from ray_lidarseg.storage.files import write_bytes
from ray_lidarseg.training import completion


def ontology(**changes: object) -> Ontology:
    content = {
        "name": "acme",
        "classes": [{"name": "car", "raw_ids": [10]}, {"name": "road", "raw_ids": [40]}],
        "absent_class": "zero",
        "sensor": {
            "num_beams": 16,
            "fov_up_deg": 15,
            "fov_down_deg": -15,
            "min_range_m": 1,
            "max_range_m": 100,
            "intensity": "none",
        },
    }
    return parse_ontology(yaml.safe_dump({**content, **changes}))


def test_words_and_colours_may_change_and_what_labels_mean_may_not(tmp_path: Path) -> None:
    folder = str(tmp_path)
    ontology_files.keep(ontology(), folder)
    car = {"name": "car", "raw_ids": [10], "synonyms": ["van"], "colour": [1, 2, 3]}
    reworded = ontology(classes=[car, {"name": "road", "raw_ids": [40]}])
    ontology_files.keep(reworded, folder)
    assert ontology_files.of_prepared(folder) == reworded
    with pytest.raises(DataError, match="prepared with another ontology"):
        ontology_files.keep(ontology(classes=[{**car, "raw_ids": [11]}, {"name": "road", "raw_ids": [40]}]), folder)


def manifest_recipe(prepared: Path | str) -> Recipe:
    return override(Recipe(), {"data.dataset": "manifest", "data.prepared": str(prepared)})


def test_the_index_file_carries_it(tmp_path: Path) -> None:
    table = keyframe_table([Keyframe("a", "manifest", "s", "train", 0, "a.bin")])
    for name, content in (("with", ontology_files.attach(table, ontology())), ("without", table)):
        write_bytes(str(tmp_path / f"{name}.parquet"), parquet_bytes(content, 10))
    assert ontology_files.of_index(str(tmp_path / "with.parquet")) == ontology()
    assert ontology_files.of_index(str(tmp_path / "without.parquet")) is None


def test_the_prepared_folder_keeps_one(tmp_path: Path) -> None:
    folder = str(tmp_path)
    ontology_files.keep(None, folder)
    assert ontology_files.of_prepared(folder) is None
    ontology_files.keep(ontology(), folder)
    ontology_files.keep(ontology(), folder)
    assert ontology_files.of_prepared(folder) == ontology()
    for other in (ontology(name="other"), None):
        with pytest.raises(DataError, match="prepared with another ontology"):
            ontology_files.keep(other, folder)


def test_the_recipe_takes_it_and_everything_follows_from_the_recipe_alone(tmp_path: Path) -> None:
    ontology_files.keep(ontology(), str(tmp_path))
    complete = completion.complete_ontology(manifest_recipe(tmp_path))
    assert completion.complete_ontology(complete) == complete
    stored = parse_recipe(complete.to_yaml())
    assert stored.fingerprint == complete.fingerprint
    assert dataset_of(stored.data).taxonomy.class_names == ("car", "road")
    assert resolve_sensor(stored.data).num_beams == 16
    assert dataset_of(stored.data).absent == "zero"
    assert dataset_of(stored.data).taxonomy.name == "acme"


def test_recipes_of_built_in_data_sets_stay_as_they_are(tmp_path: Path) -> None:
    recipe = override(Recipe(), {"data.prepared": str(tmp_path)})
    assert completion.complete_ontology(recipe) is recipe
    assert dataset_of(recipe.data).taxonomy.name == "nuscenes"
    assert [dataset_of(Data(dataset=name)).absent for name in ("nuscenes", "semantickitti")] == ["skip", "zero"]


def test_what_does_not_belong_together_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"holds no ontology.json: write it with `ray-lidarseg index manifest"):
        completion.complete_ontology(manifest_recipe(tmp_path))
    ontology_files.keep(ontology(), str(tmp_path))
    own = ontology(name="other").model_dump(mode="json")
    with pytest.raises(RecipeError, match=r"data\.ontology is not that of"):
        completion.complete_ontology(override(manifest_recipe(tmp_path), {"data.ontology": own}))
    with pytest.raises(RecipeError, match=r"data\.ontology is for own logs: nuscenes brings its own"):
        completion.complete(override(Recipe(), {"data.ontology": own}))
    with pytest.raises(DataError, match=r"data\.dataset=manifest needs data.ontology"):
        resolve_sensor(Data(dataset="manifest"))


def test_shards_of_other_classes_are_refused(tmp_path: Path) -> None:
    run_data = Data(dataset="manifest", ontology=ontology())
    ontology_files.check_classes(run_data, str(tmp_path))
    ontology_files.keep(ontology(classes=[{"name": "tree", "raw_ids": [1]}]), str(tmp_path))
    with pytest.raises(DataError, match=r"has the classes \['tree'\], the run predicts \['car', 'road'\]"):
        ontology_files.check_classes(run_data, str(tmp_path))


def test_the_recipes_sensor_overrides_the_ontologys() -> None:
    data = Data(dataset="manifest", ontology=ontology(), sensor={"num_beams": 32})  # type: ignore[arg-type]
    assert resolve_sensor(data).num_beams == 32
