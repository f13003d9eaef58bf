"""What the predict benchmark concludes, and how it counts CPU time."""

import pytest

from tests.bench import predicting
from tests.bench.predict import verdict, working_cpu_s
from tests.bench.process_tree import Sample


def row(way: str, speed: float, is_same: bool = True, actors: int = 1) -> dict:
    return {"model": "fidnet", "way": way, "actors": actors, "scans_per_s": speed, "cpu_s": 0.1, "is_same": is_same}


ONE = [row("loop", 10.0), row("verb", 9.1)]
TWO = [row("loop", 20.0, actors=2), row("verb", 19.1, actors=2)]

KILLED = {"way": "killed", "frames": 60, "before": 20, "scans": 60, "is_once": True, "is_same": True}
MEMORY = {"way": "memory", "frames": 2000, "growth_ratio": 0.01, "peak_mib": 900.0}


@pytest.mark.parametrize(
    ("rows", "others", "is_quick", "expected", "sentence"),
    [
        (TWO, [MEMORY, KILLED], False, True, "fidnet labels 95.5% with 2 of the loops' scans/s"),
        ([*ONE, *TWO], [], False, True, "91.0% with 1, 95.5% with 2"),
        ([*TWO, *ONE], [], False, True, "91.0% with 1, 95.5% with 2"),
        (ONE, [], False, False, "91.0% with 1"),
        (ONE, [], True, True, "91.0% with 1"),
        ([row("loop", 1.0), row("verb", 1.0, is_same=False)], [], True, False, "OTHER labels than the loop's"),
        ([], [{**MEMORY, "growth_ratio": 0.06}], False, False, "grows by 6.0%"),
        ([], [{**KILLED, "is_once": False}], True, False, "NOT ONCE"),
        ([], [{**KILLED, "scans": 59}], True, False, "after 20 of 60"),
        ([], [{**KILLED, "before": 60}], True, False, "after 60 of 60"),
    ],
)
def test_verdict(rows, others, is_quick, expected, sentence):
    is_good, said = verdict(rows, others, is_quick)
    assert is_good is expected
    assert sentence in said


def test_cpu_time_between_samples_is_shared_out_and_services_do_not_count():
    samples = [Sample(0.0, 0.0, 1.0, 1.0, 2), Sample(2.0, 0.0, 6.0, 2.0, 2), Sample(4.0, 0.0, 9.0, 3.0, 2)]
    assert working_cpu_s(samples, 1.0, 3.0) == pytest.approx((4 + 6) / 2 - (0 + 4) / 2)


def test_several_loops_label_every_scan_once(monkeypatch):
    taken = []
    monkeypatch.setattr(predicting.multiprocessing, "get_context", lambda _: Spawn(taken))
    predicting.by_loops("run", "index", "out", 3)
    assert taken == [("run", "index", "out", part, 3) for part in range(3)]
    monkeypatch.setattr(Spawn, "exitcode", 1)
    with pytest.raises(RuntimeError, match=r"ended with \[1, 1\]"):
        predicting.by_loops("run", "index", "out", 2)


class Spawn:
    """Processes that only say what they were told."""

    exitcode = 0

    def __init__(self, taken: list) -> None:
        self.taken = taken

    def Process(self, target, args):
        self.taken.append(args)
        return self

    def start(self) -> None:
        """Nothing."""

    join = start
