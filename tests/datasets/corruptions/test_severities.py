import pytest

from ray_lidarseg.datasets.corruptions.severities import CORRUPTIONS, setting, settings
from ray_lidarseg.errors import DataError


def test_there_are_24_and_the_numbers_of_the_published_code():
    assert [one.name for one in settings("nuscenes")][:4] == [
        "fog/light",
        "fog/moderate",
        "fog/heavy",
        "wet_ground/light",
    ]
    assert len(settings("semantickitti")) == 24
    assert setting("semantickitti", "motion_blur", "heavy").values == {"std_m": 0.3}
    assert setting("nuscenes", "wet_ground", "light").values == {"water_m": 0.0002, "noise_floor": 0.2}
    assert setting("semantickitti", "crosstalk", "moderate").values == {"points_ratio": 0.008}
    assert setting("manifest", "crosstalk", "moderate") == setting("semantickitti", "crosstalk", "moderate")


def test_numbers_nobody_could_check_say_so_and_no_others():
    doubted = {one.name for one in settings("nuscenes") if one.doubt}
    recalled = {f"{name}/{rank}" for name in ("motion_blur", "crosstalk") for rank in ("moderate", "heavy")}
    assert doubted == recalled | {f"snow/{rank}" for rank in ("light", "moderate", "heavy")}
    assert {one.corruption for one in settings("semantickitti") if one.doubt} == {"snow"}
    assert "doubt" in setting("nuscenes", "crosstalk", "heavy").to_json()


@pytest.mark.parametrize(
    ("corruption", "severity", "words"),
    [
        ("fogg", "light", r"unknown corruption 'fogg': .*did you mean 'fog'"),
        ("fog", "hevy", r"unknown severity 'hevy': .*heavy"),
    ],
)
def test_unknown_names_are_answered_with_the_nearest(corruption, severity, words):
    with pytest.raises(DataError, match=words):
        setting("nuscenes", corruption, severity)
    assert "fog" in CORRUPTIONS
