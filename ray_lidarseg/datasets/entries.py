"""Which data sets there are: a new one is a file of its own and an entry here."""

from ray_lidarseg.datasets import cityscapes, manifest, nuscenes, semantickitti, world_images
from ray_lidarseg.datasets.spec import DatasetSpec, OpenDataset
from ray_lidarseg.errors import DataError, RecipeError
from ray_lidarseg.recipe.bad_input import nearest, shown
from ray_lidarseg.recipe.ontology import Ontology
from ray_lidarseg.recipe.schema import Data, Recipe

DATASETS: tuple[DatasetSpec | OpenDataset, ...] = (
    nuscenes.SPEC,
    semantickitti.SPEC,
    manifest.SPEC,
    cityscapes.SPEC,
    world_images.SPEC,
)


def entry_named(name: str) -> DatasetSpec | OpenDataset:
    """The entry of that name.

    Raises:
        DataError: There is none; the nearest is named.
    """
    entries = {entry.name: entry for entry in DATASETS}
    if name not in entries:
        known = ", ".join(entries)
        raise DataError(f"unknown data set {shown(name)}: expected one of {known}{nearest(name, set(entries))}")
    return entries[name]


def holds_images(name: str) -> bool:
    """Whether the scans of that data set are images; own logs are scans, whatever their ontology says.

    Raises:
        DataError: There is none of that name.
    """
    entry = entry_named(name)
    return isinstance(entry, DatasetSpec) and entry.is_images


def dataset_named(name: str, ontology: Ontology | None = None) -> DatasetSpec:
    """The data set of that name.

    Args:
        name: One of ``DATASETS``.
        ontology: What own logs hold; the built-in data sets need none.

    Raises:
        DataError: There is none, or it needs an ontology.
    """
    entry = entry_named(name)
    if isinstance(entry, DatasetSpec):
        return entry
    if ontology is None:
        raise DataError(f"data set {name} needs an ontology: the YAML file with its classes, their words and its LiDAR")
    return entry.with_ontology(ontology)


def dataset_of(data: Data) -> DatasetSpec:
    """The data set a recipe's models predict.

    Raises:
        DataError: There is none of that name, or its ontology is not known.
    """
    entry = entry_named(data.dataset)
    if isinstance(entry, OpenDataset) and data.ontology is None:
        raise DataError(
            f"data.dataset={data.dataset} needs data.ontology: `ray-lidarseg train` fills it in from data.prepared"
        )
    return dataset_named(data.dataset, data.ontology)


def check_recipe(recipe: Recipe) -> Recipe:
    """What a recipe alone cannot know: whether there is such a data set, and whether its other sections fit it.

    Returns:
        The recipe.

    Raises:
        RecipeError: No such data set (the nearest is named), a model of images for scans or of scans for images, or an
            ontology that has no effect.
    """
    try:
        entry = entry_named(recipe.data.dataset)
    except DataError as error:
        raise RecipeError(f"data.dataset: {error}") from error
    is_images = holds_images(entry.name)
    if is_images != recipe.is_images:
        kind = "images" if is_images else "LiDAR scans"
        raise RecipeError(
            f"model {recipe.model.name} does not see {entry.name}, which holds {kind}: model image_unet sees images, "
            "every other one scans"
        )
    if recipe.data.ontology is not None and isinstance(entry, DatasetSpec):
        raise RecipeError(f"data.ontology is for own logs: {entry.name} brings its own classes and sensor")
    return recipe
