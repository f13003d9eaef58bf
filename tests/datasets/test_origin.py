"""What a row was made of, as text and compared."""

import dataclasses

import numpy as np
import pytest

from ray_lidarseg import storage
from ray_lidarseg.datasets.origin import Origin, described, values_of, what_changed
from ray_lidarseg.errors import DataError
from ray_lidarseg.sample import CameraImage, Keyframe
from ray_lidarseg.storage.stamps import recorded

CAMERA = CameraImage("CAM_FRONT", "a.jpg", np.eye(3), np.eye(4), 7, 96, 54)
FRAME = Keyframe("f", "nuscenes", "s", "train", 5, "a.bin", "a.label", cameras=(CAMERA,), alias="token")


def test_it_comes_back_as_it_was(tmp_path):
    storage.write_bytes(f"{tmp_path}/a", b"x")
    with recorded() as files:
        storage.read_bytes(f"{tmp_path}/a")
    origin = Origin(files, values_of(FRAME))
    assert Origin.from_json(origin.to_json(), "shard") == origin
    assert Origin.from_json("", "shard") is None


@pytest.mark.parametrize("text", ["[]", "x", '{"files": {"a": [1]}, "values": {}}', '{"files": 3, "values": {}}', "{}"])
def test_a_text_that_is_none_is_named(text):
    with pytest.raises(DataError, match=r"^shard-x does not say what it was made of .*delete it and prepare again"):
        Origin.from_json(text, "shard-x")


def test_each_value_stands_for_what_its_name_says():
    moved = np.eye(4)
    moved[0, 3] = 0.1

    def with_camera(**changes) -> Keyframe:
        return dataclasses.replace(FRAME, cameras=(dataclasses.replace(CAMERA, **changes),))

    for other, name in (
        (with_camera(cam_SE3_lidar=moved), "calibration"),
        (with_camera(intrinsics=np.eye(3) * 2), "calibration"),
        (with_camera(width_px=97), "calibration"),
        (with_camera(uri="b.jpg"), "images"),
        (dataclasses.replace(FRAME, timestamp_us=6), "time"),
        (dataclasses.replace(FRAME, alias="x"), "alias"),
    ):
        before, now = values_of(FRAME), values_of(other)
        assert [key for key in before if before[key] != now[key]] == [name]
    assert values_of(dataclasses.replace(FRAME, scene="t", points=np.ones((2, 4), np.float32))) == values_of(FRAME)


def test_changes_are_named_and_what_only_one_side_knows_is_none(tmp_path):
    for name in ("a", "b"):
        storage.write_bytes(f"{tmp_path}/{name}", b"one")
    with recorded() as files:
        storage.read_bytes(f"{tmp_path}/a")
        storage.read_bytes(f"{tmp_path}/b")
    origins = {"f": Origin(dict(files), {"calibration": "1", "old": "1"}), "g": Origin({}, {"calibration": "1"})}
    assert what_changed(origins, {"f": {"calibration": "1", "new": "2"}, "g": {"calibration": "1"}}) == {}
    storage.write_bytes(f"{tmp_path}/b", b"two")
    changed = what_changed(origins, {"f": {"calibration": "1"}, "g": {"calibration": "2"}})
    assert changed == {"f": [f"{tmp_path}/b"], "g": ["calibration"]}
    assert described(changed) == "f (b), g (calibration)"
    assert described({str(number): ["x"] for number in range(5)}) == "0 (x), 1 (x), 2 (x) and 2 more"
