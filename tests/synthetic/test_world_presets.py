import pytest
from nuscenes.utils.splits import create_splits_scenes

from ray_lidarseg.errors import DataError
from ray_lidarseg.synthetic.presets import PRESETS, preset_named


def test_mini_presets_use_the_official_names():
    official = create_splits_scenes()
    for name in ("tiny", "demo"):
        assert sorted(PRESETS[name].train_scenes) == sorted(official["mini_train"])
        assert sorted(PRESETS[name].val_scenes) == sorted(official["mini_val"])
        assert len(set(PRESETS[name].scenes)) == 10


def test_bench_has_names_of_its_own_and_kitti_the_official_sequences():
    bench, kitti = PRESETS["bench"], PRESETS["kitti"]
    assert (len(bench.train_scenes), len(bench.val_scenes), bench.num_frames) == (60, 15, 20)
    assert bench.scenes == tuple(f"synth-{number:04d}" for number in range(1, 76))
    assert bench.version == "v1.0-synth"
    assert kitti.scenes == tuple(f"{number:02d}" for number in range(11))
    assert [scene for scene in kitti.scenes if scene not in kitti.train_scenes] == ["08"]
    assert (kitti.num_beams, kitti.fov_up_deg, kitti.fov_down_deg, kitti.frame_interval_s) == (64, 3.0, -25.0, 0.1)


def test_the_sensor_is_the_nuscenes_one():
    demo = PRESETS["demo"]
    assert (demo.num_beams, demo.num_firings) == (32, 1084)
    assert demo.fov_up_deg == pytest.approx(10.71, abs=0.01)


def test_an_unknown_preset_names_the_known_ones():
    with pytest.raises(DataError, match="no world preset 'huge': choose one of bench, demo, kitti, tiny"):
        preset_named("huge")
