import threading
import time
from contextlib import closing

import pytest

from ray_lidarseg.training.reading_ahead import read_ahead

NAME = "next-step"


def running() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith(NAME)]


def test_every_step_comes_once_and_in_order() -> None:
    assert list(read_ahead(lambda step: step * step, range(3, 8))) == [9, 16, 25, 36, 49]
    assert list(read_ahead(str, range(5, 5))) == []
    assert not running()


def test_the_next_step_is_read_while_the_one_before_computes_and_no_further_one() -> None:
    begun = [threading.Event() for _ in range(5)]

    def read(step: int) -> int:
        begun[step].set()
        return step

    with closing(read_ahead(read, range(5))) as steps:
        assert next(steps) == 0
        assert begun[1].wait(10)  # although nobody has asked for it
        time.sleep(0.05)
        assert not begun[2].is_set()
        assert next(steps) == 1
        assert begun[2].wait(10)


def test_an_error_comes_where_its_step_would_have() -> None:
    def read(step: int) -> int:
        if step == 2:
            raise ValueError("step 2 is broken")
        return step

    steps = read_ahead(read, range(6))
    assert [next(steps), next(steps)] == [0, 1]
    with pytest.raises(ValueError, match="step 2 is broken"):
        next(steps)
    assert not running()


def test_closing_waits_for_the_read_that_has_begun_and_leaves_no_thread() -> None:
    ended = []

    def read(step: int) -> int:
        time.sleep(0.05)
        ended.append(step)
        return step

    with closing(read_ahead(read, range(100))) as steps:
        assert next(steps) == 0
        assert running()
    assert not running()
    assert ended == [0, 1]
