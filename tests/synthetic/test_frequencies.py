import numpy as np

from ray_lidarseg.synthetic.frequencies import frequency_table, label_files
from ray_lidarseg.synthetic.options import with_options
from ray_lidarseg.synthetic.presets import PRESETS

ONE = {"frames": 2, "train_scenes": 1, "val_scenes": 1}


def _row(table: str, name: str) -> list[float]:
    line = next(line for line in table.splitlines() if line.startswith(name))
    return [float(value) for value in line[22:].split()]


def test_shares_of_points_and_frames_beside_nuscenes(tmp_path):
    preset = with_options(PRESETS["tiny"], ONE)
    contents = ([17, 17, 24, 31], [24], [24], [24])
    for file, labels in zip(label_files(tmp_path, preset, 0), contents, strict=True):
        file.parent.mkdir(parents=True, exist_ok=True)
        np.array(labels, np.uint8).tofile(file)
    table = frequency_table(tmp_path, preset, 0)
    assert _row(table, "car") == [33.333, 4.511, 25]
    assert _row(table, "driveable_surface") == [66.667, 37.53, 100]
    assert _row(table, "bus") == [0, 0.545, 0]
    assert "14.286" in table.splitlines()[-1]


def test_shares_beside_semantickitti_ignore_instances(tmp_path):
    preset = with_options(PRESETS["kitti"], ONE)
    for file in label_files(tmp_path, preset, 0):
        file.parent.mkdir(parents=True, exist_ok=True)
        np.array([252 | 7 << 16, 40, 40, 1], np.uint32).tofile(file)
    table = frequency_table(tmp_path, preset, 0)
    assert _row(table, "car") == [33.333, 4.4, 100]
    assert _row(table, "road") == [66.667, 20.5, 100]
