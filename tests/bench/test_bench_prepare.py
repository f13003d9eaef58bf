"""What the prepare benchmark concludes, and that its plain ways do the pipeline's work."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from safetensors.torch import save_file

from ray_lidarseg.foundation.clip_architecture import MINIATURE, build_clip_miniature
from ray_lidarseg.prepare import Teachers, prepare
from ray_lidarseg.sample import Keyframe
from tests.bench import preparing
from tests.bench.prepare import growth, repeated, same_layers, sustained, verdict
from tests.bench.process_tree import Sample, Watch, title
from tests.prepare.camera_log import CAMERAS, decoded, without_ray, write_log

COUNT = 6


@pytest.fixture
def teachers(tmp_path: Path) -> Teachers:
    folder = tmp_path / "clip"
    folder.mkdir()
    (folder / "open_clip_config.json").write_text(json.dumps(MINIATURE))
    save_file(build_clip_miniature(0).state_dict(), folder / "open_clip_model.safetensors")
    sets = ["masks.num_segments=4", "masks.sigma=0", "pairs.occlusion=no", f"features.checkpoint=local-dir:{folder}"]
    return Teachers.of("slic", "clip", sets)


def test_the_loop_writes_what_the_pipeline_writes(tmp_path: Path, teachers: Teachers, monkeypatch) -> None:
    without_ray(monkeypatch)
    index = write_log(tmp_path, COUNT)
    ours, plain, other = (str(tmp_path / name) for name in ("ours", "plain", "other"))
    decoded(index, ours)
    prepare(index, ours, teachers=teachers)
    figures = preparing.by_loop(index, plain, teachers)
    assert [frames for _, frames in figures.stages["all"]] == [4, 2]
    assert 0 < figures.model_s < figures.busy_s < figures.wall_s
    assert same_layers(teachers, ours, plain)
    fewer = repeated(Path(index), tmp_path / "fewer.parquet", COUNT, cameras=1)
    preparing.by_loop(str(fewer), other, teachers)
    assert not same_layers(teachers, ours, other)


def test_an_index_is_repeated_under_other_ids(tmp_path: Path) -> None:
    index = Path(write_log(tmp_path, 2))
    before, after = (
        [Keyframe.from_row(row) for row in pq.read_table(file).to_pylist()]
        for file in (index, repeated(index, tmp_path / "more.parquet", 5, cameras=1))
    )
    assert [frame.points_uri for frame in after] == [before[number % 2].points_uri for number in range(5)]
    assert len({frame.frame_id for frame in after}) == 5
    assert {tuple(camera.name for camera in frame.cameras) for frame in after} == {CAMERAS[:1]}


def test_speed_is_counted_from_the_end_of_each_workers_first_shard() -> None:
    ends = [(10.0, 4), (11.0, 4), (12.0, 4), (14.0, 2)]
    assert sustained(ends, workers=1) == (10.0, 14.0, 10)
    assert sustained(ends, workers=2) == (11.0, 14.0, 6)
    with pytest.raises(ValueError, match="more frames"):
        sustained(ends, workers=4)


def test_growth_is_a_line_without_the_first_third() -> None:
    ends = [(float(second), 10) for second in range(31)]  # 300 frames in 30 s behind the first shard
    rising = [Sample(float(t), 5000.0 if t < 10 else 1000.0 + 2 * (t - 10), 0.0, 0.0, 1) for t in range(-5, 40)]
    found = growth(rising, ends)
    assert found["samples"] == 21
    assert found["mean_mib"] == pytest.approx(1020)
    assert found["range_mib"] == pytest.approx(40)
    assert found["growth_ratio"] == pytest.approx(40 / 1020)
    assert found["mib_per_1000_frames"] == pytest.approx(200)
    falling = [Sample(sample.time_s, 9000 - sample.memory_mib, 0.0, 0.0, 1) for sample in rising]
    assert growth(falling, ends)["growth_ratio"] == 0
    with pytest.raises(ValueError, match="more frames"):
        growth(rising[:17], ends)


@pytest.mark.parametrize(
    ("cpu_s", "is_same", "growth_ratio", "is_good"),
    [(1.5, True, 0.05, True), (1.6, True, 0.0, False), (1.0, False, 0.0, False), (1.0, True, 0.06, False)],
)
def test_cost_sameness_and_memory_decide(cpu_s: float, is_same: bool, growth_ratio: float, is_good: bool) -> None:
    loop = {"way": "loop", "workers": 1, "cpu_s": 1.0, "frames_per_s": 1.0, "is_same": True}
    rows = [loop, {**loop, "way": "pipeline", "cpu_s": cpu_s, "is_same": is_same}]
    memory = [{"frames": 2000, "max_growth_ratio": growth_ratio, "peak_mib": 900.0}]
    assert verdict(rows, memory)[0] == is_good
    assert verdict(rows, [], is_quick=True)[0] == is_same


def test_a_tree_of_processes_is_summed() -> None:
    watch = Watch(os.getpid())
    alone = watch.sample()
    code = "import sys; a = bytearray(64 << 20); sum(range(3_000_000)); print(flush=True); sys.stdin.read()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        child.stdout.readline()
        both = watch.sample()
        child.stdin.close()
    gone = watch.sample()
    assert [sample.processes - alone.processes for sample in (both, gone)] == [1, 0]
    assert both.memory_mib > alone.memory_mib + 60
    assert gone.memory_mib < both.memory_mib - 60
    assert alone.cpu_s < both.cpu_s <= gone.cpu_s, "an ended process still counts"
    assert np.all(np.diff([sample.time_s for sample in watch.samples]) > 0)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["ray::MapWorker(MapBatches(MaskWorker)).__init__"], "ray::MapWorker(MapBatches(MaskWorker)).__init__"),
        (["/opt/raylet/raylet", "--x"], "raylet"),
        (["python", "-u", "/opt/dashboard/agent.py", "--raylet-name=y"], "/opt/dashboard/agent.py"),
        (["python", "/opt/default_worker.py", "--raylet-name=y"], "/opt/default_worker.py"),
        (["/bin/python", "-m", "tests.bench.preparing"], "python"),
        ([], ""),
    ],
)
def test_a_process_is_known_by_what_it_runs(arguments: list[str], expected: str) -> None:
    assert title(arguments) == expected
