"""Every method computes what it computed when its series was stored; see ``compare`` for what "the same" means."""

import math

import numpy as np
import pytest

from tests.golden.compare import EXACT, FLOAT_ORDER, LEVEL_VARIABLE, differences, farthest, level_for, limits, machine
from tests.golden.record import COMMAND, FOLDER, main, read
from tests.golden.series import ALL, NUM_STEPS, method_names, run

PERTURBED = {
    "lasermix-fidnet": ("method.confidence", 0.25),
    "mean_teacher-minkunet": ("method.ema_decay", 0.9),
    "cutmix_seg-minkunet": ("split.seed", 1),
    "supervised-fidnet": ("optim.lr", 0.01),
}


def test_every_method_is_stored_on_a_range_view_and_on_voxels():
    first = {"nerf": "cylinder3d"}  # looks into space, which a range view has none of
    wanted = {f"{name}-{model}" for name in method_names() for model in (first.get(name, "fidnet"), "minkunet")}
    missing = sorted(wanted - {file.stem for file in FOLDER.glob("*.json")})
    assert not missing, f"add settings to tests/golden/series.py, then run `{COMMAND} {' '.join(missing)}`"
    assert {file.stem for file in FOLDER.glob("*.json")} == set(ALL)


@pytest.mark.parametrize("name", ALL)
def test_losses_are_those_that_were_stored(name, record_property):
    stored = read(name)
    assert stored["settings"] == ALL[name]
    level = level_for({key: stored["origin"][key] for key in machine()})
    record_property("level", level)
    allowed = None if level == EXACT else limits(stored["float_order"]["spread"])
    found = differences(run(ALL[name]), stored["series"], allowed)
    assert not found, (
        f"{name} moved ({level}, recorded at {stored['origin']['commit']}); a refactor must not do that. Where a "
        f"change only adds in another order, {LEVEL_VARIABLE}={FLOAT_ORDER} passes; where the losses are meant to "
        f"change, run `{COMMAND}` and say why in the commit message:\n" + "\n".join(found)
    )


@pytest.mark.parametrize("name", PERTURBED)
def test_another_setting_is_refused_at_both_levels(name):
    """The test of the losses can fail: it does where one setting is another."""
    key, value = PERTURBED[name]
    series, stored = run({**ALL[name], key: value}), read(name)
    assert differences(series, stored["series"])
    assert differences(series, stored["series"], limits(stored["float_order"]["spread"]))


def test_pseudo_labels_take_part_in_what_is_stored():
    for name in ALL:
        shares = [
            value for key, value in read(name)["series"].items() if key in ("pseudo_keep_ratio", "confident_ratio")
        ]
        assert all(any(0.02 < value < 0.98 for value in share) for share in shares), name


def test_stored_numbers_are_whole_float32():
    for name in ALL:
        for values in read(name)["series"].values():
            assert len(values) == NUM_STEPS
            assert all(float(str(np.float32(value))) == value for value in values)


def test_exact_refuses_the_nearest_float_and_float_order_does_not():
    stored = {"loss": [2.0] * NUM_STEPS}
    near = {"loss": [2.0] * (NUM_STEPS - 1) + [float(np.nextafter(np.float32(2.0), np.float32(3.0)))]}
    assert "loss: step 20 says 2.000000238418579" in differences(near, stored)[0]
    assert differences(near, stored, limits([0.0] * NUM_STEPS)) == []


def test_limits_are_three_times_the_spread_so_far_and_never_less_than_a_flipped_label():
    assert limits([0.0, 1e-7, 0.1, 1e-3]) == pytest.approx([1e-3, 1e-2, 0.3, 0.3])


def test_float_order_refuses_beyond_its_limit_and_whatever_is_not_a_number():
    assert differences({"loss": [5.49]}, {"loss": [5.0]}, [0.1]) == []
    assert differences({"loss": [5.51]}, {"loss": [5.0]}, [0.1]) == [
        "loss: step 1 says 5.51, 5.0 is stored (1.0e-01 apart)"
    ]
    for one, other in ((math.nan, 1.0), (1.0, math.nan), (math.inf, 1.0)):
        assert differences({"loss": [one]}, {"loss": [other]}, [0.1])
    assert not differences({"loss": [math.nan]}, {"loss": [math.nan]})


def test_names_and_lengths_count_at_both_levels():
    stored = {"loss": [1.0, 2.0]}
    for allowed in (None, [1.0, 1.0]):
        assert differences({"cost": [1.0, 2.0]}, stored, allowed) == [
            "names differ: ['cost'] are new, ['loss'] are gone"
        ]
        assert differences({"loss": [1.0]}, stored, allowed) == ["loss: 1 steps, 2 are stored"]


def test_the_farthest_of_all_names_of_a_step():
    assert farthest({"a": [1.0, 2.0], "b": [0.01, 1.0]}, {"a": [1.0, 1.0], "b": [0.02, 1.0]}) == pytest.approx([0.1, 1])


def test_another_machine_is_held_to_float_order(monkeypatch):
    monkeypatch.delenv(LEVEL_VARIABLE, raising=False)
    assert level_for(machine()) == EXACT
    assert level_for({**machine(), "torch": "0.1"}) == FLOAT_ORDER
    monkeypatch.setenv(LEVEL_VARIABLE, FLOAT_ORDER)
    assert level_for(machine()) == FLOAT_ORDER
    monkeypatch.setenv(LEVEL_VARIABLE, "loose")
    with pytest.raises(ValueError, match="expected exact or float-order"):
        level_for(machine())


def test_recording_names_the_series_there_are(capsys):
    assert main(["lasermix-fidnt"]) == 2
    assert "no series lasermix-fidnt: expected some of supervised-fidnet" in capsys.readouterr().out
