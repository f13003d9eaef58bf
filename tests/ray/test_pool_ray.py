import os
import re
import time

import pyarrow as pa
import pytest
import ray

from ray_lidarseg.errors import ResourceError
from ray_lidarseg.runtime import pool

pytestmark = pytest.mark.ray


@pytest.fixture
def doubler():
    class Doubler:
        def __init__(self, factor: int, deadly: int):
            self.factor, self.deadly = factor, deadly

        def __call__(self, rows: pa.Table) -> pa.Table:
            values = rows.column("value").to_pylist()
            if self.deadly in values:
                os._exit(1)
            return pa.table({"value": values, "doubled": [self.factor * value for value in values]})

    return Doubler


def test_every_row_comes_back_in_groups(local_ray, doubler):
    rows = [{"value": value} for value in range(7)]
    results = list(pool.stream(rows, doubler, {"factor": 2, "deadly": -1}, group=2))
    assert sorted(row["value"] for row in results) == list(range(7))
    assert all(row["doubled"] == 2 * row["value"] for row in results)


def test_a_group_that_kills_its_process_is_left_out(local_ray, doubler, capfd):
    rows = [{"value": value} for value in range(8)]
    results = list(pool.stream(rows, doubler, {"factor": 2, "deadly": 5}, group=2))
    assert sorted(row["value"] for row in results) == [0, 1, 2, 3, 6, 7]
    said = capfd.readouterr()
    assert "Traceback" not in said.out + said.err


def test_what_a_deadly_row_took_along_comes_in_a_second_pass(local_ray, doubler, capfd, monkeypatch):
    """The first pass has a group at hand, so no actor waits for Ray Data; the second has none that could be lost."""
    strategy, at_hand = ray.data.ActorPoolStrategy, []

    def recorded(**settings):
        at_hand.append(settings["max_tasks_in_flight_per_actor"])
        return strategy(**settings)

    monkeypatch.setattr(ray.data, "ActorPoolStrategy", recorded)
    rows = [{"value": value} for value in range(12)]
    of_one = lambda row: (row["value"],)  # noqa: E731
    results = list(pool.stream_twice(rows, doubler, {"factor": 2, "deadly": 5}, 2, "value", of_one))
    assert sorted(row["value"] for row in results) == [value for value in range(12) if value != 5]
    assert at_hand == [2, 1]
    # its own group, and the one at hand in its actor where there was one
    assert re.search(r"[24] of 12 gave no result, their process or node died: once more", capfd.readouterr().out)


def test_a_deadly_group_does_not_take_along_the_only_other_one(local_ray, doubler):
    rows = [{"value": value} for value in range(4)]
    of_one = lambda row: (row["value"],)  # noqa: E731
    results = list(pool.stream_twice(rows, doubler, {"factor": 2, "deadly": 1}, 2, "value", of_one))
    assert sorted(row["value"] for row in results) == [0, 2, 3]


def test_no_rows_need_no_pool(doubler):
    assert list(pool.stream([], doubler, {"factor": 2, "deadly": -1}, group=2)) == []


@pytest.fixture
def witness():
    class Witness:
        def __call__(self, rows: pa.Table) -> pa.Table:
            time.sleep(0.3)
            return pa.table({"process": [os.getpid()] * len(rows)})

    return Witness


def test_a_busy_pool_grows_to_its_largest_size_and_no_further(local_ray, witness):
    """With Ray Data's own threshold a pool of actors that hold one task each stays at its smallest size for ever."""
    rows = [{"value": value} for value in range(60)]
    processes = {row["process"] for row in pool.stream(rows, witness, {}, 1, pool.Actors(min_size=1, max_size=2))}
    assert len(processes) == 2


def test_a_gpu_where_there_is_none_is_refused_at_once(local_ray):
    message = r"1 worker\(s\) of 1 CPU and 1 GPU each, but the cluster has 4 CPU and 0 GPU .*--gpus"
    with pytest.raises(ResourceError, match=message):
        pool.Actors(num_gpus=1).require()
    with pytest.raises(ResourceError, match=r"9 worker\(s\).*ask for fewer actors \(--actors MIN:MAX\)"):
        pool.Actors(min_size=9).require()


def test_a_pool_is_no_larger_than_its_work_and_the_cluster(local_ray):
    assert pool.Actors().sizes(100) == (1, 4)
    assert pool.Actors(num_cpus=2).sizes(100) == (1, 2)
    assert pool.Actors(min_size=3, max_size=8).sizes(2) == (2, 2)
    assert pool.Actors(min_size=1, max_size=8).sizes(100) == (1, 8)  # an autoscaling cluster grows with the pool
