"""What the package knows about a data set: one ``DatasetSpec``, in the data set's own file."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from ray_lidarseg.datasets.binary_scans import BinaryScans
from ray_lidarseg.datasets.taxonomy import Taxonomy
from ray_lidarseg.recipe.ontology import Ontology
from ray_lidarseg.sample import ImageSensor, Keyframe, SensorSpec


@dataclass(frozen=True)
class IndexOptions:
    """What a data set may be asked to list; one that has no such choice ignores it.

    Attributes:
        version: nuScenes table folder.
        label_dir: SemanticKITTI label folder: ``labels`` or ``scribbles``.
    """

    version: str = "v1.0-mini"
    label_dir: str = "labels"


@dataclass(frozen=True, eq=False, kw_only=True)
class DatasetTraits:
    """What is so whatever the classes are.

    Attributes:
        name: ``Keyframe.dataset`` and ``data.dataset``.
        forward: Axis of the points along which the vehicle drives, for pictures.
        front_camera: The camera to show where there are several; ``""``: the first.
        things: Class ids of things that stand apart: what PolarMix pastes.
        ground: Class ids of what one drives or walks on, and
        vehicles: of what has wheels: what corruptions of a scan (``datasets.corruptions``) act on.
        grid_height_m: Lowest and highest z of Cylinder3D's grid: authors' code, and for other sensors as for nuScenes.
    """

    name: str
    forward: Literal["x", "y"] = "x"
    front_camera: str = ""
    things: tuple[int, ...] = ()
    ground: tuple[int, ...] = ()
    vehicles: tuple[int, ...] = ()
    grid_height_m: tuple[float, float] = (-5.0, 3.0)


@dataclass(frozen=True, eq=False, kw_only=True)
class DatasetSpec(DatasetTraits):
    """A data set: what it holds, how it is listed and how it is read.

    Attributes:
        taxonomy: Its classes.
        sensor: Its LiDAR; an ``ImageSensor`` where its scans are images.
        index: Lists the key-frames below a root, by path; no scan is opened.
        decode: An index row with its scan and labels. Raises DataError and StorageError that name the file.
        words: Names and synonyms of each class, in sentences for CLIP; empty where no one asks about images' words.
        absent: What a class in neither truth nor prediction counts in mIoU, by the data set's benchmark.
        files: Layout of its scans where they are plain float32 columns.
        raw_labels: Ids [P] of a frame's labels before they become classes, -1 where there is none; None: images.
    """

    taxonomy: Taxonomy
    sensor: SensorSpec
    index: Callable[[str, IndexOptions], Iterable[Keyframe]]
    decode: Callable[[Keyframe], Keyframe]
    words: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    absent: Literal["skip", "zero"] = "skip"
    files: BinaryScans | None = None
    raw_labels: Callable[[Keyframe], np.ndarray] | None = None

    @property
    def is_images(self) -> bool:
        """Whether a scan is an image."""
        return isinstance(self.sensor, ImageSensor)


@dataclass(frozen=True, eq=False, kw_only=True)
class OpenDataset(DatasetTraits):
    """Own logs: classes and LiDAR are what an ontology file says.

    Attributes:
        with_ontology: The data set that an ontology describes.
    """

    with_ontology: Callable[[Ontology], DatasetSpec]
