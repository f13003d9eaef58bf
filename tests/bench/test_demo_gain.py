from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from ray_lidarseg.demo import demo_recipe
from tests.bench.demo_gain import LENGTHS, _jobs, table_of, verdict
from tests.bench.ledger import Ledger


def rows(method: str, length: float, *values: float) -> list[dict]:
    return [
        {"method": method, "length": length, "seed": seed, "miou_ratio": value / 100}
        for seed, value in enumerate(values)
    ]


BASE = rows("supervised", 0.5, 30, 32, 34) + rows("supervised", 1.0, 20, 22, 24)


def test_labels_only_count_at_their_best_length():
    is_good, sentence = verdict(table_of(BASE + rows("lasermix", 1.0, 34, 36, 38)))
    assert is_good
    gained = "+4.0, spread 2.0; in the same world 4.0 ± 0.0, better in 3 of 3"
    assert sentence == f"labels only 32.0 ± 2.0; lasermix 36.0 ± 2.0 ({gained})"


@pytest.mark.parametrize(
    ("lasermix", "plus"),
    [
        ((33, 33.5, 34), (40, 41, 42)),  # +1.5 is inside the spread of 2
        ((36, 36, 36), (35, 35, 35)),  # LaserMix++ below LaserMix
        ((36, 36, 36), (38, 30, 40)),  # LaserMix++ scatters
    ],
)
def test_what_is_no_gain_fails(lasermix, plus):
    table = table_of(BASE + rows("lasermix", 1.0, *lasermix) + rows("lasermix_pp", 1.0, *plus))
    assert not verdict(table)[0]


def test_training_scans_without_labels_are_a_table_of_their_own():
    table = table_of([{**row, "unlabelled_miou_ratio": row["miou_ratio"] / 2} for row in BASE], "unlabelled_miou_ratio")
    assert table["supervised", 0.5] == {0: 15.0, 1: 16.0, 2: 17.0}


def test_two_seeds_prove_nothing():
    few = rows("supervised", 1.0, 30, 31) + rows("lasermix", 1.0, 40, 41)
    assert not verdict(table_of(few))[0]


def test_the_committed_rows_are_of_the_demos_network_and_of_no_other():
    ledger = Ledger(Path(__file__).parent / "results" / "demo_gain.json")
    flags = {"preset": "demo", "methods": ["supervised", "lasermix_pp"], "lengths": LENGTHS, "folder": Path("build")}
    found = [ledger.find(job.key) for job in _jobs(SimpleNamespace(**flags, overrides=[]), 0)]
    assert [row and row["parameters"] for row in found] == [58824] * 4
    changed = _jobs(SimpleNamespace(**flags, overrides=["model.blocks=[3, 4, 6, 3]"]), 0)
    assert [ledger.find({**job.key, "overrides": ""}) for job in changed] == [None] * 4


@pytest.mark.parametrize("natively", [True, False])
def test_the_demo_computes_in_bf16_only_where_the_processor_has_it(monkeypatch, natively):
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: natively)
    assert demo_recipe(Path("demo"), "lasermix").train.amp == ("bf16" if natively else "auto")
