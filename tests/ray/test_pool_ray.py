import os

import pyarrow as pa
import pytest

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


def test_a_group_that_kills_its_process_is_left_out(local_ray, doubler):
    rows = [{"value": value} for value in range(8)]
    results = list(pool.stream(rows, doubler, {"factor": 2, "deadly": 5}, group=2))
    assert sorted(row["value"] for row in results) == [0, 1, 2, 3, 6, 7]


def test_no_rows_need_no_pool(doubler):
    assert list(pool.stream([], doubler, {"factor": 2, "deadly": -1}, group=2)) == []
