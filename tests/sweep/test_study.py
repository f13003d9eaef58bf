"""Studies: what a file says, what it may not say, and that drawing is the same everywhere."""

from collections import Counter

import pytest

from ray_lidarseg.errors import RecipeError
from ray_lidarseg.recipe.load import load_recipe, override, settled
from ray_lidarseg.sweep.study import Interval, list_studies, load_study, parse_study, shipped_studies
from ray_lidarseg.sweep.trials import make_trial

GRID = "question: q\nspace: {split.ratio: [1%, 10%], method: [supervised, lasermix]}\nseeds: [0, 1, 2]\n"
METHODS = ("supervised", "mean_teacher", "lasermix", "lasermix_pp", "nerf")
RANDOM = "question: q\nspace: {method.confidence: {uniform: [0.5, 0.9]}}\nsearch: random\ntrials: 4\n"


def test_a_grid_tries_every_combination_in_the_order_of_the_file():
    study = parse_study(GRID)
    assert study.combinations() == [
        {"split.ratio": ratio, "method": method} for ratio in ("1%", "10%") for method in ("supervised", "lasermix")
    ]
    assert (study.num_combinations, study.num_trials) == (4, 12)


def test_drawing_depends_on_the_seed_and_the_number_only():
    study = parse_study(RANDOM)
    assert study.combinations() == parse_study(RANDOM).combinations()
    longer = parse_study(RANDOM, ["trials=6"])
    assert longer.combinations()[:4] == study.combinations()
    assert parse_study(RANDOM, ["draw_seed=1"]).combinations() != study.combinations()
    lines = "question: q\nspace:\n  {}\n  {}\nsearch: random\ntrials: 3\n"
    first, second = "optim.lr: {loguniform: [0.001, 0.1]}", "method.confidence: {uniform: [0, 1]}"
    assert parse_study(lines.format(first, second)).drawn(2) == parse_study(lines.format(second, first)).drawn(2)


def test_intervals_hold_both_ends_and_are_even():
    assert Interval("k", "uniform", 2.0, 4.0).at(0.25) == 2.5
    assert Interval("k", "loguniform", 0.01, 1.0).at(0.5) == pytest.approx(0.1)
    whole = Interval("k", "integers", 3, 5)
    assert Counter(whole.at(share / 300) for share in range(300)) == {3: 100, 4: 100, 5: 100}


def test_a_label_stands_for_several_keys_and_the_study_for_more():
    study = parse_study(
        """
        question: q
        recipe: {method: lasermix}
        space: {beams: {16: {data.prepared: "{prepared}-16", data.sensor.num_beams: 16}, 32: {}}}
        """
    )
    assert study.changes({"beams": 32}) == {"method": "lasermix"}
    trial = make_trial(study, override(load_recipe("demo"), {"data.prepared": "/shards/"}), {"beams": 16}, 5)
    assert trial.recipe.data.prepared == "/shards-16"
    assert trial.recipe.data.sensor.num_beams == 16
    assert (trial.recipe.seed, trial.recipe.split.seed) == (5, 5)
    with pytest.raises(RecipeError, match=r"reads \{prepared\}-16: give the sweep --set data.prepared=FOLDER"):
        make_trial(study, load_recipe("demo"), {"beams": 16}, 5)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- 1", "expected a mapping with question and space, got"),
        ("question: q", "space is missing"),
        (GRID + "sheduler: asha\n", "unknown key 'sheduler'; did you mean 'scheduler'?"),
        (GRID.replace("split.ratio", "split.ration"), "unknown recipe key 'split.ration'; did you mean 'split.ratio'?"),
        (RANDOM.replace("uniform", "unifrom"), "did you mean 'uniform'?"),
        (RANDOM.replace("[0.5, 0.9]", "[0.9, 0.5]"), "two finite numbers of which the first is smaller"),
        (RANDOM.replace("uniform: [0.5", "loguniform: [0"), "loguniform expects ends above 0"),
        (RANDOM.replace("uniform", "integers"), "two whole numbers"),
        (RANDOM.replace("trials: 4\n", ""), "search random needs trials"),
        (RANDOM.replace("random", "grid"), "is an interval: list values, or search random"),
        (GRID + "trials: 3\n", "search grid tries every combination: leave trials out"),
        (GRID + "metric: point_miou\n", "did you mean 'point_miou_ratio'?"),
        (GRID + "scheduler: pbt\n", "pbt copies the weights of one trial into another through checkpoints"),
        (GRID + "scheduler: {name: HyperBand}\n", "HyperBand pauses trials"),
        (GRID + "scheduler: bohb\n", "bohb pauses trials"),
        (GRID + "scheduler: ashaa\n", "expected 'none' or 'asha'"),
        (GRID.replace("[1%, 10%]", "[1%, 1%]"), "a value is listed twice"),
        (GRID.replace("[0, 1, 2]", "[0, 0]"), "a seed is listed twice"),
        (GRID.replace("[0, 1, 2]", "3"), "seeds: expected a list"),
        ("question: q\nspace: {seed: [1, 2]}", "seed is set by `seeds`"),
        ("question: q\nspace: {train.log_every: [1, 2]}", "train.log_every decides no result"),
        (GRID + "recipe: {workers.num_workers: 4}\n", "give the sweep --set workers.num_workers"),
        (GRID + "recipe: {trian.steps: 4}\n", "did you mean 'train.steps'?"),
        ("question: q\nscheduler: asha\nspace: {train.steps: [1, 2]}", "leave train.steps out of the space"),
        ("question: q\nspace: {a: {x: {optim.lr: 1}}, optim.lr: [1, 2]}", "optim.lr is set by two dimensions"),
        (
            f"question: q\nspace: {{optim.lr: {list(range(1, 200))}, train.steps: {list(range(1, 200))}}}",
            "39601 trials",
        ),
        ("question: q\nspace: {data.prepared: ['s3://KEY:SECRET@b/p']}", "holds credentials inside a URI"),
    ],
)
def test_what_does_not_fit_is_said_with_the_nearest_key(text, message):
    with pytest.raises(RecipeError) as error:
        parse_study(text)
    assert message in str(error.value)
    assert "SECRET" not in str(error.value)


def test_lines_can_be_changed_from_the_command_line():
    study = parse_study(GRID, ["seeds=[4]", "space.method=[cps]", "scheduler.name=asha"])
    assert study.num_trials == 2
    assert study.space["method"] == ["cps"]
    assert study.scheduler.name == "asha"
    with pytest.raises(RecipeError, match="--study 'seeds': expected KEY=VALUE"):
        parse_study(GRID, ["seeds"])


def test_an_unknown_study_names_the_nearest(tmp_path):
    with pytest.raises(RecipeError, match=r"no study 'label_eficiency'; did you mean 'label_efficiency'\?"):
        load_study("label_eficiency")
    with pytest.raises(RecipeError, match=r"cannot be read|no study"):
        load_study("x" * 5000)
    (tmp_path / "own.yaml").write_text(GRID)
    assert load_study(str(tmp_path / "own.yaml")) == parse_study(GRID)


@pytest.mark.parametrize("name", shipped_studies())
def test_shipped_studies_make_valid_recipes(name):
    study = load_study(name)
    assert study.question.endswith("?")
    base = load_recipe("minkunet-nuscenes" if study.recipe.get("method") == "nerf" else "demo")
    for params in study.combinations() if study.search == "grid" else [study.drawn(0), study.drawn(1)]:
        assert settled(base, study.changes(params)).method.name in METHODS
    assert f"{name}: {study.question}" in list_studies().splitlines()
