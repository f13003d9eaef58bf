"""How often each class occurs, beside the real data set (shares of the points that belong to a class)."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from ray_lidarseg.datasets.entries import dataset_named
from ray_lidarseg.datasets.taxonomy import Taxonomy
from ray_lidarseg.synthetic import nuscenes_writer, semantickitti_writer
from ray_lidarseg.synthetic.presets import Preset

_REAL_PERCENT = {
    "nuscenes": (
        1.102, 0.017, 0.545, 4.511, 0.179, 0.051, 0.274, 0.087, 0.581, 1.875, 37.53, 1.013, 8.311, 8.322, 21.10, 14.51,
    ),
    "semantickitti": (
        4.40, 0.017, 0.041, 0.22, 0.19, 0.035, 0.013, 0.004, 20.5, 1.52, 14.9, 0.40, 13.7, 7.5, 27.5, 0.62, 8.1, 0.30,
        0.064,
    ),
}  # fmt: skip
"""nuScenes trainval and SemanticKITTI training set, data.md §4.2 and §3.2; in the order of the classes."""


def frequency_table(root: Path, preset: Preset, seed: int) -> str:
    """Text table of a generated world: share of the labelled points and of the frames, by class."""
    taxonomy = dataset_named(preset.layout).taxonomy
    counts = [_count(file, taxonomy) for file in label_files(root, preset, seed)]
    return _table(taxonomy, np.array(counts))


def label_files(root: Path, preset: Preset, seed: int) -> Iterable[Path]:
    """The label file of every frame."""
    for index in range(len(preset.scenes)):
        for frame in range(preset.num_frames):
            if preset.layout == "nuscenes":
                yield nuscenes_writer.frame_files(root, preset, seed, index, frame)[-1]
            else:
                yield semantickitti_writer.frame_files(root, preset, index, frame)[1]


def _count(file: Path, taxonomy: Taxonomy) -> np.ndarray:
    """int64 [C + 1], ignored points last."""
    is_kitti = taxonomy.name == "semantickitti"
    raw = np.fromfile(file, np.uint32) & 0xFFFF if is_kitti else np.fromfile(file, np.uint8)
    train = np.minimum(taxonomy.to_train(raw), taxonomy.num_classes)
    return np.bincount(train, minlength=taxonomy.num_classes + 1)


def _table(taxonomy: Taxonomy, counts: np.ndarray) -> str:
    """Lines of class, share here, share in the real set, share of the frames that show it."""
    labelled = counts[:, :-1]
    share = 100 * labelled.sum(axis=0) / max(labelled.sum(), 1)
    frames = 100 * (labelled > 0).mean(axis=0)
    lines = [f"{'class':22}{'world %':>10}{taxonomy.name + ' %':>18}{'frames %':>10}"]
    rows = zip(taxonomy.class_names, share, _REAL_PERCENT[taxonomy.name], frames, strict=True)
    lines += [f"{name:22}{here:10.3f}{real:18.3f}{seen:10.0f}" for name, here, real, seen in rows]
    ignored = 100 * counts[:, -1].sum() / max(counts.sum(), 1)
    return "\n".join([*lines, f"{'ignored, of all points':22}{ignored:10.3f}"])
