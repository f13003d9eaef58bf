"""What the image benchmark runs, and what it concludes from its figures."""

import sys

import pytest

from ray_lidarseg.synthetic.options import with_options
from ray_lidarseg.synthetic.presets import PRESETS
from ray_lidarseg.training.run_folder import differing_keys
from tests.bench import image_lasermix as bench


@pytest.mark.parametrize(
    ("ours", "is_good"),
    [
        ([31, 32, 33], True),
        ([31, 33], False),
        ([20, 20.2, 20.4], False),
        ([19, 30, 41], False),
        ([float("nan"), 40, 40], False),
    ],
)
def test_lasermix_must_be_better_by_more_than_the_spread(ours, is_good):
    few = {"supervised": [10, 11, 10.5], "lasermix": [40, 41, 40.5]}
    table = {0.01: few, 0.1: {"supervised": [19, 21, 20], "lasermix": ours}}
    good, sentence = bench.verdict(table)
    assert good == is_good
    assert sentence.startswith("1% labels LaserMix - sup-only = +30.0 (spread 0.5); 10% labels")


def test_runs_of_methods_differ_in_the_method_only_and_those_of_seeds_in_seeds():
    base, other, seed = (
        bench.recipe("shards", method, 0.1, seed, 8, ["optim.lr=0.5"])
        for method, seed in (("lasermix", 0), ("supervised", 0), ("lasermix", 2))
    )
    assert {key.split(".")[0] for key in differing_keys(base, other)} == {"method"}
    assert set(differing_keys(base, seed)) == {"split.seed", "seed"}
    assert (base.train.steps, base.train.evaluate_every, base.optim.lr) == (8, 8, 0.5)


def test_a_tiny_world_is_prepared_once(tmp_path, monkeypatch):
    options = {**bench.OPTIONS, "frames": 1, "image_width_px": 32, "train_scenes": 1, "val_scenes": 1}
    preset = with_options(PRESETS["tiny"], options)
    prepared = bench.prepared_images(tmp_path, preset, 0)
    monkeypatch.setattr(bench.nuscenes_writer, "write_scene", lambda *_: pytest.fail("made twice"))
    assert bench.prepared_images(tmp_path, preset, 0) == prepared
    assert len(bench.fs.LocalFileSystem().get_file_info(bench.fs.FileSelector(prepared))) == 2  # a shard, the catalog


@pytest.mark.parametrize(("mious", "code"), [({"supervised": 0.2, "lasermix": 0.3}, 0), ({}, 1)])
def test_the_exit_code_is_the_verdict(monkeypatch, tmp_path, capsys, mious, code):
    def trained(ledger, jobs, at_once, prepare):
        figures = {
            "labelled_frames": 9,
            "parameters": 1,
            "train_steps": 9,
            "iou_ratio": [0.5] * 15 + [None],
            "commit": "c",
            "hardware": "h",
        }
        return [{**job.key, **figures, "miou_ratio": mious.get(job.key["method"], 0.25)} for job in jobs]

    monkeypatch.setattr(bench, "prepared_images", lambda *_: "shards")
    monkeypatch.setattr(bench, "measure_all", trained)
    monkeypatch.setattr(sys, "argv", ["image_lasermix", "--folder", str(tmp_path), "--seeds", "0", "1", "2"])
    assert bench.main() == code
    last = capsys.readouterr().out.splitlines()[-1]
    assert ("ok" if code == 0 else "FAILED") in last
    assert "demo-seed0" in last
