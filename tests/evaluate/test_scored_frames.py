"""The pool that scores frames, played here: what gives no result the first time, and what never does."""

from contextlib import nullcontext

import pytest

from ray_lidarseg.errors import DataError
from ray_lidarseg.evaluate import scored_frames
from ray_lidarseg.evaluate.scored_frames import results


@pytest.fixture
def passes(monkeypatch):
    """Rows and group of each pass; the first ``lost`` rows of the first one give nothing, those in ``deadly`` never."""
    seen: list[tuple[list[int], int]] = []

    def play(lost: int, deadly: tuple[int, ...] = ()):
        def stream(rows, worker, arguments, group, at_hand):
            places = [row["position"] for row in rows]
            seen.append((places, group))
            for place in places[lost if len(seen) == 1 else 0 :]:
                if place not in deadly:
                    yield {"positions": [place], "error": ""}

        monkeypatch.setattr(scored_frames.pool, "stream", stream)
        monkeypatch.setattr(scored_frames, "connect", nullcontext)
        return seen

    return play


def _places(count: int) -> list[int]:
    return [place for part in results(range(count), object, {}, 4, "test") for place in part["positions"]]


def test_frames_that_a_dead_node_took_along_are_scored_once_in_a_second_pass(passes):
    seen = passes(lost=2)
    assert sorted(_places(5)) == [0, 1, 2, 3, 4]
    assert seen == [([0, 1, 2, 3, 4], 4), ([0, 1], 1)]


def test_a_frame_that_kills_its_process_every_time_is_an_error(passes):
    seen = passes(lost=0, deadly=(3,))
    with pytest.raises(DataError, match=r"1 of 5 frames gave no result, their worker process kept dying"):
        _places(5)
    assert seen[1:] == [([3], 1)]


def test_where_none_gives_a_result_there_is_no_second_pass(passes):
    seen = passes(lost=5)
    with pytest.raises(DataError, match=r"5 of 5 frames gave no result"):
        _places(5)
    assert len(seen) == 1


def test_what_a_worker_reports_is_raised(passes, monkeypatch):
    passes(lost=0)
    broken = lambda *_, **__: iter([{"positions": [0], "error": "a shard is torn"}])  # noqa: E731
    monkeypatch.setattr(scored_frames.pool, "stream", broken)
    with pytest.raises(DataError, match="a shard is torn"):
        _places(1)
