import threading

import numpy as np
import pytest
from PIL import Image

from ray_lidarseg.errors import DataError
from ray_lidarseg.prepare.image_batches import Clock, each_image, read_image
from ray_lidarseg.sample import CameraImage


def doubled(given: list[dict]) -> list[int]:
    if len(given) > 1 and any(item["value"] == 3 for item in given):
        raise RuntimeError("out of memory")
    if any(item["value"] == 5 for item in given):
        raise ValueError("no")
    return [2 * item["value"] for item in given]


def read(job: int) -> dict:
    if job == 7:
        raise DataError("torn")
    return {"value": job}


def run(jobs: list[int], batch: int, call=doubled) -> dict:
    return dict(each_image(jobs, read, call, lambda given, output: (given["value"], output), batch, 2, Clock()))


def test_each_image_comes_back_with_its_own_output_and_errors_cost_their_image_alone() -> None:
    for batch in (1, 2, 3, 20):
        found = run(list(range(10)), batch)
        assert list(found) == list(range(10))
        assert {job: value for job, value in found.items() if job not in (5, 7)} == {
            job: (job, 2 * job) for job in range(10) if job not in (5, 7)
        }
        assert [type(found[5]), type(found[7])] == [ValueError, DataError]


def test_no_images_at_all() -> None:
    assert run([], 3) == {}


def test_no_more_than_three_batches_are_in_memory() -> None:
    """Read but not yet given back: the one in the teacher, the one before and the one after it."""
    alive, most, lock = 0, 0, threading.Lock()

    def counting(job: int) -> dict:
        nonlocal alive, most
        with lock:
            alive += 1
            most = max(most, alive)
        return {"value": job}

    for _ in each_image(list(range(100, 160)), counting, doubled, lambda given, output: output, 4, 2, Clock()):
        with lock:
            alive -= 1
    assert alive == 0
    assert 8 <= most <= 12


def test_the_clock_counts_the_teacher_alone() -> None:
    clock = Clock()
    list(each_image([1, 2], read, doubled, lambda given, output: threading.Event().wait(0.05), 1, 1, clock))
    assert 0.0 < clock.seconds < 0.05


def camera(path: str, size: tuple[int, int]) -> CameraImage:
    return CameraImage("CAM", path, np.eye(3), np.eye(4), 0, *size)


@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_truncated_images_and_images_of_another_size(tmp_path, suffix: str) -> None:
    file = tmp_path / f"a.{suffix}"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (20, 30, 3), np.uint8)).save(file)
    assert read_image(camera(str(file), (30, 20))).shape == (20, 30, 3)
    with pytest.raises(DataError, match=r"a.\w+ has 30 x 20 pixels, its calibration is for 20 x 30: give the original"):
        read_image(camera(str(file), (20, 30)))
    file.write_bytes(file.read_bytes()[:-200])
    with pytest.raises(DataError, match=r"a.\w+ is not a whole image: "):
        read_image(camera(str(file), (30, 20)))


def test_grey_images_are_given_as_colour(tmp_path) -> None:
    Image.fromarray(np.full((4, 6), 7, np.uint8)).save(tmp_path / "a.png")
    assert read_image(camera(str(tmp_path / "a.png"), (6, 4))).tolist() == [[[7] * 3] * 6] * 4
