import pytest
from nuscenes.utils.splits import create_splits_scenes

from ray_lidarseg.errors import DataError
from ray_lidarseg.world.presets import PRESETS, preset_named


def test_mini_presets_use_the_official_names():
    official = create_splits_scenes()
    for name in ("tiny", "demo"):
        assert sorted(PRESETS[name].train_scenes) == sorted(official["mini_train"])
        assert sorted(PRESETS[name].val_scenes) == sorted(official["mini_val"])
        assert len(set(PRESETS[name].scenes)) == 10


def test_the_sensor_is_the_nuscenes_one():
    demo = PRESETS["demo"]
    assert (demo.num_beams, demo.num_columns) == (32, 1084)
    assert demo.fov_up_deg == pytest.approx(10.71, abs=0.01)


def test_an_unknown_preset_names_the_known_ones():
    with pytest.raises(DataError, match="no world preset 'huge': choose one of demo, tiny"):
        preset_named("huge")
