"""What the robustness benchmark concludes from its figures, and what it makes of an index."""

import json
import math
import sys

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image
from pyarrow import fs

from ray_lidarseg.datasets.catalog import write_catalog
from ray_lidarseg.datasets.corruptions.severities import CORRUPTIONS
from ray_lidarseg.datasets.parquet_files import parquet_bytes
from ray_lidarseg.datasets.sensor import resolve_sensor
from ray_lidarseg.datasets.shards import keyframe_table, write_shard
from ray_lidarseg.methods.build import build_method
from ray_lidarseg.metrics.scoring import Scores
from ray_lidarseg.metrics.variant_scoring import VARIANTS
from ray_lidarseg.recipe.load import override
from ray_lidarseg.recipe.schema import Recipe
from ray_lidarseg.sample import CameraImage, Keyframe
from ray_lidarseg.training import checkpoints
from ray_lidarseg.training.run_folder import RunFolder
from tests.bench import robust_run, robustness
from tests.bench.robust_run import OPTIONS, figures


def row(name: str, seed: int, clean: float, corrupted: float) -> dict:
    ratios = dict.fromkeys(CORRUPTIONS, [corrupted] * 3)
    options = dict.fromkeys(OPTIONS, clean)
    return {
        **{
            "row": name,
            "seed": seed,
            "clean_miou_ratio": clean,
            "corrupted_miou_ratio": ratios,
            "options_miou_ratio": options,
        },
        **{"commit": "c", "hardware": "h", "frames": 2, "steps": 3, "world": "w"},
    }


BASE = [row("sup-only", seed, 0.5, value) for seed, value in enumerate((0.3, 0.4, 0.5))]


def test_errors_are_relative_to_the_mean_of_labels_only():
    table = robustness.table_of([*BASE, row("lasermix", 0, 0.5, 0.7)])
    assert [part["mce"] for part in table["sup-only"].values()] == pytest.approx([700 / 6, 100, 500 / 6])
    assert table["lasermix"][0]["mce"] == pytest.approx(50)
    assert table["lasermix"][0]["mrr"] == pytest.approx(140)
    assert table["lasermix"][0]["fog"] == pytest.approx(70)


def test_a_gain_counts_beyond_the_spread_and_lower_errors_are_better():
    ours = [row("lasermix", seed, 0.5, 0.65) for seed in range(3)]
    sentence = robustness.verdict(robustness.table_of(BASE + ours), "lasermix")
    assert "clean +0.0 (spread 0.0): within the spread" in sentence
    assert "mrr +50.0 (spread 20.0): better" in sentence
    assert "mce -41.7 (spread 16.7): better" in sentence
    few = robustness.table_of(BASE + ours[:2])
    assert "too few seeds to say" in robustness.verdict(few, "lasermix")


def test_figures_are_those_of_the_counts():
    scores = {name: Scores.empty(2) for name in (*VARIANTS, *OPTIONS)}
    for part in scores.values():
        part.by_range.add(np.array([0, 1]), np.array([0, 1]), np.array([1.0, 2.0]))
    scores["fog/heavy"].by_range.add(np.array([0, 0]), np.array([1, 1]), np.array([1.0, 2.0]))
    found = figures(scores)
    assert found["corrupted_miou_ratio"]["fog"] == [1.0, 1.0, pytest.approx(1 / 3, abs=1e-5)]
    assert found["clean_miou_ratio"] == found["options_miou_ratio"]["knn"] == 1.0
    assert math.isnan(found["ece_ratio"])


@pytest.mark.parametrize("fault", ["blur", "missing_camera"])
def test_an_index_with_failing_cameras_names_images_that_are_there(tmp_path, fault):
    file = tmp_path / "a.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (20, 40, 3), np.uint8)).save(file)
    cameras = tuple(CameraImage(f"C{n}", str(file), np.eye(3), np.eye(4), 0, 40, 20) for n in range(2))
    frame = Keyframe("a", "nuscenes", "s", "train", 0, "x.bin", "x.label", cameras=cameras)
    (tmp_path / "index.parquet").write_bytes(parquet_bytes(keyframe_table([frame]), 1))
    robustness.faulty_index(str(tmp_path / "index.parquet"), str(tmp_path / "faulty.parquet"), fault, "light")
    (changed,) = (Keyframe.from_row(one) for one in pq.read_table(tmp_path / "faulty.parquet").to_pylist())
    assert len(changed.cameras) == (1 if fault == "missing_camera" else 2)
    assert (changed.cameras[0].uri == str(file)) == (fault == "missing_camera")
    assert Image.open(changed.cameras[0].uri).size == (40, 20)


@pytest.mark.parametrize(("clean", "code"), [(0.5, 0), (math.nan, 1)])
def test_a_figure_that_is_not_finite_fails(monkeypatch, tmp_path, capsys, clean, code):
    made = {(name, seed): row(name, seed, clean, 0.4) for name in robustness.ROWS for seed in range(3)}
    monkeypatch.setattr(
        robustness, "measure_all", lambda ledger, jobs, *_: [made[job.key["row"], job.key["seed"]] for job in jobs]
    )
    monkeypatch.setattr(sys, "argv", ["robustness", "--folder", str(tmp_path)])
    assert robustness.main() == code
    last = capsys.readouterr().out.splitlines()[-1]
    assert ("9 runs, all finite: ok" in last) == (code == 0)
    assert ("FAILED: no finite figure of sup-only, seed 0" in last) == (code == 1)


def test_runs_of_another_checkout_are_scored_as_far_as_they_have_ended(monkeypatch, tmp_path, capsys):
    others = tmp_path / "other" / "runs" / "abc123"
    monkeypatch.setattr(
        sys, "argv", ["robustness", "--folder", str(tmp_path), "--runs", str(others), "--seeds", "0", "--ratio", "0.01"]
    )
    args = robustness._arguments()
    job = robustness._job(args, "sup-only", 0)
    run = others / job.folder.name
    run.mkdir(parents=True)
    (run / "figures.json").write_text(f'{{"fingerprint": "{job.recipe.fingerprint}"}}')
    scored = []

    def measure(ledger, jobs, at_once, prepare):
        prepare()
        scored.extend(job.folder for job in jobs)
        return [row(job.key["row"], job.key["seed"], 0.5, 0.4) | {"trained_commit": "abc123"} for job in jobs]

    monkeypatch.setattr(robustness, "measure_all", measure)
    assert robustness.main() == 1
    assert scored == [tmp_path / "robust" / "abc123" / run.name]
    assert (scored[0] / robust_run.RUN).resolve() == run
    said = capsys.readouterr().out
    assert "trained at abc123" in said
    assert "FAILED: no finite figure of lasermix, seed 0, all, seed 0" in said


def test_a_run_that_has_ended_is_read_and_nothing_is_written_into_it(monkeypatch, tmp_path):
    recipe = override(Recipe(), {"data.prepared": "nowhere"})
    (tmp_path / "wanted.yaml").write_text(recipe.to_yaml())
    run = tmp_path / "abc123" / "run"
    run.mkdir(parents=True)
    (run / "figures.json").write_text(f'{{"fingerprint": "{recipe.fingerprint}", "miou_ratio": 0.5}}')
    scores = {name: Scores.empty(2) for name in (*VARIANTS, *OPTIONS)}
    monkeypatch.setattr(robust_run, "scored", lambda recipe, place, file, frames: scores if place == run else None)
    robust_run.link(tmp_path / "scoring", run)
    robust_run.main(str(tmp_path / "wanted.yaml"), tmp_path / "scoring")
    made = json.loads((tmp_path / "scoring" / "figures.json").read_text())
    assert (made["miou_ratio"], made["trained_commit"], made["frames"]) == (0.5, "abc123", 0)
    assert [file.name for file in run.iterdir()] == ["figures.json"]


def test_a_stopped_scoring_goes_on_and_counts_every_frame_once(monkeypatch, tmp_path):
    local, rng = fs.LocalFileSystem(), np.random.default_rng(0)
    frames = [
        Keyframe(
            *(f"f{number}", "nuscenes", "s", "val", number, "x.bin", "x.label"),
            points=rng.uniform(0, 1, (60, 4)).astype(np.float32) * [20, 20, 2, 1],
            labels=rng.integers(0, 16, 60).astype(np.uint8),
        )
        for number in range(4)
    ]
    write_shard(local, str(tmp_path / "p"), frames)
    write_catalog(local, str(tmp_path / "p"))
    model = {"name": "fidnet", "height_px": 4, "width_px": 16, "width_factor": 0.0625, "blocks": [1, 1, 1, 1]}
    recipe = override(Recipe(), {"data.prepared": str(tmp_path / "p"), "model": model, "method.name": "supervised"})
    run = RunFolder(str(tmp_path / "run"))
    method = build_method(recipe, resolve_sensor(recipe.data), 16)
    run.write("recipe.yaml", recipe.to_yaml().encode())
    state = checkpoints.pack({"step": 1, "method": method.state_dict(), "metrics": ""})
    run.write(f"{checkpoints.FOLDER}/{checkpoints.folder_name(1)}/{checkpoints.FILE}", state)
    real, seen = robust_run.score_variants, []

    def stops(model, frames, *others):
        seen.append(frames[0].frame_id)
        if len(seen) == 3:
            raise KeyboardInterrupt
        return real(model, frames, *others)

    monkeypatch.setattr(robust_run, "_SAVE_EVERY", 1)
    monkeypatch.setattr(robust_run, "score_variants", stops)
    with pytest.raises(KeyboardInterrupt):
        robust_run.scored(recipe, tmp_path / "run", tmp_path / "scored.json", 3)
    scores = robust_run.scored(recipe, tmp_path / "run", tmp_path / "scored.json", 3)
    assert seen == ["f0", "f1", "f2", "f2"]  # three of four, evenly spread
    assert {part.num_frames for part in scores.values()} == {3}
    assert set(scores) == {*VARIANTS, *OPTIONS}
    assert (
        robust_run.scored(recipe, tmp_path / "run", tmp_path / "scored.json", 3)["fog/heavy"].to_json()
        == scores["fog/heavy"].to_json()
    )
    assert len(seen) == 4
