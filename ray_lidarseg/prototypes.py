"""The verb `prototypes`: class embeddings from pictures, as a file that stands in for words.

Pictures come from a folder, or are rendered in the synthetic world, of seeds that nothing else uses. What is written is
read by `evaluate --words`; with ``prepared`` it becomes the words of a features layer whose teacher has none.
"""

from collections.abc import Iterator

import numpy as np

from ray_lidarseg import storage
from ray_lidarseg.datasets.catalog import read_catalog
from ray_lidarseg.datasets.entries import dataset_named
from ray_lidarseg.datasets.evidence import TextEmbeddings, evidence_layers
from ray_lidarseg.datasets.layers import TEXT_FILE, read_layer
from ray_lidarseg.errors import DataError, RecipeError
from ray_lidarseg.foundation.build import build_features
from ray_lidarseg.foundation.picture_words import Shown, class_prototypes, pictures_of_folder
from ray_lidarseg.foundation.settings import settings_of, split_overrides
from ray_lidarseg.types import IGNORE

WORLD_SEED = 9700
"""Of the pictures rendered here; neither the miniatures' nor any benchmark's."""
_WORLD = "nuscenes"  # whose classes the synthetic world has
_MIN_PIXELS = 60  # ours: a class that shows fewer in a picture is left out of it


def prototypes(
    out: str,
    features: str = "clip",
    overrides: tuple[str, ...] = (),
    pictures: str = "",
    dataset: str = _WORLD,
    scenes: int = 6,
    prepared: str = "",
    layer: str = "auto",
) -> TextEmbeddings:
    """Embeds pictures of each class and writes their means.

    Args:
        out: File to write (``.npz``).
        features: Image teacher, as of `prepare --features`.
        overrides: ``features.KEY=VALUE``, as of `prepare --set`.
        pictures: Folder with a sub-folder of pictures for each class; empty: the world's, whose sky is a reject class.
        dataset: Whose classes.
        scenes: Drives to render, where no folder is given.
        prepared: Shards: their features layer gets the means as its words; it must have none.
        layer: Which features layer, where there are several.

    Raises:
        RecipeError: No such teacher or setting, or a world of other classes.
        DataError: A class has no picture; the shards are of another data set; or the layer has words or features of
            another length.
    """
    settings = settings_of("features", features, split_overrides(overrides)["features"])
    names = dataset_named(dataset, None).taxonomy.class_names
    if not pictures and dataset != _WORLD:
        raise RecipeError(f"the world shows the classes of {_WORLD}: give --pictures for those of {dataset}")
    storage.check_file_writable(out)
    if prepared:
        _refuse_other_dataset(prepared, dataset)
    place = _free_layer(prepared, layer) if prepared else ""
    teacher = build_features(settings, "cpu")
    shown = pictures_of_folder(pictures, names) if pictures else _of_world(scenes)
    found = class_prototypes(teacher, shown, names, () if pictures else ("sky",))
    if place and (length := _length_of(prepared, layer)) != teacher.feature_dim:
        raise DataError(f"{place} has features of length {length}, this teacher of {teacher.feature_dim}: take its own")
    if missing := [name for name, row in zip(names, found.embeddings, strict=True) if not row.any()]:
        print(f"no picture shows {', '.join(missing)}: never said of anything (--pictures may show it)", flush=True)
    storage.write_bytes(out, found.to_bytes())
    if place:
        storage.write_bytes(place, found.to_bytes())
    print(f"{out}: {len(names)} classes, {teacher.feature_dim} numbers each{f'; words of {place}' if place else ''}")
    return found


def _refuse_other_dataset(prepared: str, dataset: str) -> None:
    found = sorted(set(read_catalog(*storage.resolve(storage.absolute(prepared))).dataset))
    if found != [dataset]:
        raise DataError(
            f"{prepared} holds {', '.join(found) or 'no'} frames, and these would be words of {dataset}'s classes: "
            "give --dataset of the shards, or other shards with --prepared"
        )


def _free_layer(prepared: str, layer: str) -> str:
    """URI of the words that a features layer lacks."""
    filesystem, folder = storage.resolve(storage.absolute(prepared))
    name, _ = evidence_layers(filesystem, folder, layer)
    place = storage.join(storage.absolute(prepared), "layers", name, TEXT_FILE)
    if storage.exists(place):
        raise DataError(
            f"{place} holds words already: give the written file to `evaluate --words` instead of --prepared"
        )
    return place


def _length_of(prepared: str, layer: str) -> int:
    filesystem, folder = storage.resolve(storage.absolute(prepared))
    return read_layer(filesystem, folder, evidence_layers(filesystem, folder, layer)[0]).feature_dim


def _of_world(scenes: int) -> Iterator[Shown]:
    from ray_lidarseg.miniature.training_pictures import scene_pictures, training_scene

    for index in range(scenes):
        for seen in scene_pictures(training_scene(WORLD_SEED, index)):
            shown = np.where(seen.classes == IGNORE, 0, seen.classes.astype(np.uint16) + 1).astype(np.uint16)
            counts = np.bincount(shown.ravel())
            yield seen.image, np.where(counts[shown] >= _MIN_PIXELS, shown, 0).astype(np.uint16)
