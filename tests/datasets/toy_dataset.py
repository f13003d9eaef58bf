"""A data set as one file, as a user would add it: scans and labels as .npy, one folder a drive."""

import io
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from ray_lidarseg import storage
from ray_lidarseg.datasets.folders import data_root
from ray_lidarseg.datasets.spec import DatasetSpec, IndexOptions
from ray_lidarseg.datasets.taxonomy import taxonomy
from ray_lidarseg.sample import Keyframe, SensorSpec

NAME = "toy"
CLASSES = taxonomy(NAME, (("ground", (90, 90, 90), (7,), 7), ("wall", (200, 60, 60), (8, 9), 8)), ignored=(0,))


def index(root: str, _: IndexOptions) -> Iterator[Keyframe]:
    """Drives whose name ends in val are validated on."""
    for scan in sorted(Path(data_root(root, NAME)).glob("*/*.scan.npy")):
        split = "val" if scan.parent.name.endswith("val") else "train"
        labels = scan.with_name(scan.name.replace(".scan.", ".labels."))
        name = f"{scan.parent.name}/{scan.name.partition('.')[0]}"
        yield Keyframe(name, NAME, scan.parent.name, split, int(scan.name[:4]), str(scan), str(labels))


def decode(frame: Keyframe) -> Keyframe:
    """float32 [P, 4] and integers [P]."""
    points, raw = (np.load(io.BytesIO(storage.read_bytes(uri))) for uri in (frame.points_uri, frame.labels_uri))
    return replace(frame, points=points, labels=CLASSES.to_train(raw))


SPEC = DatasetSpec(
    name=NAME,
    taxonomy=CLASSES,
    sensor=SensorSpec(16, math.radians(15.0), math.radians(-15.0), 1.0, 50.0, 1.0),
    index=index,
    decode=decode,
    words={"ground": ("road",), "wall": ("wall", "house")},
    things=(1,),
    absent="zero",
    forward="y",
    front_camera="forward",
    grid_height_m=(-3.0, 4.0),
)
