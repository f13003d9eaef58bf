from dataclasses import replace

import numpy as np
import pytest

from ray_lidarseg.datasets import nuscenes, semantickitti
from ray_lidarseg.datasets.corruptions import sensor_faults
from ray_lidarseg.datasets.corruptions.channels import channels
from ray_lidarseg.datasets.corruptions.severities import SEVERITIES, setting
from ray_lidarseg.sample import Keyframe
from ray_lidarseg.types import IGNORE


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def sweep(num_beams: int, columns: int = 12) -> Keyframe:
    """A nuScenes file: column by column, from the lowest ring up."""
    ring = np.tile(np.arange(num_beams), columns).astype(np.uint8)
    points = np.zeros((len(ring), 4), np.float32)
    points[:, 0], points[:, 1] = 10.0, np.repeat(np.arange(columns), num_beams)
    return Keyframe("a", "nuscenes", "s", "v", 0, "x", points=points, labels=0 * ring, ring=ring)


def test_a_shift_of_the_scan_and_a_tenth_of_it_for_each_point():
    frame = sweep(32, 2000)
    moved = sensor_faults.motion_blur(frame, setting("semantickitti", "motion_blur", "heavy"), rng()).points
    offset = moved[:, :3].astype(np.float64) - frame.points[:, :3]
    np.testing.assert_allclose(offset.std(axis=0), [0.03, 0.03, 0.015], rtol=0.05)
    assert np.abs(offset - offset.mean(axis=0)).max() <= 3 * 0.03 + 1e-3
    shifts = [
        sensor_faults.motion_blur(frame, setting("semantickitti", "motion_blur", "heavy"), rng(seed)).points[:, :3]
        for seed in range(60)
    ]
    assert np.std([shift.mean(axis=0) for shift in shifts - frame.points[:, :3]]) == pytest.approx(0.3, rel=0.2)
    np.testing.assert_array_equal(moved[:, 3], frame.points[:, 3])


@pytest.mark.parametrize(
    ("name", "beams", "mean_lost"), [("nuscenes", 32, (7.0, 12.2, 16.1)), ("semantickitti", 64, (14.0, 24.4, 32.2))]
)
def test_as_many_beams_are_missing_as_draws_with_replacement_hit(name, beams, mean_lost):
    spec = {"nuscenes": nuscenes.SPEC, "semantickitti": semantickitti.SPEC}[name]
    frame = sweep(beams, 1)
    for severity, expected in zip(SEVERITIES, mean_lost, strict=True):
        left = [
            sensor_faults.beam_missing(frame, frame.ring, setting(name, "beam_missing", severity), spec.sensor, rng(s))
            for s in range(300)
        ]
        assert np.mean([beams - len(one.points) for one in left]) == pytest.approx(expected, abs=0.3)
        lost = set(range(beams)) - set.intersection(*(set(one.ring.tolist()) for one in left))
        border = beams // 16
        assert lost == set(range(border, beams - border - 1))


def test_crosstalk_throws_off_a_share_of_the_points_without_a_label():
    frame = sweep(32, 1000)
    result = sensor_faults.crosstalk(frame, setting("nuscenes", "crosstalk", "light"), nuscenes.SPEC.sensor, rng())
    is_off = result.labels == IGNORE
    assert is_off.sum() == int(0.03 * 32_000)
    np.testing.assert_array_equal(result.points[~is_off], frame.points[~is_off])
    noise = (result.points - frame.points)[is_off].astype(np.float64) * [1, 1, 1, 255]
    np.testing.assert_allclose(noise.std(axis=0), 3.0, rtol=0.1)
    assert (frame.labels != IGNORE).all()


def test_echoes_of_vehicles_are_lost_and_of_those_with_few_points_none():
    frame = sweep(32, 100)
    labels = np.full(3200, 14, np.uint8)
    labels[:1000], labels[1000:1010] = 3, 4
    result = sensor_faults.incomplete_echo(
        replace(frame, labels=labels), setting("nuscenes", "incomplete_echo", "moderate"), nuscenes.SPEC.vehicles, rng()
    )
    assert np.bincount(result.labels, minlength=15)[[3, 4, 14]].tolist() == [150, 10, 2190]


@pytest.mark.parametrize(("severity", "rings"), [("light", 12), ("moderate", 8), ("heavy", 4)])
def test_files_in_columns_keep_fewer_rings_at_full_resolution(severity, rings):
    frame = sweep(32)
    result = sensor_faults.cross_sensor(
        frame, frame.ring, setting("nuscenes", "cross_sensor", severity), nuscenes.SPEC.sensor
    )
    left, counts = np.unique(result.ring, return_counts=True)
    assert len(left) == rings
    assert (counts == 12).all()


@pytest.mark.parametrize(("severity", "rings"), [("light", 48), ("moderate", 32), ("heavy", 16)])
def test_files_in_rings_keep_half_the_resolution_in_azimuth(severity, rings):
    frame = sweep(64)
    order = np.argsort(frame.ring, kind="stable")
    frame = replace(frame, points=frame.points[order], ring=frame.ring[order])
    chosen = setting("semantickitti", "cross_sensor", severity)
    result = sensor_faults.cross_sensor(frame, frame.ring, chosen, semantickitti.SPEC.sensor)
    left, counts = np.unique(result.ring, return_counts=True)
    assert len(left) == rings
    assert (counts == 6).all()


def test_the_beams_of_the_heaviest_are_the_published_ones():
    frame = sweep(32, 1)
    twice = replace(
        frame, **{name: np.repeat(getattr(frame, name), 2, axis=0) for name in ("points", "labels", "ring")}
    )
    chosen = setting("nuscenes", "cross_sensor", "heavy")
    left = sensor_faults.cross_sensor(twice, twice.ring, chosen, nuscenes.SPEC.sensor)  # every second point: all rings
    dropped = sorted(set(range(32)) - set(left.ring.tolist()))
    assert len(dropped) == 24
    assert dropped[:11] == [1, 2, 3, 4, 6, 7, 8, 10, 11, 12, 14]


def test_a_real_semantickitti_scan_goes_ring_by_ring(kitti_scan):
    channel = channels(kitti_scan, semantickitti.SPEC.sensor)
    assert (np.diff(channel) >= 0).all()
    assert np.unique(channel).tolist() == list(range(64))
