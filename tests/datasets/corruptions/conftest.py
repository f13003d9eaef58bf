"""Real scans beside the checkout; what needs them is skipped where they are not."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ray_lidarseg.datasets import nuscenes, semantickitti
from ray_lidarseg.sample import Keyframe

ROAD, WALL = 10, 14


@pytest.fixture(scope="session")
def kitti_scan(samples: Path) -> Keyframe:
    """SemanticKITTI sequence 00, first scan."""
    folder = samples / "semantickitti_seq00" / "sequences" / "00"
    scan, labels = folder / "velodyne" / "000000.bin", folder / "labels" / "000000.label"
    row = Keyframe("00/000000", "semantickitti", "00", "train", 0, str(scan), str(labels))
    return semantickitti.SPEC.decode(row)


@pytest.fixture(scope="session")
def nuscenes_scan(samples: Path) -> Keyframe:
    """A nuScenes key-frame without labels: what lies within 0.3 m of the ground under the sensor is road."""
    (scan,) = (samples / "mmdet3d_demo" / "nuscenes").glob("*.pcd.bin")
    frame = nuscenes.SPEC.decode(Keyframe("demo", "nuscenes", "s", "val", 0, str(scan)))
    is_far = np.linalg.norm(frame.points[:, :3], axis=1) > 2.0
    is_ground = is_far & (np.abs(frame.points[:, 2] + 1.84) < 0.3)
    return replace(frame, labels=np.where(is_ground, ROAD, WALL).astype(np.uint8))


@pytest.fixture
def street() -> Keyframe:
    """A flat road of 64 beams, brightness falling off with the range, under a wall; column by column, with rings."""
    elevation = np.radians(np.linspace(-25, 3, 64))
    azimuth = np.radians(np.arange(0, 360, 3.0))
    ring = np.tile(np.arange(64), len(azimuth))
    turn, tilt = np.repeat(azimuth, 64), elevation[ring]
    range_m = np.minimum(np.where(tilt < 0, 1.7 / np.maximum(-np.sin(tilt), 1e-3), 60.0), 40.0)
    x, y, z = range_m * np.cos(tilt) * np.cos(turn), range_m * np.cos(tilt) * np.sin(turn), range_m * np.sin(tilt)
    is_road = range_m < 40.0
    texture = np.random.default_rng(0).lognormal(0, 0.5, len(tilt))
    intensity = np.where(is_road, np.minimum((0.3 * -np.sin(tilt) + 0.02) * texture, 1.0), 0.5)
    points = np.stack([x, y, z, intensity], axis=1).astype(np.float32)
    labels = np.where(is_road, ROAD, WALL).astype(np.uint8)
    return Keyframe("street", "nuscenes", "s", "val", 0, "x", points=points, labels=labels, ring=ring.astype(np.uint8))
