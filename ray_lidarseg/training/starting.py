"""Weights a run begins with (``Recipe.start``): where they come from, which fit, and which are left out."""

from dataclasses import dataclass
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor

from ray_lidarseg import storage
from ray_lidarseg.datasets.entries import dataset_of
from ray_lidarseg.errors import DataError, RunError
from ray_lidarseg.foundation.checkpoint_files import file_sha256, local_file
from ray_lidarseg.foundation.weight_files import load_weights
from ray_lidarseg.models.segmentor import Segmentor
from ray_lidarseg.recipe.load import parse_recipe
from ray_lidarseg.recipe.schema import Start
from ray_lidarseg.training import checkpoints
from ray_lidarseg.training.run_folder import RunFolder

_PREFIXES = {"student": "student.", "teacher": "teacher.model."}
_PROJECTION = "projection."  # of a distilled network's file, see export
_SHOWN = 3


@dataclass(frozen=True)
class Source:
    """Weights of one model, as they were found.

    Attributes:
        origin: Run folder or file.
        step: Steps the run had done; 0 where the file does not say.
        sha256: Digest of the checkpoint's content.
        weights: Parameters and buffers by their names in ``Segmentor.state_dict``.
        class_names: Of its head; None where the file does not say.
    """

    origin: str
    step: int
    sha256: str
    weights: dict[str, Tensor]
    class_names: tuple[str, ...] | None

    def note(self) -> dict[str, Any]:
        """What a manifest keeps of it."""
        return {"from": self.origin, "step": self.step, "sha256": self.sha256}


def read_source(start: Start, step: int = 0) -> Source:
    """The weights a recipe names, on the CPU.

    Args:
        start: Run or file.
        step: Of a run's checkpoint; 0: the newest.

    Raises:
        RunError: No such run or checkpoint, or a broken one.
        DataError: No such file, or a broken one.
    """
    if start.run:
        if not storage.exists(storage.join(start.run, "recipe.yaml")):
            raise RunError(f"no recipe.yaml in {start.run}: start.run must name a folder `ray-lidarseg train` wrote")
        return _of_checkpoint(RunFolder(start.run).checkpoint(step or "latest"), start.run)
    file = local_file(start.file)
    if file.suffix == ".pt":
        return _of_checkpoint(checkpoints.unpack(file.read_bytes()), start.file)
    try:
        return Source(start.file, 0, file_sha256(file), load_weights(file), None)
    except SafetensorError as error:
        raise DataError(f"{start.file} is no .safetensors file ({error}): give one, or a state.pt") from error


def _of_checkpoint(state: dict[str, Any], origin: str) -> Source:
    """The deployed model in a checkpoint of ours, with the statistics it is deployed with."""
    recipe = parse_recipe(state["recipe"], origin=f"{origin}: its recipe")
    prefix = _PREFIXES[recipe.method.deployed]
    weights = {name.removeprefix(prefix): value for name, value in state["method"].items() if name.startswith(prefix)}
    weights |= state.get("deployed_statistics", {})
    # a head that no label has trained is no start
    class_names = dataset_of(recipe.data).taxonomy.class_names if recipe.method.reads_labels else ()
    return Source(origin, state["step"], state["sha256"], weights, class_names)


@torch.no_grad()
def begin_with(model: Segmentor, source: Source, start: Start, class_names: tuple[str, ...]) -> list[str]:
    """Copies the weights into a model.

    Args:
        model: Keeps what is not copied.
        source: What ``read_source`` gave.
        start: Which part.
        class_names: Of the model's head: scores of other classes are no start for it.

    Returns:
        Names that were left out.

    Raises:
        RunError: No weight fits; one of the backbone is missing or has another shape; or the source has more.
    """
    own = model.state_dict()
    backbone = [name for name in own if not model.is_of_head(name)]
    fits = {name for name, value in own.items() if name in source.weights and value.shape == source.weights[name].shape}
    if not fits:
        found = ", ".join(list(source.weights)[:_SHOWN]) or "nothing"
        raise RunError(f"{source.origin} holds no weight of this model (it holds {found} …): start from another run")
    if misfits := [name for name in backbone if name not in fits]:
        name = misfits[0]
        there = list(source.weights[name].shape) if name in source.weights else "absent"
        raise RunError(
            f"{source.origin} does not fit: {len(misfits)} of {len(backbone)} weights of the backbone differ, such as "
            f"{name}, {there} there and {list(own[name].shape)} here: take model.* of the recipe it was trained with"
        )
    unplaced = [name for name in source.weights if name not in own and not name.startswith(_PROJECTION)]
    if surplus := [name for name in unplaced if not model.is_of_head(name)]:
        raise RunError(
            f"{source.origin} does not fit: {len(surplus)} weights of the source's backbone, such as {surplus[0]}, "
            "have no place in this model: take model.* of the recipe it was trained with"
        )
    head = [name for name in own if model.is_of_head(name)]
    same_classes = source.class_names in (None, class_names) and set(head) <= fits
    taken = [*backbone, *(head if start.part == "all" and same_classes else [])]
    for name in taken:
        own[name].copy_(source.weights[name])
    return [name for name in own if name not in taken]
