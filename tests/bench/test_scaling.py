"""The model of wall time and cost, on numbers one can do by hand."""

from dataclasses import replace

import pytest

from tests.bench import scaling
from tests.bench.scaling import RESULTS, Assumed, Measured, fleet_of, measured, preparing, training

FOUND = Measured(1.0, 0.5, 100.0, 1_000_000, 0.25, 0.0, 1e9, ray_s=3600.0)
FREE = Assumed(gpu_tflops=1.0, gpu_share=1.0, link_gb_s=1e9, cores=1, price=2.0)  # 1,000 GFLOP/s a GPU


def test_a_fixed_batch_uses_as_many_gpus_as_it_has_scans():
    one, sixteen, more = (training(FOUND, FREE, gpus) for gpus in (1, 16, 64))
    assert one["step_s"] == pytest.approx(16 * 0.4)  # 100 GFLOP at half the width are 400 at its own
    assert sixteen["step_s"] == pytest.approx(0.4)
    assert {**more} == {**sixteen}
    assert sixteen["wall_h"] == pytest.approx(60_000 * 0.4 / 3600 + 1)
    assert sixteen["cost"] == pytest.approx(sixteen["wall_h"] * 16 * 2)
    assert training(FOUND, FREE, 3)["step_s"] == pytest.approx(6 * 0.4)  # of 16 scans one worker has six


def test_the_narrowest_part_holds_up_the_preparing():
    fast = replace(FREE, sam_s=0.0, clip_s=1 / 60)  # ten frames a second, and four by the core beside it
    assert preparing(FOUND, fast, 2)["limit"] == "cores beside them"
    assert preparing(FOUND, fast, 2)["wall_h"] == pytest.approx(34_149 / 8 / 3600 + 1)
    assert preparing(FOUND, replace(fast, cores=100), 2)["limit"] == "the teachers' GPUs"
    assert preparing(FOUND, replace(fast, store_puts=1.0), 2)["limit"] == "the store's requests"


def test_the_fleet_comes_in_waves_and_redoes_what_lost_nodes_held(monkeypatch):
    monkeypatch.setattr(scaling, "FLEET_FRAMES", 1200 * 60)
    found = replace(FOUND, prepare_s=1.0)
    sure = replace(FREE, sam_s=0.0, clip_s=0.0001, cores=10, boot_s=120, wave=8, losses=0.0, spot_price=1.0)
    row = fleet_of(found, sure, 8)  # 80 frames a second after two minutes: 15 minutes of work
    assert (row["wall_h"] * 60, row["redone"], row["limit"], row["fault"]) == (17, 0, "cores beside them", "")
    assert row["cost"] == pytest.approx(8 * 15 / 60)
    slow = fleet_of(found, replace(sure, wave=1), 8)  # one, then as many again as run
    assert slow["wall_h"] > row["wall_h"]
    lossy = fleet_of(found, replace(sure, losses=6.0), 8)
    assert lossy["redone"] > 0
    assert lossy["wall_h"] > row["wall_h"]


def test_the_committed_results_hold_what_the_model_reads():
    found = measured(RESULTS, "minkunet", "lasermix")
    assert 0 < found.decode_s < found.prepare_s < found.step_s
    with pytest.raises(LookupError, match=r"cost.json holds no row.*python -m tests.bench.cost"):
        measured(RESULTS, "pointnet", "lasermix")
