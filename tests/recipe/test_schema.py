from pathlib import Path

import pytest
import yaml

from ray_lidarseg.errors import RecipeError
from ray_lidarseg.recipe.load import builtin_recipes, load_recipe, override, parse_recipe, with_method
from ray_lidarseg.recipe.schema import Recipe


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "method: {name: lasermix, confidance: 0.9}",
            "unknown key 'method.confidance'; did you mean 'method.confidence'",
        ),
        ("modle: {}", "unknown key 'modle'; did you mean 'model'"),
        ("model: {name: cylinder3d, refinement: yes}", "did you mean 'model.point_refinement'"),
        ("model: {name: cylinder3d, height_m: [2, -4]}", "height_m is (lowest, highest)"),
        ("model: {name: spvcnn, dropout_ratio: 1.0}", "model.dropout_ratio: expected less than 1 "),
        ("train: {stepz: 3}", "did you mean 'train.steps'"),
        ("data: {sensor: {fov_up: 1}}", "did you mean 'data.sensor.fov_up_deg'"),
        ("train: {steps: 0}", "train.steps: expected at least 1 (got 0)"),
        ("split: {ratio: 1.5}", "split.ratio"),
        ("model: {name: pointnet}", "model"),
        ("[1, 2]", "expected a mapping"),
        ("train: {steps: 3", "is not YAML"),
        (
            "workers: {num_workers: 17}",
            "labelled_per_step=16 is too few for workers.num_workers=17: every worker needs a",
        ),
        (
            "workers: {num_workers: [4, 2]}",
            "workers.num_workers: expected a whole number of at least 1, or [least, most]",
        ),
        (
            "workers: {num_workers: [0, 2]}",
            "workers.num_workers: expected a whole number of at least 1, or [least, most]",
        ),
        (
            "workers: {num_workers: many}",
            "workers.num_workers: expected a whole number of at least 1, or [least, most]",
        ),
        ("train: {labelled_per_step: 4}", "method lasermix pairs scans: train.labelled_per_step must equal"),
        ("{method: {name: lasermix_pp}, train: {labelled_per_step: 4}}", "method lasermix_pp pairs scans"),
        ("{method: {name: polarmix}, train: {labelled_per_step: 4}}", "method polarmix pairs scans"),
        ("data: {image_size: [64, 128]}", "data.image_size is for images: model fidnet sees scans"),
        ("split: {file: list.txt}", "file and frames have no effect with protocol uniform: set protocol to list"),
        ("split: {protocol: scene, frames: [a]}", "file and frames have no effect with protocol scene"),
        ("method: {name: nerf, min_points: 2}", "min_points has no effect with target rendered: leave it out"),
        ("method: {name: nerf, masks: none, min_pixels: 2}", "min_pixels has no effect with masks none: leave it out"),
        ("image_augment: {flip_ratio: 0}", "image_augment has no effect with model fidnet: leave it out"),
        ("{data: {dataset: cityscapes}, model: {name: image_unet}, augment: {flip_ratio: 0}}", "augment has no effect"),
        ("{data: {use_intensity: no}, model: {name: image_unet}}", "data.use_intensity are for scans"),
        ("{data: {evidence: auto}, model: {name: image_unet}}", "leave them out with model image_unet"),
        ("method: {name: lasermix_pp, languge_weight: 0}", "did you mean 'method.language_weight'"),
    ],
)
def test_a_recipe_that_does_not_fit_says_what_and_what_to_do(text: str, message: str) -> None:
    with pytest.raises(RecipeError) as error:
        parse_recipe(text)
    assert message in str(error.value)


@pytest.mark.parametrize(("said", "ratio"), [("10%", 0.1), ("1/16", 0.0625), ("0.1", 0.1), ("0.5%", 0.005), (0.2, 0.2)])
def test_a_labelled_share_is_a_percentage_a_fraction_or_a_number(said, ratio):
    assert parse_recipe(f"split: {{ratio: {said}}}").split.ratio == ratio
    assert parse_recipe("", [f"split.ratio={said}"]) == parse_recipe("", [f"split.ratio={ratio}"])


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ("10", "--labels 10: write 10% for 10 of a hundred frames, or 100% for all"),
        ("few", "expected a share such as 10%, 1/16 or 0.1"),
        ("1/0", "expected a share such as 10%, 1/16 or 0.1"),
        ("200%", "split.ratio: expected at most 1 (got 2.0)"),
    ],
)
def test_a_labelled_share_that_is_none_or_may_mean_two_things_is_refused(labels, message):
    with pytest.raises(RecipeError) as error:
        parse_recipe("", labels=labels)
    assert message in str(error.value)


def test_flags_change_method_and_share_and_name_themselves():
    text = "{name: mine, method: {name: lasermix, confidence: 0.5, lovasz_weight: 3}}"
    recipe = parse_recipe(text, ["method.ema_decay=0.9", "seed=4"], method="cutmix_seg", labels="25%")
    assert (recipe.name, recipe.split.ratio, recipe.seed) == ("mine-cutmix_seg-25pct", 0.25, 4)
    assert (recipe.method.name, recipe.method.lovasz_weight) == ("cutmix_seg", 3)
    assert recipe.method.ema_decay == 0.9
    with pytest.raises(RecipeError, match=r"unknown key 'method.confidence'"):
        parse_recipe(text, ["method.confidence=0.9"], method="supervised")
    assert parse_recipe(text).name == "mine"


def test_a_method_that_reads_images_gets_their_evidence_by_its_flag_unless_both_parts_are_off():
    assert parse_recipe("", method="lasermix_pp").data.evidence == "auto"
    assert parse_recipe("", ["data.evidence=mine"], method="lasermix_pp").data.evidence == "mine"
    off = ["method.language_weight=0", "method.distillation_weight=0"]
    assert parse_recipe("", off, method="lasermix_pp").data.evidence == ""
    assert parse_recipe("", method="lasermix").data.evidence == ""


def test_a_share_of_frames_that_are_listed_has_no_effect():
    with pytest.raises(RecipeError, match=r"split.protocol list names its frames, so --labels 50% has no effect"):
        parse_recipe("split: {protocol: list, frames: [a]}", labels="50%")


def test_overrides_are_yaml_values_through_the_same_door() -> None:
    recipe = parse_recipe("method: {name: lasermix}", ["method.confidence=0.5", "method.num_areas=[2, 3]"])
    assert recipe.method.confidence == 0.5
    assert recipe.method.num_areas == (2, 3)
    with pytest.raises(RecipeError, match=r"did you mean 'method.confidence'"):
        parse_recipe("", ["method.name=lasermix", "method.confidences=1"])
    with pytest.raises(RecipeError, match=r"expected KEY\.KEY=VALUE"):
        parse_recipe("", ["method.confidence"])
    with pytest.raises(RecipeError, match="is a value, not a section"):
        parse_recipe("", ["seed=3", "seed.x=1"])


def test_switching_a_variant_drops_the_fields_of_the_other_one() -> None:
    recipe = override(Recipe(), {"model.name": "minkunet", "model.depth": 14})
    assert recipe.model.name == "minkunet"
    assert recipe.model.depth == 14


def test_a_recipe_is_frozen_and_survives_its_own_yaml() -> None:
    recipe = parse_recipe("name: x\nseed: 3")
    assert parse_recipe(recipe.to_yaml()) == recipe
    with pytest.raises(ValueError, match="frozen"):
        recipe.seed = 4


def test_the_fingerprint_follows_results_and_not_logistics() -> None:
    base = Recipe()
    assert (
        override(base, {"name": "other", "workers.num_workers": 4, "train.log_every": 1}).fingerprint
        == base.fingerprint
    )
    assert override(base, {"method.confidence": 0.5}).fingerprint != base.fingerprint
    assert override(base, {"method.ema_warm_up": True}).fingerprint != base.fingerprint
    assert override(base, {"seed": 9}).fingerprint != base.fingerprint


@pytest.mark.parametrize("name", sorted(builtin_recipes()))
def test_every_built_in_recipe_loads_and_uses_only_known_keys(name: str) -> None:
    recipe = load_recipe(name)
    assert yaml.safe_load(recipe.to_yaml())["method"]["name"] == recipe.method.name


def test_a_missing_recipe_names_the_built_in_ones() -> None:
    with pytest.raises(RecipeError, match="demo"):
        load_recipe("nothing-like-this")


def test_naming_a_run_changes_nothing_else():
    recipe = load_recipe("demo")
    assert override(recipe, {"name": "mine"}) == recipe.model_copy(update={"name": "mine"})


def test_another_optimiser_keeps_the_other_keys_of_its_section() -> None:
    assert parse_recipe("optim: {lr: 0.5}", ["optim.name=sgd"]).optim.lr == 0.5


def test_another_method_keeps_every_key_both_have() -> None:
    recipe = parse_recipe("method: {name: lasermix, consistency_weight: 7, lovasz_weight: 3, confidence: 0.5}")
    assert with_method(recipe, "mean_teacher").method.consistency_weight == 7
    assert with_method(recipe, "supervised").method.model_dump() == {
        "name": "supervised",
        "cross_entropy_weight": 1.0,
        "cross_entropy_over": "known",
        "lovasz_weight": 3.0,
    }
    assert with_method(recipe, "lasermix") == recipe
    assert with_method(recipe, "lasermix_pp").method.confidence == 0.5
    assert with_method(recipe, "cbst").method.lovasz_weight == 3
    with pytest.raises(RecipeError, match="no method 'fixmatch'"):
        with_method(recipe, "fixmatch")


def test_a_key_that_means_something_else_there_takes_the_other_methods_default() -> None:
    recipe = parse_recipe("method: {name: lasermix, confidence: 0.5, ema_decay: 0.8}")
    taken = with_method(recipe, "cutmix_seg").method
    assert (taken.confidence, taken.ema_decay) == (0.97, 0.8)
    assert load_recipe("fidnet-nuscenes", ["method.confidence=0.6"], method="cutmix_seg").method.confidence == 0.6
    cutmix = parse_recipe("method: {name: cutmix_seg, confidence: 0.5}")
    assert with_method(cutmix, "lasermix").method.confidence == 0.95
    assert with_method(cutmix, "cutmix_seg") == cutmix
    assert with_method(recipe, "polarmix").method.confidence == 0.5
    cps = parse_recipe("method: {name: cps, cross_weight: 6}")
    assert with_method(cps, "distill").method.cross_weight == 1.0


@pytest.mark.parametrize("method", ["mean_teacher", "cbst", "cps", "cutmix_seg", "{name: polarmix, partner: labelled}"])
def test_methods_that_pair_no_scans_take_any_batch(method: str) -> None:
    section = method if method.startswith("{") else f"{{name: {method}}}"
    assert parse_recipe(f"{{method: {section}, train: {{labelled_per_step: 4}}}}").train.unlabelled_per_step == 16


@pytest.mark.parametrize(("text", "word"), [("off", "off"), ("'off'", "off"), ("auto", "auto")])
def test_words_that_yaml_takes_for_booleans_stay_words(text: str, word: str) -> None:
    assert parse_recipe(f"train: {{amp: {text}}}").train.amp == word
    assert parse_recipe("", ["workers.use_gpu=no"]).workers.use_gpu == "no"
    assert parse_recipe("workers: {use_gpu: yes}").workers.use_gpu == "yes"


def test_a_folder_of_a_recipes_name_does_not_hide_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "demo").mkdir()
    monkeypatch.chdir(tmp_path)
    assert load_recipe("demo").name == "demo"


def test_fingerprints_of_runs_older_than_some_keys_stay_what_they_were() -> None:
    assert Recipe().fingerprint == "f01f3870"  # as at 6209cd2
