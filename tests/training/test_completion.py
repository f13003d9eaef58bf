import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from pyarrow import fs

from ray_lidarseg.datasets.catalog import write_catalog
from ray_lidarseg.datasets.evidence import TextEmbeddings
from ray_lidarseg.datasets.layers import (
    TEXT_FILE,
    Layer,
    features_columns,
    layer_folder,
    pairs_columns,
    write_layer_catalog,
    write_layer_shard,
)
from ray_lidarseg.datasets.shards import write_shard
from ray_lidarseg.errors import DataError, RecipeError
from ray_lidarseg.recipe.load import override
from ray_lidarseg.recipe.schema import Recipe
from ray_lidarseg.sample import Keyframe
from ray_lidarseg.training import completion
from ray_lidarseg.training.trainer import train_alone
from tests.datasets.walls_with_masks import HEIGHT, WIDTH, camera, keyframe, segments, with_layers

LOCAL = fs.LocalFileSystem()
PAIRS = Layer("pairs", {}, ("masks-0",))
FEATURES = Layer("features", {}, ("masks-0",), feature_dim=2)


def prepared(folder: Path, there: list[str]) -> str:
    frames = [Keyframe(f"f{n}", "nuscenes", "s", "train", n, "p", points=np.ones((1, 4), np.float32)) for n in (0, 1)]
    write_shard(LOCAL, str(folder), frames)
    write_catalog(LOCAL, str(folder))
    columns = {
        "pairs": pairs_columns(np.zeros(1, np.int8), np.zeros((1, 2), np.int16), np.ones(1, np.uint16)),
        "features": features_columns({"CAM": np.ones((1, 2), np.float16)}),
    }
    for layer in (PAIRS, FEATURES):
        path = Path(layer_folder(str(folder), layer.name))
        path.mkdir(parents=True)
        (path / "layer.json").write_bytes(layer.to_json())
        write_layer_shard(LOCAL, str(path), there, [{"frame_id": name, **columns[layer.kind]} for name in there])
        write_layer_catalog(LOCAL, str(path))
    return str(folder)


def recipe(folder: str, **data) -> Recipe:
    return override(Recipe(), {"data.prepared": folder, "data.evidence": "auto", **data})


def test_the_run_folder_says_which_layers_and_how_long(tmp_path: Path, capsys) -> None:
    complete = completion.complete_evidence(recipe(prepared(tmp_path, ["f0"])))
    assert complete.data.evidence == f"{FEATURES.name}/{PAIRS.name}"
    assert complete.data.evidence_dim == 2
    assert "1 of 2 training frames are not in it; their points are unpaired" in capsys.readouterr().out
    assert completion.complete_evidence(complete) == complete


def test_a_recipe_without_evidence_stays_as_it_is() -> None:
    plain = Recipe()
    assert completion.complete_evidence(plain) is plain


def test_another_length_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"data.evidence_dim=3, but features-\w+/pairs-\w+ has features of length 2"):
        completion.complete_evidence(recipe(prepared(tmp_path, ["f0"]), **{"data.evidence_dim": 3}))


def test_a_layer_of_other_frames_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"holds none of the 2 training frames"):
        completion.complete_evidence(recipe(prepared(tmp_path, ["x"])))


@pytest.mark.parametrize("data", [{"data.evidence": ""}, {"data.evidence": "", "data.evidence_dim": 2}])
def test_a_method_that_reads_evidence_is_refused_without_a_layer(tmp_path: Path, data) -> None:
    wanted = recipe(prepared(tmp_path, ["f0"]), **{"method.name": "lasermix_pp", **data})
    with pytest.raises(RecipeError, match=r"lasermix_pp reads image evidence .*set data\.evidence=auto"):
        completion.complete_evidence(wanted)
    without = {"method.distillation_weight": 0.0, "method.language_weight": 0.0}
    assert completion.complete_evidence(override(wanted, without)).data.evidence == ""


def test_language_is_refused_where_the_layer_has_no_words(tmp_path: Path) -> None:
    wanted = recipe(prepared(tmp_path, ["f0", "f1"]), **{"method.name": "lasermix_pp"})
    with pytest.raises(RecipeError, match=r"no text embeddings.*--features clip"):
        completion.complete_evidence(wanted)
    assert completion.complete_evidence(override(wanted, {"method.language_weight": 0.0})).data.evidence_dim == 2
    text = TextEmbeddings(np.eye(2, dtype=np.float32), np.zeros(2, np.int64), ("car", "van"))
    Path(layer_folder(wanted.data.prepared, FEATURES.name), TEXT_FILE).write_bytes(text.to_bytes())
    assert completion.complete_evidence(wanted).data.evidence_dim == 2


def test_the_driver_refuses_before_it_makes_a_run_folder(tmp_path: Path) -> None:
    from ray_lidarseg.train import train

    wanted = recipe(prepared(tmp_path / "prepared", ["f0"]), **{"method.name": "lasermix_pp", "data.evidence": ""})
    with pytest.raises(RecipeError, match="reads image evidence"):
        train(wanted, str(tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def nerf(folder: str, masks: str = "sam") -> Recipe:
    changes = {"model": {"name": "cylinder3d"}, "method": {"name": "nerf", "masks": masks}}
    return override(Recipe(), {"data.prepared": folder, **changes})


def test_the_run_folder_says_whose_segments_method_nerf_reads(tmp_path: Path) -> None:
    with_layers(str(tmp_path))
    complete = completion.complete(nerf(str(tmp_path)))
    masks, pairs = complete.method.masks.split("/")
    assert masks.startswith("masks-")
    assert pairs.startswith("pairs-")
    assert completion.complete(complete) == complete
    assert completion.complete(nerf(str(tmp_path), "none")).method.masks == "none"


def test_segments_that_are_not_there_are_refused_before_training(tmp_path: Path) -> None:
    with_layers(str(tmp_path))
    with pytest.raises(DataError, match=r"has no layer of segments 'slic'.*--masks slic"):
        completion.complete(nerf(str(tmp_path), "slic"))
    empty = str(tmp_path / "empty")
    with_layers(empty, maps={"CAM_A": np.zeros((HEIGHT, WIDTH), np.uint16)})
    with pytest.raises(DataError, match="holds not one segment in 2 frames"):
        completion.complete(nerf(empty))
    others = str(tmp_path / "others")
    with_layers(others)
    shutil.rmtree(Path(others, "layers"))
    shutil.copytree(tmp_path / "layers", Path(others, "layers"))
    for shard in Path(others).glob("*.parquet"):
        shard.unlink()
    write_shard(LOCAL, others, [keyframe(7)])
    write_catalog(LOCAL, others)
    with pytest.raises(DataError, match=r"holds none of the 1 training frames of .*run `ray-lidarseg prepare` again"):
        completion.complete(nerf(others))


@pytest.mark.parametrize("masks", ["sam", "none"])
def test_a_camera_that_no_frame_has_is_refused_before_training(tmp_path: Path, masks: str) -> None:
    with_layers(str(tmp_path))
    wanted = override(nerf(str(tmp_path), masks), {"method.cameras": ["CAM_B", "CAM_FRONT"]})
    with pytest.raises(
        DataError, match=r"method\.cameras names CAM_FRONT, the frames of .* have the cameras: CAM_A, CAM_B"
    ):
        completion.complete(wanted)
    assert completion.complete(override(wanted, {"method.cameras": ["CAM_B"]})).method.cameras == ("CAM_B",)


def test_what_only_a_step_can_see_ends_training_with_one_sentence(tmp_path: Path) -> None:
    """A map of another size, and a camera without calibration; one that is not looked through does no harm."""
    small = {"model": {"name": "cylinder3d", "grid": [24, 24, 8], "width_factor": 0.125}, "method.beams": 8}
    small |= {
        "workers.num_workers": 1,
        "train.steps": 1,
        "train.labelled_per_step": 1,
        "train.unlabelled_per_step": 4,
        "split.ratio": 0.5,
    }
    sized, blind = str(tmp_path / "sized"), str(tmp_path / "blind")
    with_layers(sized, 9, maps={"CAM_A": segments()[:, :-2], "CAM_B": segments()})
    no_lens = replace(camera("CAM_A"), intrinsics=np.zeros((3, 3)))
    frames = [replace(keyframe(number), cameras=(no_lens, camera("CAM_B"))) for number in range(2)]
    write_shard(LOCAL, blind, frames)
    write_catalog(LOCAL, blind)
    for folder, masks, said in (
        (sized, "sam", r"CAM_A: the image is 64 x 32 pixels, its segments in masks-.* are 62 x 32: delete that layer"),
        (blind, "none", r"CAM_A has no calibration \(intrinsics .*name only other cameras in method\.cameras"),
    ):
        recipe = override(nerf(folder, masks), small)
        with pytest.raises(DataError, match=said):
            train_alone(recipe, f"{folder}-run")
    train_alone(override(recipe, {"method.cameras": ["CAM_B"]}), f"{blind}-other")
