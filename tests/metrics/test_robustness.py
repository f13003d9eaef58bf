import pytest

from ray_lidarseg.datasets.corruptions.severities import CORRUPTIONS
from ray_lidarseg.errors import DataError
from ray_lidarseg.metrics.robustness import PUBLISHED, Baseline, published_baseline, robustness

# mCE, mRR, clean, then the eight corruptions, percent, as published: data.md §1.1
NUSCENES = {
    "FIDNet34": (122.42, 73.33, 71.38, 64.80, 68.02, 58.97, 48.90, 48.14, 57.45, 48.76, 23.70),
    "CENet34": (112.79, 76.04, 73.28, 67.01, 69.87, 61.64, 58.31, 49.97, 60.89, 53.31, 24.78),
    "FRNet": (98.63, 77.48, 77.65, 69.14, 76.58, 69.49, 54.49, 68.32, 41.43, 58.74, 43.13),
    "WaffleIron": (106.73, 72.78, 76.07, 56.07, 73.93, 49.59, 59.46, 65.19, 33.12, 61.51, 44.01),
    "PolarNet": (115.09, 76.34, 71.37, 58.23, 69.91, 64.82, 44.60, 61.91, 40.77, 53.64, 42.01),
    "MinkUNet34": (96.37, 75.08, 76.90, 56.91, 74.93, 37.50, 75.24, 70.10, 29.32, 64.96, 52.96),
    "Cylinder3D_SPC": (111.84, 72.94, 76.15, 59.85, 72.69, 58.07, 42.13, 64.45, 44.44, 60.50, 42.23),
    "Cylinder3D_TSC": (105.56, 78.08, 73.54, 61.42, 71.02, 58.40, 56.02, 64.15, 45.36, 59.97, 43.03),
    "SPVCNN18": (106.65, 74.70, 74.40, 59.01, 72.46, 41.08, 58.36, 65.36, 36.83, 62.29, 49.21),
    "SPVCNN34": (97.45, 75.10, 76.57, 55.86, 74.04, 41.95, 74.63, 68.94, 28.11, 64.96, 51.57),
    "2DPASS": (98.56, 75.24, 77.92, 64.50, 76.76, 54.46, 62.04, 67.84, 34.37, 63.19, 45.83),
    "GFNet": (92.55, 83.31, 76.79, 69.59, 75.52, 71.83, 59.43, 64.47, 66.78, 61.86, 42.30),
}
SEMANTICKITTI = {
    "FIDNet34": (113.81, 76.99, 58.80, 43.66, 51.63, 49.68, 40.38, 49.32, 49.46, 48.17, 29.85),
    "CENet34": (103.41, 81.29, 62.55, 42.70, 57.34, 53.64, 52.71, 55.78, 45.37, 53.40, 45.84),
    "FRNet": (96.80, 80.04, 67.55, 47.61, 62.15, 57.08, 56.80, 62.54, 40.94, 58.11, 47.30),
    "MinkUNet34": (100.61, 80.22, 63.78, 53.54, 54.27, 50.17, 33.80, 57.35, 58.38, 54.88, 46.95),
    "Cylinder3D_SPC": (103.25, 80.08, 63.42, 37.10, 57.45, 46.94, 52.45, 57.64, 55.98, 52.51, 46.22),
    "SPVCNN18": (100.30, 82.15, 62.47, 55.32, 53.98, 51.42, 34.53, 56.67, 58.10, 54.60, 45.95),
    "2DPASS": (106.14, 77.50, 64.61, 40.46, 60.68, 48.53, 57.80, 58.78, 28.46, 55.84, 50.01),
    "WaffleIron": (109.54, 72.18, 66.04, 45.52, 58.55, 49.30, 33.02, 59.28, 22.48, 58.55, 54.62),
}
ROWS = [("nuscenes", 6019, name, row) for name, row in NUSCENES.items()]
ROWS += [("semantickitti", 4071, name, row) for name, row in SEMANTICKITTI.items()]


def ratios(percent) -> dict[str, list[float]]:
    return {name: [value / 100] for name, value in zip(CORRUPTIONS, percent, strict=True)}


@pytest.mark.parametrize(
    ("dataset", "frames", "name", "row"), ROWS, ids=lambda part: part if isinstance(part, str) else ""
)
def test_published_rows_to_two_decimals(dataset, frames, name, row):
    mce, mrr, clean, *eight = row
    found = robustness(clean / 100, ratios(eight), published_baseline("minkunet18", dataset, frames))
    assert 100 * found.mce_ratio == pytest.approx(
        mce, abs=0.011
    )  # their averages were rounded before they were printed
    assert 100 * found.mrr_ratio == pytest.approx(mrr, abs=0.011)


def test_one_corruption_of_a_published_row():
    """CENet in fog on SemanticKITTI-C: CE 129.84, RR 68.27."""
    found = robustness(
        0.6255, ratios(SEMANTICKITTI["CENet34"][3:]), published_baseline("minkunet18", "semantickitti", 4071)
    )
    assert 100 * found.error["fog"] == pytest.approx(129.84, abs=0.005)
    assert 100 * found.resilience["fog"] == pytest.approx(68.27, abs=0.005)


def test_the_mean_over_severities_enters_and_a_baseline_has_one():
    own = robustness(0.5, {"fog": [0.4, 0.3, 0.2]}, Baseline("b", "d", 1, {"fog": 0.3}))
    assert own.error == {"fog": pytest.approx(1.0)}
    assert own.mce_ratio == pytest.approx(1.0)
    assert own.resilience == {"fog": pytest.approx(0.6)}


def test_without_a_baseline_there_are_no_errors_and_without_clean_points_no_resilience():
    found = robustness(0.0, {"fog": [0.1]})
    assert (found.mrr_ratio, found.mce_ratio, found.error) == (None, None, {})


@pytest.mark.parametrize(
    ("name", "dataset", "frames", "words"),
    [
        (
            "minkunet",
            "nuscenes",
            6019,
            r"unknown baseline 'minkunet': .*folder of a run.*or one of minkunet18; did you mean 'minkunet18'",
        ),
        ("minkunet18", "acme", 6019, "is of nuscenes and semantickitti, not of acme"),
        ("minkunet18", "nuscenes", 81, r"of the 6,019 official validation frames .* these are 81 frames"),
    ],
)
def test_baselines_of_something_else_are_refused(name, dataset, frames, words):
    with pytest.raises(DataError, match=words):
        published_baseline(name, dataset, frames)


def test_a_baseline_that_lacks_a_corruption_is_refused():
    with pytest.raises(DataError, match="baseline b has no snow"):
        robustness(0.5, {"fog": [0.4], "snow": [0.4]}, Baseline("b", "d", 1, {"fog": 0.3}))
    assert all(set(table.miou_ratio) == set(CORRUPTIONS) for table in PUBLISHED)
