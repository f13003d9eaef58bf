import numpy as np
import pytest

from ray_lidarseg.datasets.cityscapes import CLASSES as CITYSCAPES
from ray_lidarseg.datasets.nuscenes import CLASSES as NUSCENES
from ray_lidarseg.datasets.semantickitti import CLASSES as SEMANTICKITTI
from ray_lidarseg.datasets.world_images import CLASSES as WORLD_IMAGES
from ray_lidarseg.errors import DataError
from ray_lidarseg.types import IGNORE

# The 32 raw names in category.json order, and the class each belongs to ("" where it is ignored).
NUSCENES_BY_NAME = {
    "noise": "",
    "animal": "",
    "human.pedestrian.adult": "pedestrian",
    "human.pedestrian.child": "pedestrian",
    "human.pedestrian.construction_worker": "pedestrian",
    "human.pedestrian.personal_mobility": "",
    "human.pedestrian.police_officer": "pedestrian",
    "human.pedestrian.stroller": "",
    "human.pedestrian.wheelchair": "",
    "movable_object.barrier": "barrier",
    "movable_object.debris": "",
    "movable_object.pushable_pullable": "",
    "movable_object.trafficcone": "traffic_cone",
    "static_object.bicycle_rack": "",
    "vehicle.bicycle": "bicycle",
    "vehicle.bus.bendy": "bus",
    "vehicle.bus.rigid": "bus",
    "vehicle.car": "car",
    "vehicle.construction": "construction_vehicle",
    "vehicle.emergency.ambulance": "",
    "vehicle.emergency.police": "",
    "vehicle.motorcycle": "motorcycle",
    "vehicle.trailer": "trailer",
    "vehicle.truck": "truck",
    "flat.driveable_surface": "driveable_surface",
    "flat.other": "other_flat",
    "flat.sidewalk": "sidewalk",
    "flat.terrain": "terrain",
    "static.manmade": "manmade",
    "static.other": "",
    "static.vegetation": "vegetation",
    "vehicle.ego": "",
}


def test_every_nuscenes_id_goes_to_the_class_of_its_name() -> None:
    names = list(NUSCENES_BY_NAME.values())
    expected = [NUSCENES.class_names.index(name) if name else IGNORE for name in names]
    np.testing.assert_array_equal(NUSCENES.to_train(np.arange(32, dtype=np.uint8)), expected)


def test_nuscenes_agrees_with_the_devkit_in_names_colours_and_challenge_ids() -> None:
    from nuscenes.utils.color_map import get_colormap

    colours = get_colormap()
    assert list(colours) == list(NUSCENES_BY_NAME)
    for train in range(NUSCENES.num_classes):
        raw = min(raw for raw, target in NUSCENES.raw_to_train.items() if target == train)
        name = list(colours)[raw]
        if name not in ("vehicle.bus.bendy", "vehicle.bus.rigid"):
            np.testing.assert_array_equal(NUSCENES.colours[train], colours[name])


def test_nuscenes_predictions_are_one_to_sixteen() -> None:
    np.testing.assert_array_equal(NUSCENES.to_raw(np.arange(16, dtype=np.uint8)), np.arange(1, 17))


def test_semantickitti_moving_classes_merge_and_come_back_static() -> None:
    moving, static = np.array([252, 253, 254, 255, 258, 259]), np.array([10, 31, 30, 32, 18, 20])
    train = SEMANTICKITTI.to_train(moving)
    np.testing.assert_array_equal(train, SEMANTICKITTI.to_train(static))
    np.testing.assert_array_equal(SEMANTICKITTI.to_raw(train), static)
    np.testing.assert_array_equal(SEMANTICKITTI.to_train(np.array([0, 1, 52, 99])), [IGNORE] * 4)


@pytest.mark.parametrize("taxonomy", [NUSCENES, SEMANTICKITTI, CITYSCAPES, WORLD_IMAGES])
def test_tables_fit_together(taxonomy) -> None:
    count = 16 if taxonomy.name in ("nuscenes", "world-images") else 19
    assert taxonomy.num_classes == count == len(taxonomy.train_to_raw) == len(set(taxonomy.class_names))
    assert taxonomy.colours.shape == (count, 3)
    assert len({tuple(colour) for colour in taxonomy.colours.tolist()}) == count
    assert set(taxonomy.raw_to_train.values()) == {*range(count), IGNORE}


def test_cityscapes_ids_are_those_of_its_scripts() -> None:
    raw = np.array([7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33])
    np.testing.assert_array_equal(CITYSCAPES.to_train(raw), np.arange(19))
    ignored = np.setdiff1d(np.arange(34), raw)
    np.testing.assert_array_equal(CITYSCAPES.to_train(ignored), [IGNORE] * 15)
    np.testing.assert_array_equal(CITYSCAPES.to_raw(np.arange(19)), raw)


def test_ignore_is_written_as_zero() -> None:
    np.testing.assert_array_equal(SEMANTICKITTI.to_raw(np.array([IGNORE, 8], np.uint8)), [0, 40])


@pytest.mark.parametrize("raw", [32, 255, 70_000])
def test_an_unknown_raw_id_is_named(raw: int) -> None:
    with pytest.raises(DataError, match=rf"unknown nuscenes label ids \[{raw}\]: expected ids among \[0, 1, "):
        NUSCENES.to_train(np.array([3, raw, raw, 9]))


def test_a_class_id_outside_the_taxonomy_is_refused() -> None:
    with pytest.raises(DataError, match=r"class ids \[16\]: expected 0 … 15"):
        NUSCENES.to_raw(np.array([0, 16], np.uint8))
