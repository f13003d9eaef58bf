"""What a run learns from its prepared folder, so that the run folder alone says it: ontology and layers."""

from ray_lidarseg import storage
from ray_lidarseg.datasets import ontology_files
from ray_lidarseg.datasets.catalog import read_catalog
from ray_lidarseg.datasets.entries import check_recipe, entry_named
from ray_lidarseg.datasets.evidence import EvidenceReader, evidence_layers
from ray_lidarseg.datasets.ray_bundles import NO_MASKS, require_cameras, require_segments, segment_layers
from ray_lidarseg.datasets.spec import OpenDataset
from ray_lidarseg.errors import DataError, RecipeError
from ray_lidarseg.methods.build import check_evidence
from ray_lidarseg.recipe.load import override
from ray_lidarseg.recipe.schema import NeRF, Recipe
from ray_lidarseg.training.mlflow_run import absolute_tracking


def complete(recipe: Recipe) -> Recipe:
    """The recipe with everything its prepared folder decides; see the functions below for what they raise.

    Raises:
        RecipeError: There is no such data set, or its other sections do not fit it (``entries.check_recipe``).
    """
    return complete_segments(complete_evidence(complete_ontology(complete_paths(check_recipe(recipe)))))


def complete_paths(recipe: Recipe) -> Recipe:
    """The recipe with places that mean the same from every folder: written in three ways, it is one recipe."""
    places = {"data.prepared": recipe.data.prepared, "split.file": recipe.split.file}
    if recipe.start is not None:
        places |= {"start.run": recipe.start.run, "start.file": recipe.start.file}
    changes = {key: storage.absolute(place) for key, place in places.items() if place}
    if recipe.tracking:
        changes["tracking"] = absolute_tracking(recipe.tracking)
    return override(recipe, changes) if changes else recipe


def complete_ontology(recipe: Recipe) -> Recipe:
    """The recipe with the ontology of its shards, so that a run folder alone says what its classes are.

    Raises:
        RecipeError: The recipe brings another ontology than the shards.
        DataError: The recipe is of own logs, but the shards have no ontology.
    """
    if not isinstance(entry_named(recipe.data.dataset), OpenDataset) or not recipe.data.prepared:
        return recipe
    ontology = ontology_files.of_prepared(recipe.data.prepared)
    if ontology is None:
        raise DataError(
            f"{recipe.data.prepared} holds no {ontology_files.ONTOLOGY_NAME}: write it with `ray-lidarseg index "
            "manifest … --ontology …` and `prepare`, or set data.dataset"
        )
    if recipe.data.ontology not in (None, ontology):
        raise RecipeError(
            f"data.ontology is not that of {recipe.data.prepared}: leave it out, or index and prepare with it"
        )
    return override(recipe, {"data.ontology": ontology.model_dump(mode="json")})


def complete_evidence(recipe: Recipe) -> Recipe:
    """The recipe with the full name of its evidence and the length of its features, so that the run folder says both.

    Frames without evidence (a teacher failed on them) are counted on the screen: their points count as unpaired.

    Raises:
        RecipeError: ``data.evidence_dim`` is set and the layer's features have another length, or the method reads
            evidence that no layer gives.
        DataError: There is no such layer, several fit, it is not finished, or it holds none of the frames.
    """
    if not recipe.data.prepared:
        return recipe
    if not recipe.data.evidence:
        check_evidence(recipe, has_text=False)
        return recipe
    filesystem, folder = storage.resolve(storage.absolute(recipe.data.prepared))
    layers = "/".join(evidence_layers(filesystem, folder, recipe.data.evidence))
    reader = EvidenceReader(filesystem, folder, read_catalog(filesystem, folder).of_split("train"), layers)
    if recipe.data.evidence_dim not in (0, reader.feature_dim):
        raise RecipeError(
            f"data.evidence_dim={recipe.data.evidence_dim}, but {layers} has features of length {reader.feature_dim}: "
            "leave data.evidence_dim out"
        )
    if missing := reader.num_missing:
        if missing == len(reader.catalog):
            raise DataError(
                f"{layers} holds none of the {missing} training frames of {folder}: run `ray-lidarseg prepare` again"
            )
        print(
            f"{layers}: {missing} of {len(reader.catalog)} training frames are not in it; their points are unpaired",
            flush=True,
        )
    completed = override(recipe, {"data.evidence": layers, "data.evidence_dim": reader.feature_dim})
    check_evidence(completed, has_text=reader.text is not None)
    return completed


def complete_segments(recipe: Recipe) -> Recipe:
    """The recipe with the full names of the layers whose segments method nerf reads.

    Raises:
        DataError: There is no such layer, several fit, it holds none of the training frames or not one segment, or no
            frame has a camera that the recipe names.
    """
    method = recipe.method
    if not isinstance(method, NeRF) or not recipe.data.prepared:
        return recipe
    filesystem, folder = storage.resolve(storage.absolute(recipe.data.prepared))
    catalog = read_catalog(filesystem, folder).of_split("train")
    if method.cameras:
        require_cameras(filesystem, folder, catalog, method.cameras)
    if method.masks == NO_MASKS:
        return recipe
    layers = segment_layers(filesystem, folder, method.masks)
    require_segments(filesystem, folder, catalog, layers, method.cameras)
    return override(recipe, {"method.masks": layers})
