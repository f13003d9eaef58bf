"""The benchmark of the renderers on a few rays: what it counts is what it says."""

import torch

from tests.bench.rendering import CASES, HIGHEST_BEAM, TOLERANCE, Scene, _misses, camera_rays, kept_mib, measure


def test_rays_look_around_and_not_above_the_highest_beam():
    rays = camera_rays(6, 50, 1266.0)
    assert len(rays) == 300
    assert rays.directions[:, 2].max() <= HIGHEST_BEAM
    azimuth = torch.atan2(rays.directions[:, 1], rays.directions[:, 0])
    assert len((azimuth / (torch.pi / 3)).round().unique() % 6) >= 6


def test_a_small_measurement_meets_the_aim_in_samples_and_agrees():
    name = "nuScenes, 480 x 360 x 32"
    case = CASES[name]
    row = {"case": name, **measure(type(case)(**{**vars(case), "rays": 160}), quick=True)}
    assert row["rays"] == 6 * 40
    assert row["dense_samples"] == 240 * 245
    assert row["samples_ratio"] > 15
    assert row["error"] <= TOLERANCE
    assert row["packed_kept_mib"] < row["dense_kept_mib"] / 10
    assert row["packed_peak_mib"] > 0  # at this size the process's own memory moves as much as either renderer's
    assert _misses({**row, "samples_ratio": 14.0})


def test_kept_memory_of_a_sample_is_that_of_the_formula():
    """Gradients need about 12 bytes of place, 32 features, 2 x 64 activations and 17 outputs a sample."""
    scene = Scene(CASES["KITTI, 240 x 180 x 20"], 0.1)
    bytes_a_sample = kept_mib(scene, "dense") * 2**20 / scene.render("dense").num_samples
    assert 600 < bytes_a_sample < 1300
