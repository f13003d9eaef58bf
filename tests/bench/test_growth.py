import pytest

from tests.bench.growth import PARTS, exponent, measure, problems


@pytest.mark.parametrize("power", [1.0, 1.5])
def test_the_exponent_is_the_slope_of_the_logarithms(power):
    sizes = (100, 1_000, 10_000)
    assert exponent(sizes, [3e-6 * size**power for size in sizes]) == pytest.approx(power)


def test_what_grows_too_fast_is_named_and_what_is_no_number_too():
    rows = [{"part": name, "exponent": value} for name, value in (("a", 1.1), ("b", 1.3), ("c", float("nan")))]
    assert [problem.split()[0] for problem in problems(rows, 1.2)] == ["b", "c"]


@pytest.mark.parametrize("part", PARTS)
def test_every_part_is_measured_at_every_size(part):
    row = measure(part, (2_000, 4_000), 1)
    assert len(row["cpu_s"]) == 2
    assert min(row["cpu_s"]) > 0
