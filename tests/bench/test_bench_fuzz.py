import numpy as np
import pytest

from ray_lidarseg.errors import DataError
from tests.bench import fuzz
from tests.fuzz.readers import Reader
from tests.fuzz.running import OUTCOMES


def reader(read) -> Reader:
    return Reader("toy", (("toy", b"12345678"),), lambda name, content, folder: read(content))


def refuse(content: bytes) -> None:
    raise DataError("no")


@pytest.mark.parametrize(
    ("read", "kind"),
    [
        (len, "read"),
        (refuse, "refused"),
        (lambda content: 1 // 0, "other"),
        (lambda content: np.ones(700 << 17).sum(), "memory"),
    ],
)
def test_each_end_is_counted_as_what_it_is(read, kind: str) -> None:
    row = fuzz.measure(reader(read), seed=1, number=2)
    assert {name: row[name] for name in OUTCOMES if row[name]} == {kind: 2}
    assert row["crashed"] == 0


def test_a_case_that_kills_its_process_is_counted_and_the_others_go_on() -> None:
    import os

    row = fuzz.measure(reader(lambda content: os._exit(3) if b"1" in content else None), seed=1, number=6)
    assert row["crashed"] > 0
    assert row["crashed"] + row["read"] == 6
