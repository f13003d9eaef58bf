import numpy as np
import pytest

from ray_lidarseg.datasets import nuscenes, semantickitti
from ray_lidarseg.datasets.corruptions import fog as module
from ray_lidarseg.datasets.corruptions.fog import ATTENUATIONS_PER_M, fog, response
from ray_lidarseg.datasets.corruptions.severities import SEVERITIES, setting
from ray_lidarseg.sample import Keyframe
from ray_lidarseg.types import IGNORE

FIRST_FOG_M = {  # where fog wins from, by backscatter, in the order of the attenuations: data.md §1.3
    0.008: (92.6, 66.9, 54.6, 41.7, 34.6, 24.1),
    0.05: (37.1, 31.9, 28.4, 23.8, 20.9, 15.9),
    0.2: (18.6, 17.2, 16.1, 14.4, 13.2, 10.8),
}


class Draws:
    """A generator that draws the attenuation asked for, and no noise."""

    def __init__(self, alpha: float):
        self.alpha = alpha

    def choice(self, _: object) -> float:
        return self.alpha

    def uniform(self, low: np.ndarray, high: np.ndarray) -> np.ndarray:
        return (low + high) / 2


def line(step_m: float = 0.02, reach_m: float = 120.0) -> Keyframe:
    """Returns of one brightness along x."""
    x = np.arange(2.0, reach_m, step_m)
    points = np.stack([x, 0 * x, 0 * x, 0 * x + 0.5], axis=1).astype(np.float32)
    labels = np.full(len(x), 3, np.uint8)
    return Keyframe("a", "semantickitti", "s", "val", 0, "x", points=points, labels=labels)


@pytest.mark.parametrize(("alpha", "strength"), [(0.0, 4.64e-9), (0.06, 3.82e-9)])
def test_the_air_answers_as_strongly_as_published_tables_say(alpha, strength):
    found, origin_m = response(alpha)
    assert found[-1] == pytest.approx(strength, rel=2e-3)
    assert 4.6 <= origin_m[-1] <= 4.8
    assert (np.diff(found) >= 0).all()
    assert found[8] == 0.0  # 0.8 m: no overlap of beam and receiver yet
    np.testing.assert_array_equal(found[60:], found[60])  # constant beyond 6 m


@pytest.mark.parametrize("severity", SEVERITIES)
@pytest.mark.parametrize("alpha", ATTENUATIONS_PER_M)
def test_fog_wins_from_the_published_ranges_on(alpha, severity):
    frame, chosen = line(), setting("semantickitti", "fog", severity)
    result = fog(frame, chosen, semantickitti.SPEC.sensor, Draws(alpha))
    is_fog = result.labels == IGNORE
    expected = FIRST_FOG_M[chosen.values["backscatter_per_m"]][ATTENUATIONS_PER_M.index(alpha)]
    assert frame.points[is_fog, 0].min() == pytest.approx(expected, abs=0.15)
    assert is_fog[is_fog.argmax() :].all()


def test_a_return_in_the_fog_comes_from_where_the_air_is_loudest():
    result = fog(line(), setting("semantickitti", "fog", "heavy"), semantickitti.SPEC.sensor, Draws(0.06))
    is_fog = result.labels == IGNORE
    np.testing.assert_allclose(result.points[is_fog, 0], response(0.06)[1][-1], rtol=1e-5)  # u = r without noise
    near = ~is_fog
    np.testing.assert_allclose(result.points[near, 3], 0.5 * np.exp(-0.12 * result.points[near, 0]), rtol=1e-4)
    assert result.points[:, 3].max() <= 1.0


def test_whole_number_intensities_stay_whole_numbers():
    frame = line()
    frame.points[:, 3] = 100 / 255
    result = fog(frame, setting("nuscenes", "fog", "light"), nuscenes.SPEC.sensor, Draws(0.01))
    kept = result.points[result.labels != IGNORE, 3] * 255
    np.testing.assert_allclose(kept, kept.round(), atol=1e-4)
    assert len(np.unique(kept.round())) > 20


def test_the_scan_draws_its_attenuation_from_the_six(monkeypatch):
    seen = []
    monkeypatch.setattr(module, "response", lambda alpha: seen.append(alpha) or response(alpha))
    for seed in range(40):
        fog(line(1.0), setting("semantickitti", "fog", "light"), semantickitti.SPEC.sensor, np.random.default_rng(seed))
    assert set(seen) == set(ATTENUATIONS_PER_M)


@pytest.mark.parametrize(("severity", "share"), [("light", 0.084), ("moderate", 0.211), ("heavy", 0.418)])
def test_share_of_a_real_semantickitti_scan(kitti_scan, severity, share):
    result = fog(kitti_scan, setting("semantickitti", "fog", severity), semantickitti.SPEC.sensor, Draws(0.06))
    moved = (result.points[:, :3] != kitti_scan.points[:, :3]).any(axis=1)
    assert moved.mean() == pytest.approx(share, abs=0.001)
    assert len(result.points) == len(kitti_scan.points)


@pytest.mark.parametrize(("severity", "share"), [("light", 0.170), ("moderate", 0.228), ("heavy", 0.341)])
def test_share_of_a_real_nuscenes_scan(nuscenes_scan, severity, share):
    result = fog(nuscenes_scan, setting("nuscenes", "fog", severity), nuscenes.SPEC.sensor, Draws(0.06))
    assert (result.labels == IGNORE).mean() == pytest.approx(share, abs=0.002)
