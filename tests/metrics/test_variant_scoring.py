from dataclasses import replace

import numpy as np
import pytest

from ray_lidarseg.datasets import nuscenes
from ray_lidarseg.errors import DataError
from ray_lidarseg.metrics.scoring import Scores
from ray_lidarseg.metrics.variant_scoring import CLEAN, VARIANTS, merged, score_variants
from ray_lidarseg.models.fidnet import FIDNet
from ray_lidarseg.sample import Keyframe

SENSOR = nuscenes.SPEC.sensor


@pytest.fixture(scope="module")
def model() -> FIDNet:
    return FIDNet(SENSOR, 16, 8, 32, 0.0625, (1, 1, 1, 1))


def frame(name: str, num_points: int = 640) -> Keyframe:
    rng = np.random.default_rng(len(name))
    points = np.column_stack(
        [rng.uniform(-30, 30, (num_points, 2)), rng.uniform(-2, 2, num_points), rng.random(num_points)]
    )
    ring = (np.arange(num_points) % 32).astype(np.uint8)
    labels = rng.integers(0, 16, num_points).astype(np.uint8)
    return Keyframe(name, "nuscenes", "s", "val", 0, "x", points=points.astype(np.float32), labels=labels, ring=ring)


def test_each_form_counts_the_points_that_are_left_with_a_label(model):
    scores = score_variants(model, [frame("a"), frame("bb")], nuscenes.SPEC, SENSOR)
    assert tuple(scores) == VARIANTS
    assert len(VARIANTS) == 25
    points = {name: int(part.point.counts.sum()) for name, part in scores.items()}
    assert points[CLEAN] == points["motion_blur/heavy"] == 1280
    assert points["crosstalk/light"] == 1280 - 2 * int(0.03 * 640)
    assert points["cross_sensor/heavy"] == 2 * 640 * 4 // 32
    assert all(part.num_frames == 2 for part in scores.values())


def test_groups_merge_to_the_whole_through_json(model):
    frames = [frame("a"), frame("bb")]
    parts = [score_variants(model, [one], nuscenes.SPEC, SENSOR) for one in frames]
    travelled = [{name: Scores.from_json(part.to_json()) for name, part in group.items()} for group in parts]
    whole = score_variants(model, frames, nuscenes.SPEC, SENSOR)
    assert {name: part.to_json() for name, part in merged(travelled).items()} == {
        name: part.to_json() for name, part in whole.items()
    }


def test_a_scan_without_points_counts_nothing_and_one_without_labels_is_refused(model):
    empty = replace(
        frame("a"), points=np.zeros((0, 4), np.float32), labels=np.zeros(0, np.uint8), ring=np.zeros(0, np.uint8)
    )
    scores = score_variants(model, [empty], nuscenes.SPEC, SENSOR)
    assert all(int(part.point.counts.sum()) == 0 for part in scores.values())
    with pytest.raises(DataError, match="corruptions need a label"):
        score_variants(model, [replace(frame("a"), labels=np.zeros(0, np.uint8))], nuscenes.SPEC, SENSOR)
