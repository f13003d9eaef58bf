import numpy as np
import pytest

from ray_lidarseg.datasets import nuscenes, semantickitti
from ray_lidarseg.datasets.corruptions import snow as module
from ray_lidarseg.datasets.corruptions.channels import channels
from ray_lidarseg.datasets.corruptions.sensor_faults import chosen
from ray_lidarseg.datasets.corruptions.severities import SEVERITIES, setting
from ray_lidarseg.datasets.corruptions.snow import Flakes, fall, mean_count, mean_diameter_m, meetings, snow
from ray_lidarseg.types import IGNORE

DIAMETERS_MM, COUNTS = (0.577, 1.117, 2.160), (40_028, 26_803, 17_825)  # data.md §1.3
REAL = {  # flakes and deleted points, light to heavy: data.md §1.3, its disks and one calibration a channel
    ("semantickitti", True): ((0.025, 0.029, 0.032), (0.087, 0.072, 0.060)),
    ("semantickitti", False): ((0.077, 0.071, 0.064), (0.004, 0.006, 0.009)),
    ("nuscenes", True): ((0.031, 0.033, 0.039), (0.174, 0.173, 0.173)),
    ("nuscenes", False): ((0.270, 0.233, 0.202), (0.072, 0.083, 0.098)),
}


@pytest.mark.parametrize("rank", range(3))
def test_size_and_number_of_flakes_are_those_of_the_published_disks(rank):
    chosen_setting = setting("nuscenes", "snow", SEVERITIES[rank])
    assert 1000 * mean_diameter_m(chosen_setting) == pytest.approx(DIAMETERS_MM[rank], abs=1e-3)
    assert mean_count(chosen_setting) == pytest.approx(COUNTS[rank], rel=4e-3)


def test_flakes_fill_the_share_of_the_disk_that_the_snowfall_says():
    chosen_setting = setting("nuscenes", "snow", "moderate")
    flakes = fall(np.zeros(1, np.int64), np.array([80.0]), chosen_setting, np.random.default_rng(0))
    assert len(flakes.radius_m) == pytest.approx(mean_count(chosen_setting), rel=0.03)
    area = np.pi * (flakes.radius_m**2).sum() / (np.pi * 80.0**2)
    assert area == pytest.approx(1.0 / (3.6e6 * 0.1 * 1.6), rel=0.05)
    assert (flakes.distance_m < 40).mean() == pytest.approx(0.25, abs=0.01)


def test_channels_that_see_a_little_way_only_get_few_flakes():
    channel, range_m = np.array([0, 1, 1]), np.array([8.0, 4.0, 80.0])
    flakes = fall(channel, range_m, setting("nuscenes", "snow", "light"), np.random.default_rng(1))
    near, far = (flakes.channel == 0).sum(), (flakes.channel == 1).sum()
    assert near == pytest.approx(far / 100, rel=0.2)
    assert flakes.distance_m[flakes.channel == 0].max() <= 8.0


def test_shares_of_beams_worked_out_by_hand():
    """Beams of 3 mrad: a flake of 1 mm radius at 1 m is 2 mrad wide."""
    flakes = Flakes(
        channel=np.array([0, 0, 0, 1, 0]),
        azimuth_rad=np.array([0.0, 0.5, 1.0, 0.0, np.pi - 0.0005]),
        distance_m=np.array([1.0, 1.0, 30.0, 1.0, 1.0]),
        radius_m=np.array([0.001, 0.001, 0.001, 0.001, 0.001]),
    )
    azimuth = np.array([0.002, 0.5, 1.0, -np.pi + 0.0005])  # the last across the seam from the last flake
    point, flake, share = meetings(np.zeros(4, np.int64), azimuth, np.array([20.0, 20.0, 20.0, 20.0]), flakes)
    found = {(int(p), int(f)): s for p, f, s in zip(point, flake, share, strict=True)}
    assert found.keys() == {(0, 0), (1, 1), (3, 4)}  # behind the target, or of another channel: no meeting
    assert found[0, 0] == pytest.approx(0.5 / 3, rel=1e-3)  # from -1 to 1 of a beam that begins at 0.5 mrad
    assert found[1, 1] == pytest.approx(2 / 3, rel=1e-3)
    assert found[3, 4] == pytest.approx(1.5 / 3, rel=1e-3)  # from -2 to 0 of one that begins at -1.5


def test_pairs_equal_those_of_a_loop(street):
    channel = channels(street, nuscenes.SPEC.sensor)
    azimuth = np.arctan2(street.points[:, 1], street.points[:, 0]).astype(np.float64)
    range_m = np.linalg.norm(street.points[:, :3], axis=1).astype(np.float64)
    flakes = fall(channel, range_m, setting("nuscenes", "snow", "heavy"), np.random.default_rng(3))
    point, flake, share = meetings(channel, azimuth, range_m, flakes)
    expected = {}
    for number in range(0, len(azimuth), 5):
        away = np.abs(np.angle(np.exp(1j * (flakes.azimuth_rad - azimuth[number]))))
        half = np.arcsin(np.minimum(flakes.radius_m / flakes.distance_m, 1))
        covered = np.minimum(0.0015, away + half) - np.maximum(-0.0015, away - half)
        is_met = (flakes.channel == channel[number]) & (flakes.distance_m < range_m[number]) & (covered > 1e-12)
        expected |= {(number, int(other)): covered[other] / 0.003 for other in np.flatnonzero(is_met)}
    found = {(int(p), int(f)): s for p, f, s in zip(point, flake, share, strict=True) if p % 5 == 0}
    assert expected
    assert found.keys() == expected.keys()
    assert all(found[pair] == pytest.approx(expected[pair], rel=1e-6, abs=1e-9) for pair in expected)


@pytest.mark.parametrize("legacy", [True, False])
@pytest.mark.parametrize("name", ["semantickitti", "nuscenes"])
def test_flakes_and_losses_on_real_scans(request, name, legacy):
    spec = {"semantickitti": semantickitti.SPEC, "nuscenes": nuscenes.SPEC}[name]
    frame = request.getfixturevalue("kitti_scan" if name == "semantickitti" else "nuscenes_scan")
    frame = chosen(frame, np.linalg.norm(frame.points[:, :3], axis=1) > 2.0)
    channel, flakes, losses = channels(frame, spec.sensor), [], []
    for severity in SEVERITIES:
        rng = np.random.default_rng(5)
        result = snow(frame, channel, setting(name, "snow", severity), spec.ground, rng, legacy_power=legacy)
        flakes.append(((result.labels == IGNORE).sum() - (frame.labels == IGNORE).sum()) / len(frame.points))
        losses.append(1 - len(result.points) / len(frame.points))
    for found, published in zip((flakes, losses), REAL[name, legacy], strict=True):
        assert found == pytest.approx(published, abs=0.03)
        is_rising = [list(np.sign(np.diff(np.round(values, 2)))) for values in (found, published)]
        assert np.dot(*is_rising) >= 0  # the same order of severities


def test_a_flake_takes_the_place_of_the_return_along_its_ray(street, monkeypatch):
    flake = Flakes(np.array([5]), np.array([0.0]), np.array([2.0]), np.array([0.01]))
    monkeypatch.setattr(module, "fall", lambda *_: flake)
    result = snow(street, channels(street, nuscenes.SPEC.sensor), setting("nuscenes", "snow", "heavy"), (), None)
    (place,) = np.flatnonzero(result.labels == IGNORE)
    before, after = street.points[place], result.points[place]
    assert street.ring[place] == 5
    assert np.linalg.norm(after[:3]) == pytest.approx(2.0, rel=1e-5)
    np.testing.assert_allclose(after[:3] / 2.0, before[:3] / np.linalg.norm(before[:3]), atol=1e-6)
    others = np.arange(len(street.points)) != place
    np.testing.assert_array_equal(result.points[others, :3], street.points[others, :3])
