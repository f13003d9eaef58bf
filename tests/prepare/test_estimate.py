from pathlib import Path

import pyarrow.parquet as pq
import pytest

from ray_lidarseg.errors import DataError
from ray_lidarseg.prepare import Teachers, estimate
from ray_lidarseg.prepare.estimate import StageEstimate, _sample, _table
from ray_lidarseg.prepare.stage_report import Result, Spent
from ray_lidarseg.prepare.status import readable
from ray_lidarseg.runtime.pool import Actors
from tests.prepare.camera_log import frame_id, write_log


def spent(*seconds: float) -> Spent:
    found = Spent()
    for number, value in enumerate(seconds):
        found.add(Result(f"f{number}", num_bytes=100, seconds=value, model_seconds=value / 2))
    return found


def test_the_frame_that_warms_up_is_left_out() -> None:
    assert spent(9.0, 1.0, 2.0, 3.0).seconds_per_frame == 2.0
    assert spent(9.0).seconds_per_frame == 9.0
    assert spent().seconds_per_frame == 0.0
    assert (spent(9.0, 1.0).bytes_per_frame, spent(4.0, 2.0).model_ratio) == (100.0, 0.5)


def test_hours_and_cost_by_hand() -> None:
    stages = [StageEstimate("masks-1", "GPU", 28_130, 12.0, 3 * 2**30), StageEstimate("pairs-1", "CPU", 3600, 0.5, 0.0)]
    assert stages[0].worker_hours == pytest.approx(93.766, abs=1e-3)
    *rows, total = _table(stages, 4, 2.0)
    assert rows[0] == "measured on 4 frames with one worker:"
    assert "28,130" in rows[2]
    assert "93.8 GPU" in rows[2]
    assert total == "in all 93.8 GPU-worker-hours and 0.5 CPU-worker-hours, 3 GiB, 188.53 at 2 an hour and worker"
    assert _table([], 4, 0.0)[-1] == "in all nothing to do, 0 B"


def test_the_sample_is_spread_over_the_index(tmp_path: Path) -> None:
    index = write_log(tmp_path, 9)
    for count, numbers in ((3, [0, 4, 8]), (1, [0]), (20, list(range(9)))):
        file = tmp_path / "few.parquet"
        file.write_bytes(_sample(index, count))
        assert pq.read_table(file).column("frame_id").to_pylist() == [frame_id(number) for number in numbers]


def test_the_sample_is_of_the_splits_whose_images_are_shown(tmp_path: Path) -> None:
    index, file = write_log(tmp_path, 5, val=(0, 2)), tmp_path / "few.parquet"
    file.write_bytes(_sample(index, 9, ("train",)))
    assert pq.read_table(file).column("frame_id").to_pylist() == [frame_id(number) for number in (1, 3, 4)]
    with pytest.raises(DataError, match=r"holds no frame of --image-splits test"):
        _sample(index, 9, ("test",))


def test_nothing_to_measure_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"--sample 0: at least one frame"):
        estimate("i", str(tmp_path), Teachers(), Actors(), sample=0)


@pytest.mark.parametrize(
    ("num_bytes", "text"), [(0, "0 B"), (1536, "1.5 KiB"), (5 * 2**40, "5 TiB"), (2**60, "1.05e+06 TiB")]
)
def test_bytes_for_people(num_bytes: float, text: str) -> None:
    assert readable(num_bytes) == text
