"""How a run learns which layers it reads: prepared folder → recipe in the run folder."""

from ray_lidarseg.datasets.evidence import EvidenceReader, evidence_layers
from ray_lidarseg.datasets.shards import read_catalog
from ray_lidarseg.errors import DataError, RecipeError
from ray_lidarseg.methods.build import check_evidence
from ray_lidarseg.recipe import Recipe, override
from ray_lidarseg.runtime import storage


def complete(recipe: Recipe) -> Recipe:
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
    reader = EvidenceReader(filesystem, folder, read_catalog(filesystem, folder), layers)
    if recipe.data.evidence_dim not in (0, reader.feature_dim):
        raise RecipeError(
            f"data.evidence_dim={recipe.data.evidence_dim}, but {layers} has features of length {reader.feature_dim}: "
            "leave data.evidence_dim out"
        )
    if missing := reader.num_missing:
        if missing == len(reader.catalog):
            raise DataError(
                f"{layers} holds none of the {missing} frames of {folder}: run `ray-lidarseg prepare` again"
            )
        print(
            f"{layers}: {missing} of {len(reader.catalog)} frames are not in it; their points are unpaired", flush=True
        )
    complete = override(recipe, {"data.evidence": layers, "data.evidence_dim": reader.feature_dim})
    check_evidence(complete, has_text=reader.text is not None)
    return complete
