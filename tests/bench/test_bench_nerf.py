"""What the ablation of method nerf trains and concludes."""

import json
import sys
from types import SimpleNamespace

import pytest
import torch

from ray_lidarseg.geometry.rays import LIDAR, no_rays
from ray_lidarseg.geometry.rendering import Rendered
from ray_lidarseg.sample import RayBatch
from ray_lidarseg.training.run_folder import differing_keys
from ray_lidarseg.types import IGNORE, RAY_CAMERA, RAY_SEGMENT, RAY_TRUTH
from tests.bench import nerf as ablation
from tests.bench.nerf import LADDER, PARTS, RUNGS
from tests.bench.never_wrong_segments import of_truth

MASKS = {"": "masks-a/pairs-a", "sam": "masks-b/pairs-b"}


def recipe(name: str, ratio: float = 0.01, seed: int = 0, **overrides):
    return ablation.recipe("shards", MASKS, name, ratio, seed, overrides)


def test_the_table_is_that_of_the_issue():
    assert LADDER == ("sup-only", "projected", "rendered", "never-wrong", "lasermix", "lasermix-nerf", "front")
    assert {RUNGS[name].method for name in LADDER} == {"supervised", "nerf", "lasermix"}
    assert [name for name in LADDER if RUNGS[name].module.endswith("never_wrong_segments")] == ["never-wrong"]
    assert recipe("never-wrong") == recipe("rendered")
    assert recipe("sup-only").train.unlabelled_per_step == 0


SWITCHES = {
    "projected": {"method.target"},
    "front": {"method.cameras"},
    "no-segments": {"method.segment_weight"},
    "teacher": {"method.teacher"},
    "sam": {"method.masks"},
    "entropy-0.05": {"method.entropy_threshold"},
    "points-only": {"method.target", "method.rendered_weight", "method.depth_weight"},
}


@pytest.mark.parametrize("name", SWITCHES)
def test_a_row_differs_from_the_rendered_one_in_its_switch_alone(name):
    assert set(differing_keys(recipe(name), recipe("rendered"))) == SWITCHES[name]


def test_lasermix_is_the_same_alone_and_under_nerf():
    alone, under = recipe("lasermix").method, recipe("lasermix-nerf").method
    assert under.mixing.model_dump(exclude={"cross_entropy_over"}) == alone.model_dump(exclude={"cross_entropy_over"})
    assert alone.deployed == under.deployed == "teacher"
    assert alone.decay_over(800) == pytest.approx(1 - 1 / (0.0167 * 800))


def test_rows_share_length_batch_and_network_and_are_evaluated_on_their_way():
    for name in RUNGS:
        own = recipe(name, 0.1)
        assert own.model == recipe("sup-only", 0.1).model
        assert own.train.steps == 1600
        assert own.train.evaluate_every == 534  # not also one step before the last
        assert own.train.labelled_per_step == 2
    assert set(differing_keys(recipe("rendered"), recipe("rendered", 0.1, 2))) == {
        *("split.ratio", "split.seed", "seed", "train.steps", "train.evaluate_every")
    }
    quick = recipe("lasermix-nerf", **{"train.steps": 3, "method.beams": 64})
    assert (quick.train.evaluate_every, quick.method.beams) == (1, 64)
    assert recipe("lasermix", **{"method.beams": 64}).method.name == "lasermix"


def test_every_comparison_is_between_rows_there_are():
    assert {name for _, *pair in PARTS for name in pair} <= set(RUNGS)


def test_labels_only_must_be_used_up():
    def row(*curve: float) -> dict:
        return {"row": "sup-only", "curve": [[100 * (step + 1), value] for step, value in enumerate(curve)]}

    assert ablation.flatness([row(0.3, 0.4, 0.404), row(0.3, 0.41, 0.416)]) == (
        "labels only gained +0.5 since step 200 of 300: used up"
    )
    assert ablation.flatness([row(0.3, 0.4, 0.43)]).endswith("not used up: the run is too short")
    assert ablation.flatness([{**row(0.3, 0.4), "row": "rendered"}]) == ""


def test_segments_that_are_never_wrong_are_what_most_of_their_pixels_are():
    """Segment 1: classes 2, 2, 3; segment 2: unknown; segment 3: class 1; a beam; a transparent pixel of segment 1."""
    segment = torch.tensor([1, 1, 1, 2, 3, 0, 1])
    truth = torch.tensor([2, 2, 3, IGNORE, 1, IGNORE, 2])
    camera = torch.tensor([0, 0, 0, 0, 0, LIDAR, 0])
    rays = no_rays(1)
    rays = RayBatch(
        *(torch.zeros(7, 3), torch.ones(7, 3), torch.zeros(7, dtype=torch.int64), torch.ones(7), torch.ones(7), 1),
        *(torch.ones(7), torch.full((7,), IGNORE)),
        {**rays.extras, RAY_CAMERA: camera, RAY_SEGMENT: segment, RAY_TRUTH: truth},
    )
    opacity = torch.tensor([1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 0.1])
    judge = Rendered(torch.zeros(7, 4), torch.ones(7), opacity, 0)
    method = SimpleNamespace(student=SimpleNamespace(num_classes=4), recipe=SimpleNamespace(min_opacity=0.5))
    told = of_truth(method, judge, rays)
    assert told.of_members.tolist() == [2, 2, 2, IGNORE, 1, IGNORE, IGNORE]


@pytest.fixture
def run(monkeypatch, tmp_path, capsys):
    """Runs the benchmark with made-up scores; returns exit code, printed lines, and the jobs in order."""

    def run(score, *flags):
        trained = []

        def measure_all(ledger, jobs, at_once, prepare):
            trained.extend(job for job in jobs if ledger.find(job.key) is None)
            for job in jobs:
                figures = {"miou_ratio": score(job.key["row"], job.key["seed"]), "curve": [[1, 0.1], [2, 0.1]]}
                if RUNGS[job.key["row"]].method == "nerf":
                    figures |= {"segment_keep_ratio": 0.4, "pseudo_precision_ratio": 0.9, "pseudo_recall_ratio": 0.3}
                ledger.measure(job.key, lambda figures=figures: figures)

        monkeypatch.setattr(ablation, "measure_all", measure_all)
        monkeypatch.setattr(ablation, "_layers", lambda masks: f"masks-{masks}/pairs-{masks}")
        file = tmp_path / "rows.json"
        monkeypatch.setattr(sys, "argv", ["nerf", "--folder", str(tmp_path), "--json", str(file), *flags])
        return ablation.main(), capsys.readouterr().out.splitlines(), trained

    return run


def test_the_table_says_what_helps_and_how_good_pseudo_labels_were(run):
    value = {"sup-only": 0.40, "projected": 0.41, "rendered": 0.44, "front": 0.42}
    code, lines, jobs = run(lambda row, seed: value.get(row, 0.4) + 0.001 * seed, "--ratios", "0.01")
    assert code == 0
    assert [job.key["row"] for job in jobs[: len(LADDER)]] == list(LADDER)
    assert "NeRF (rendered) +4.0 (spread 0.1, better in 3 of 3): helps" in lines[-2]
    assert "rendering instead of projecting +3.0" in lines[-2]
    assert "six cameras instead of one +2.0" in lines[-2]
    assert lines[-2].endswith("labels only gained +0.0 since step 1 of 2: used up")
    (judged,) = [line for line in lines if line.startswith("+ NeRF (projected)") and "90.0" in line]
    assert judged.split()[-1] == "-"  # no opacity was logged
    assert lines[-1].endswith("all finite: ok")


def test_a_stopped_table_goes_on_where_it_was(run, tmp_path):
    run(lambda row, seed: 0.5, "--rows", "sup-only", "--seeds", "0")
    _, _, jobs = run(lambda row, seed: 0.5, "--rows", "sup-only", "rendered", "--seeds", "0")
    assert [(job.key["row"], job.key["ratio"]) for job in jobs] == [("rendered", 0.01), ("rendered", 0.1)]
    assert len(json.loads((tmp_path / "rows.json").read_text())) == 4
    code, lines, jobs = run(None, "--rows", "front", "--seeds", "0", "--show")
    assert (code, jobs) == (1, [])
    assert lines[-1] == "FAILED: no finite figure of front at 1%, seed 0, front at 10%, seed 0"


def test_sweeps_are_of_one_seed_and_say_that_it_is_too_few(run):
    _, _, jobs = run(lambda row, seed: 0.5, "--entropies", "--ratios", "0.01")
    assert [job.recipe.method.entropy_threshold for job in jobs] == [0.05, 0.1, 0.2, 0.3, 0.5]
    assert {job.key["seed"] for job in jobs} == {0}
    _, lines, jobs = run(lambda row, seed: 0.5, "--compare-masks", "--ratios", "0.01")
    assert [job.recipe.method.masks for job in jobs] == ["masks-slic/pairs-slic", "masks-sam/pairs-sam"]
    assert "SAM instead of SLIC" in lines[-2]
    assert "too few seeds to say" in lines[-2]


def test_a_quick_run_is_small_and_judges_nothing(run):
    code, lines, jobs = run(lambda row, seed: 0.1, "--quick")
    assert code == 0
    assert [job.key["row"] for job in jobs] == ["rendered", "never-wrong", "lasermix-nerf"]
    assert all(job.recipe.train.steps == 3 for job in jobs)
    assert "tiny" in lines[-1]
    assert lines[-1].endswith("too short for a verdict: ok")
