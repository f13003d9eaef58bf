"""What the table of distillations says, and the recipes behind it; nothing is trained."""

import sys
from pathlib import Path

import pytest

from ray_lidarseg.recipe import schema
from tests.bench import distill, lasermix_pp
from tests.bench.distill import claims, correlation, missing_figures, row_of, values_of
from tests.bench.distill_run import LOSSES, PROTOCOLS, Places, downstream, pre_training
from tests.bench.ladder import part_sentences
from tests.bench.lasermix_pp import recipe
from tests.bench.ledger import Ledger

PLACES = Places("prepared", "features-1/pairs-1", "elsewhere", "prototypes.npz")


def row(loss: str, gap: float, zero_shot: float, tuned: float, seed: int = 0) -> dict:
    structure = dict.fromkeys(distill.STRUCTURE, 0.5)
    scores = {"zero_shot": zero_shot, "linear_probe": 0.3, "fine_tuned": tuned}
    return {"loss": loss, "seed": seed, **structure, "structural_gap": gap, **scores}


def test_claims_hold_or_do_not_by_what_the_rows_say():
    rows = [
        row(loss, gap + 0.01 * seed, zero_shot - 0.01 * seed, tuned, seed)
        for loss, gap, zero_shot, tuned in (
            ("relational", 0.1, 0.3, 0.5),
            ("similarity", 0.3, 0.2, 0.4),
            ("contrastive", 0.6, 0.1, 0.2),
        )
        for seed in range(3)
    ]
    structure, zero_shot, of_zero_shot, of_tuned = claims(rows)
    assert (
        structure
        == "closest in structure: relational; relational leads similarity by +0.200 (spread 0.010): claim holds"
    )
    assert zero_shot == "best zero-shot: relational; relational leads similarity by +0.100 (spread 0.010): claim holds"
    assert of_zero_shot.endswith("-0.99 (claimed: negative)")
    assert of_tuned.endswith("-1.00 (claimed: negative)")
    worse = [{**row, "structural_gap": 0.9, "zero_shot": 0.205} if row["loss"] == "relational" else row for row in rows]
    structure, zero_shot, *_ = claims(worse)
    assert structure.startswith("closest in structure: similarity; ")
    assert structure.endswith("claim does not hold")
    assert zero_shot.startswith("best zero-shot: relational; relational leads similarity by +0.015")
    assert claims([row for row in rows if row["seed"] < 2])[0].endswith("claim has too few seeds")
    near = [{**row, "zero_shot": row["zero_shot"] - 0.095} if row["loss"] == "relational" else row for row in rows]
    assert claims(near)[1].endswith("claim neither holds nor fails: the spread")
    assert claims([row for row in rows if row["loss"] != "contrastive"]) == []
    assert correlation([1.0, 1.0], [0.0, 2.0]) == 0.0


def test_a_figure_that_is_missing_or_not_finite_is_named():
    rows = [row("relational", 0.1, float("nan"), 0.5), {"loss": "random", "seed": 0, "linear_probe": 0.1}]
    protocols = ["linear_probe", "fine_tuned"]
    assert missing_figures(rows, [("relational", 0), ("random", 0)], protocols) == [
        "zero_shot of relational, seed 0",
        "fine_tuned of random, seed 0",
    ]
    assert len(missing_figures([], [("random", 1)], protocols)) == 2


def test_a_row_is_put_together_from_the_parts_the_file_has():
    ledger = Ledger(None)
    words = {"text": {"points": 0.2}, "prototypes": {"points": 0.3}}
    ledger.measure({"part": "distilled"}, lambda: {"miou_ratio": 0.25, "words": words, "uniformity": 1.0})
    ledger.measure({"part": "fine_tuned"}, lambda: {"miou_ratio": 0.5})
    made = row_of(ledger, {part: {"part": part} for part in ("distilled", "linear_probe", "fine_tuned")})
    assert (made["zero_shot"], made["fine_tuned"], made["uniformity"]) == (0.25, 0.5, 1.0)
    assert "linear_probe" not in made
    rows = [{**made, "loss": "relational", "seed": seed} for seed in range(3)]
    assert values_of(rows, "relational/prototypes") == pytest.approx({0: 30, 1: 30, 2: 30})
    assert values_of(rows, "relational/linear_probe") is values_of(rows, "random/fine_tuned") is None
    (said,) = part_sentences([("prototypes", "relational/prototypes", "relational/text")], lambda n: values_of(rows, n))
    assert said == "prototypes +10.0 (spread 0.0, better in 3 of 3): helps"


@pytest.mark.parametrize("name", LOSSES)
def test_rows_differ_in_nothing_but_their_loss(name, tmp_path):
    made = {part: downstream(PLACES, name, part, 0.01, 2, tmp_path, {}) for part in PROTOCOLS}
    assert {recipe.seed for recipe in made.values()} == {recipe.split.seed for recipe in made.values()} == {2}
    assert {part: recipe.split.ratio for part, recipe in made.items()} == {
        **dict.fromkeys(PROTOCOLS, 0.01),
        "linear_probe": 1.0,
    }
    assert made["other_sensor"].data.prepared == "elsewhere"
    assert made["other_sensor"].data.dataset == "semantickitti"
    assert [part for part, recipe in made.items() if recipe.start and recipe.start.frozen] == ["linear_probe"]
    if name == "random":  # a linear probe of random weights begins with them, and leaves them alone
        assert made["linear_probe"].start.file == str(tmp_path / "random.safetensors")
        assert {part for part, recipe in made.items() if recipe.start} == {"linear_probe"}
        return
    run = str(tmp_path / "distilled")
    assert made["fine_tuned"].start == schema.Start(run=run, part="backbone")
    assert {recipe.start.run for recipe in made.values()} == {run}
    distilled = pre_training(PLACES, name, 2, 40, {})
    wanted = {"contrastive": "contrastive", "st-contrastive": "st_contrastive", "similarity": "similarity"}
    assert distilled.method.loss == wanted.get(name, "relational")
    assert (distilled.train.steps, distilled.seed) == (40, 2)
    assert {recipe.model for recipe in made.values()} == {distilled.model}


@pytest.mark.parametrize(
    ("part", "rung"), [("fine_tuned", "sup-only"), ("lasermix", "lasermix"), ("lasermix_pp", "all")]
)
def test_from_random_weights_runs_are_those_of_the_other_table(part, rung, tmp_path):
    mine = downstream(PLACES, "random", part, 0.01, 1, tmp_path, {})
    assert mine.fingerprint == recipe("prepared", "features-1/pairs-1", rung, 0.01, 1, {}).fingerprint


def test_figures_of_the_other_table_are_taken_and_only_what_lacks_is_trained(monkeypatch, tmp_path):
    file, asked = tmp_path / "lasermix_pp.json", []
    monkeypatch.setattr(sys, "argv", ["distill", "--folder", str(tmp_path), "--rows-of", str(file)])
    args = distill._arguments()
    args.protocols = ["linear_probe", "fine_tuned", "lasermix_pp"]
    monkeypatch.setattr(distill, "_prepare", lambda args: PLACES)
    monkeypatch.setattr(sys, "argv", ["lasermix_pp", "--folder", str(tmp_path), "--rows", "sup-only", "all"])
    theirs = lasermix_pp._arguments()
    for rung, seed, score in (("sup-only", 0, 0.4), ("sup-only", 1, 0.6), ("all", 0, 0.5)):
        key = lasermix_pp._job(theirs, rung, 0.01, seed).key
        if rung == "all":  # the places of this test have other layers
            key |= {"evidence": PLACES.evidence}
        Ledger(file).measure(key, lambda score=score: {"miou_ratio": score, "wall_s": 1.0})
    wanted = distill.recipes(args, PLACES, "random", 0, tmp_path / "distill" / "clip-random-0-1000")

    def child(module, file, folder):
        asked.append(list(distill.json.loads(file.read_text())["recipes"]))
        figures(folder / "linear_probe", wanted["linear_probe"], 0.1)

    monkeypatch.setattr(distill, "child", child)
    ledger = Ledger(None)
    for _ in range(2):
        distill.measure(args, ledger, "random", 0)
    assert asked == [["linear_probe"]]
    taken = {row["part"]: row for row in ledger.rows}
    assert {part: row["miou_ratio"] for part, row in taken.items()} == {
        "linear_probe": 0.1,
        "fine_tuned": 0.4,
        "lasermix_pp": 0.5,
    }
    assert taken["fine_tuned"]["trained_commit"] == Ledger(file).rows[0]["commit"]
    assert "trained_commit" not in taken["linear_probe"]
    assert ledger.find(distill._key(args, "random", 0, "fine_tuned")) is not None
    args.overrides = {"train.amp": "off"}  # another recipe: no row of theirs
    assert distill._taken(args, "random", "fine_tuned", 0, wanted["fine_tuned"]) is None


def test_on_another_machine_the_pre_training_is_made_again_and_of_what_follows_only_what_lacks(monkeypatch, tmp_path):
    asked = []
    monkeypatch.setattr(sys, "argv", ["distill", "--folder", str(tmp_path), "--protocols", "linear_probe", "lasermix"])
    args = distill._arguments()
    monkeypatch.setattr(distill, "_prepare", lambda args: PLACES)

    def child(module, file, folder):
        asked.append(list(distill.json.loads(file.read_text())["recipes"]))
        wanted = distill.recipes(args, PLACES, "relational", 0, folder)
        figures(folder / "lasermix", wanted["lasermix"], 0.3)

    monkeypatch.setattr(distill, "child", child)
    ledger = Ledger(None)
    for part, score in (("distilled", 0.1), ("linear_probe", 0.2)):
        ledger.measure(distill._key(args, "relational", 0, part), lambda score=score: {"miou_ratio": score})
    distill.measure(args, ledger, "relational", 0)
    assert asked == [["distilled", "lasermix"]]
    assert [row["miou_ratio"] for row in ledger.rows] == [0.1, 0.2, 0.3]


def figures(run: Path, recipe: schema.Recipe, miou_ratio: float) -> None:
    run.mkdir(parents=True)
    content = {"fingerprint": recipe.fingerprint, "miou_ratio": miou_ratio}
    (run / "figures.json").write_text(distill.json.dumps(content))


def test_a_change_of_every_recipe_makes_rows_of_its_own(monkeypatch, tmp_path):
    def arguments(*flags: str):
        monkeypatch.setattr(sys, "argv", ["distill", "--folder", str(tmp_path), *flags])
        return distill._arguments()

    plain, changed = arguments(), arguments("--set", "train.amp=off")
    ledger = Ledger(None)
    for args in (changed, plain):  # a row of the other kind is not taken for one's own
        for part in ("distilled", "fine_tuned"):
            assert ledger.find(distill._key(args, "relational", 0, part)) is None
            ledger.measure(distill._key(args, "relational", 0, part), dict)
    made = distill.recipes(changed, PLACES, "relational", 0, tmp_path)
    assert {recipe.train.amp for recipe in made.values()} == {"off"}
    assert {recipe.train.amp for recipe in distill.recipes(plain, PLACES, "relational", 0, tmp_path).values()} == {
        "bf16"
    }
    assert distill._run_name(plain, "relational", 0) != distill._run_name(changed, "relational", 0)
