"""What the predict benchmark concludes, and how it counts CPU time."""

import pytest

from tests.bench.predict import verdict, working_cpu_s
from tests.bench.process_tree import Sample


def row(way: str, cpu_s: float, is_same: bool = True) -> dict:
    return {"model": "fidnet", "way": way, "actors": 1, "scans_per_s": 2.0, "cpu_s": cpu_s, "is_same": is_same}


KILLED = {"way": "killed", "frames": 60, "before": 20, "scans": 60, "is_once": True, "is_same": True}
MEMORY = {"way": "memory", "frames": 2000, "growth_ratio": 0.01, "peak_mib": 900.0}


@pytest.mark.parametrize(
    ("rows", "others", "is_quick", "expected", "sentence"),
    [
        ([row("loop", 1.0), row("verb", 1.05)], [MEMORY, KILLED], False, True, "95% of the loop's work a CPU second"),
        ([row("loop", 1.0), row("verb", 1.1)], [], False, False, "91% of the loop's work"),
        ([row("loop", 1.0), row("verb", 1.1)], [], True, True, "91% of the loop's work"),
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
