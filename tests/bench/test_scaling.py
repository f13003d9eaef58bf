"""The model of wall time and cost, on numbers one can do by hand."""

from dataclasses import replace

import pytest

from tests.bench import gpu_step, scaling
from tests.bench.gpu_step import PUBLISHED_S, Gpu, Host, predicted
from tests.bench.scaling import RESULTS, Assumed, Measured, fleet_of, gpu_steps, measured, preparing, training

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


def test_a_gpu_waits_for_its_kernels_or_for_the_host_that_starts_them():
    same, host = gpu_step.PUBLISHED_ON, Host(launch_us=10.0, wait_us=1000.0, pairs=1, voxels=420_000)
    row = {"method": "supervised", "waits": 3, "launches": 1000}
    busy = predicted(row, same, "spconv", host)
    assert busy["kernels_ms"] == pytest.approx(667.0)  # as published
    assert (busy["step_ms"], busy["held_up_by"]) == (pytest.approx(667.0 + 3), "kernels")
    idle = predicted(row, same, "spconv", replace(host, voxels=420))
    assert (idle["step_ms"], idle["held_up_by"]) == (pytest.approx(10.0 + 3), "launches")
    twice = predicted(row, Gpu(2 * same.tb_per_s, same.tflops), "spconv", host)
    assert twice["kernels_ms"] == pytest.approx(667.0 / 2)
    mixed = predicted({**row, "method": "lasermix"}, same, "spconv", replace(host, pairs=2))
    assert mixed["kernels_ms"] == pytest.approx(2 * (4 + 2 / 3) * 667.0)
    assert predicted(row, same, "spconv", host, gflop=182e3)["kernels_ms"] == pytest.approx(1000.0)  # products alone


def test_launches_of_today_are_predicted_beside_those_of_before():
    found = measured(RESULTS, "minkunet", "lasermix")
    rows = gpu_steps(RESULTS, found, "lasermix", Host())
    assert {(row["gpu"], row["engine"]) for row in rows} == {(a, b) for a in gpu_step.GPUS for b in PUBLISHED_S}
    assert not gpu_step.slower_than_before(rows)
    worse = [{**row, "step_ms": 1e9} if row["code"] == gpu_step.NOW else row for row in rows]
    assert len(gpu_step.slower_than_before(worse)) == len(gpu_step.GPUS) * len(PUBLISHED_S)
