import numpy as np

from ray_lidarseg.datasets.nuscenes import CLASSES as NUSCENES
from ray_lidarseg.datasets.semantickitti import CLASSES as SEMANTICKITTI
from ray_lidarseg.synthetic import kitti_classes as classes
from ray_lidarseg.types import IGNORE


def test_every_fine_category_has_an_official_raw_id():
    train = SEMANTICKITTI.to_train(classes.KITTI_OF_FINE)
    names = {fine: SEMANTICKITTI.class_names[train[fine]] for fine in range(32) if train[fine] != IGNORE}
    assert {names[fine] for fine in (2, 14, 17, 24, 26, 27, 30)} == {
        "person", "bicycle", "car", "road", "sidewalk", "terrain", "vegetation",
    }  # fmt: skip
    assert 12 not in names  # SemanticKITTI has no class for traffic cones
    assert NUSCENES.class_names[7] == "traffic_cone"


def test_moving_and_standing_things_are_one_class():
    raw = np.array(list(classes.MOVING), np.uint16)
    assert (classes.moving(raw) >= 252).all()
    np.testing.assert_array_equal(SEMANTICKITTI.to_train(classes.moving(raw)), SEMANTICKITTI.to_train(raw))
    np.testing.assert_array_equal(classes.moving(np.array([40, 99], np.uint16)), [40, 99])


def test_things_are_vehicles_people_and_riders():
    raw = np.array([1, 10, 11, 15, 18, 20, 30, 32, 40, 70, 99])
    assert classes.is_thing(raw).tolist() == [False, *[True] * 7, *[False] * 3]
