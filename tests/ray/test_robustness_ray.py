"""`evaluate --robustness`: one pass, the same numbers as a plain loop, and the way on after an interruption."""

import json
from pathlib import Path

import pytest
import torch
from pyarrow import fs

from ray_lidarseg.cli import main
from ray_lidarseg.datasets import nuscenes
from ray_lidarseg.datasets.catalog import read_catalog
from ray_lidarseg.datasets.prepared_frames import PreparedFrames
from ray_lidarseg.datasets.sensor import resolve_sensor
from ray_lidarseg.errors import DataError
from ray_lidarseg.evaluate import corrupted, evaluate_robustness
from ray_lidarseg.methods.build import build_method
from ray_lidarseg.metrics.variant_scoring import score_variants
from ray_lidarseg.recipe.load import override
from ray_lidarseg.recipe.schema import Recipe
from ray_lidarseg.training import checkpoints
from ray_lidarseg.training.run_folder import RunFolder, load_method

pytestmark = pytest.mark.ray
TINY = {"name": "fidnet", "height_px": 8, "width_px": 64, "width_factor": 0.0625, "blocks": [1, 1, 1, 1]}


def make_run(folder: Path, prepared: str, seed: int) -> str:
    changes = {"data.prepared": prepared, "model": TINY, "method.name": "mean_teacher", "train.evaluate_batch": 1}
    recipe = override(Recipe(), changes)
    run = RunFolder(str(folder))
    torch.manual_seed(seed)
    method = build_method(recipe, resolve_sensor(recipe.data), 16)
    with torch.no_grad():  # a model that names the classes there are, and is right now and then
        method.deployed_model.classifier.weight *= 20
        method.deployed_model.classifier.bias[[10, 12, 14]] += 10
    state = {"step": 7, "method": method.state_dict(), "metrics": ""}
    run.write("recipe.yaml", recipe.to_yaml().encode())
    run.write(f"checkpoints/{checkpoints.folder_name(7)}/{checkpoints.FILE}", checkpoints.pack(state))
    return run.uri


@pytest.fixture(scope="module")
def runs(prepared, tmp_path_factory) -> list[str]:
    return [
        make_run(tmp_path_factory.mktemp("runs") / name, prepared, seed) for seed, name in enumerate(("one", "two"))
    ]


@pytest.fixture(scope="module")
def scored(runs, local_ray) -> dict:
    return evaluate_robustness(runs[0])


def test_the_pass_equals_a_plain_loop(scored, runs, prepared):
    method, recipe, _ = load_method(runs[0])
    local = fs.LocalFileSystem()
    frames = list(PreparedFrames(local, prepared, read_catalog(local, prepared).of_split("val")))
    plain = score_variants(method.deployed_model, frames, nuscenes.SPEC, resolve_sensor(recipe.data))
    for corruption, parts in scored["corruptions"].items():
        for severity in ("light", "moderate", "heavy"):
            assert parts[severity]["confusion"] == plain[f"{corruption}/{severity}"].point.as_list()
            assert parts[severity]["points"] == int(plain[f"{corruption}/{severity}"].point.counts.sum())
    assert scored["clean"]["point"]["confusion"] == plain["clean"].point.as_list()
    assert scored["model"] == "teacher"


def test_what_is_written_is_complete(scored, runs):
    assert json.loads(Path(runs[0], "evaluation", "robustness-val.json").read_text()) == scored
    assert not Path(runs[0], "evaluation", "robustness-val").exists()
    assert len(scored["settings"]) == 24
    assert sum("not certain, crosstalk" in note for note in scored["notes"]) == 1
    assert scored["mce_ratio"] is None
    means = [
        part["mean_miou_ratio"] / scored["clean"]["point"]["miou_ratio"] for part in scored["corruptions"].values()
    ]
    assert scored["mrr_ratio"] == pytest.approx(sum(means) / 8)


def test_errors_are_relative_to_a_run_on_the_same_frames(scored, runs, local_ray, capsys):
    with pytest.raises(DataError, match=r"one has no robustness-train.json: run `ray-lidarseg evaluate --robustness`"):
        evaluate_robustness(runs[1], split="train", baseline=runs[0])
    second = evaluate_robustness(runs[1], baseline=runs[0])
    assert second["baseline"]["name"] == "one"
    for name, part in second["corruptions"].items():
        rest = 1 - scored["corruptions"][name]["mean_miou_ratio"]
        assert part["ce_ratio"] == pytest.approx((1 - part["mean_miou_ratio"]) / rest)
    table = capsys.readouterr().out
    assert "errors relative to one" in table
    assert "note: not certain, snow" in table


def test_a_stopped_pass_goes_on_and_counts_every_frame_once(scored, runs, local_ray, monkeypatch, capsys):
    real = corrupted.results

    def cut(positions, *others):
        for number, part in enumerate(real(positions, *others)):
            if number == 2:
                raise KeyboardInterrupt
            yield part

    Path(runs[0], "evaluation", "robustness-val.json").unlink()
    monkeypatch.setattr(corrupted, "results", cut)
    with pytest.raises(KeyboardInterrupt):
        evaluate_robustness(runs[0])
    monkeypatch.setattr(corrupted, "results", real)
    assert evaluate_robustness(runs[0]) == scored
    assert "2 of 3 frames are counted already" in capsys.readouterr().out


def test_baselines_of_other_frames_and_a_baseline_without_corruptions_are_refused(scored, runs, prepared, capsys):
    with pytest.raises(DataError, match=r"6,019 official validation frames of nuscenes, and these are 3 frames"):
        evaluate_robustness(runs[1], baseline="minkunet18")
    file = Path(runs[0], "evaluation", "robustness-val.json")
    file.write_text(json.dumps({**json.loads(file.read_text()), "dataset": "acme"}))
    with pytest.raises(DataError, match=r"scored on something else.*dataset acme, not nuscenes"):
        evaluate_robustness(runs[1], baseline=runs[0])
    assert main(["evaluate", runs[0], "--baseline", runs[1]]) == 2
    assert "give --robustness, too" in capsys.readouterr().err
