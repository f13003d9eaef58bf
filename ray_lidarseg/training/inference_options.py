"""How a trained run answers beyond one forward: views, ensembles and votes; loaded with the options already applied."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from ray_lidarseg import storage
from ray_lidarseg.datasets.entries import dataset_of
from ray_lidarseg.datasets.evidence import TextEmbeddings
from ray_lidarseg.errors import RecipeError, RunError
from ray_lidarseg.models.combined import VIEWS, Combined
from ray_lidarseg.models.fidnet import FIDNet
from ray_lidarseg.models.knn_vote import KNNVote
from ray_lidarseg.models.segmentor import Segmentor
from ray_lidarseg.recipe.schema import Recipe
from ray_lidarseg.training.run_folder import RunFolder, load_method


@dataclass(frozen=True)
class InferenceOptions:
    """What makes an answer better and slower; numbers with any of it are reported apart from those without.

    Attributes:
        views: Views of each scan whose answers are averaged (``models.combined``); 1: none.
        knn: FIDNet's points vote (``models.knn_vote``).
        ensemble: Folders of further runs whose models to deploy are averaged in, each at its latest checkpoint.
    """

    views: int = 1
    knn: bool = False
    ensemble: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """The runs by their absolute URIs: actors live in other directories, and a run has one name only."""
        object.__setattr__(self, "ensemble", tuple(map(storage.absolute, self.ensemble)))

    @property
    def name(self) -> str:
        """``tta4-knn-ensemble3``; empty where nothing is set."""
        parts = {
            f"tta{self.views}": self.views > 1,
            "knn": self.knn,
            f"ensemble{1 + len(self.ensemble)}": bool(self.ensemble),
        }
        return "-".join(part for part, is_set in parts.items() if is_set)

    def to_json(self) -> dict[str, Any]:
        """As results keep it."""
        return {"views": self.views, "knn": self.knn, "ensemble": list(self.ensemble)}

    def check(self, recipe: Recipe) -> None:
        """Refuses what does not fit a run, before anything is loaded.

        Raises:
            RecipeError: Views of images, votes of a model without a range image, or no such number of views.
            RunError: A run of the ensemble is not there, predicts other classes, or sees other columns of the points.
        """
        if not 1 <= self.views <= len(VIEWS):
            raise RecipeError(f"--tta {self.views}: expected 1 (none) to {len(VIEWS)} views of each scan")
        if self.views > 1 and recipe.is_images:
            raise RecipeError("--tta turns and mirrors LiDAR scans: leave it out for a model of images")
        if self.knn and recipe.model.name != "fidnet":
            raise RecipeError(f"--knn votes among pixels of a range image: model {recipe.model.name} has none")
        classes = dataset_of(recipe.data).taxonomy.class_names
        for run in self.ensemble:
            other = RunFolder(run).recipe()
            if dataset_of(other.data).taxonomy.class_names != classes or other.is_images != recipe.is_images:
                raise RunError(f"--ensemble {run} predicts other classes than the run it would be averaged with")
            if other.data.use_intensity != recipe.data.use_intensity:
                raise RunError(
                    f"--ensemble {run} sees intensity and the run it would be averaged with not, or reversed"
                )
            if self.knn and other.model.name != "fidnet":
                raise RecipeError(f"--knn votes among pixels of a range image: model {other.model.name} has none")

    def weights(self) -> list[str]:
        """Digests of the latest checkpoints of the ensemble."""
        return [RunFolder(run).checkpoint()["sha256"][:16] for run in self.ensemble]


PLAIN = InferenceOptions()


def load_models(
    run: str,
    which: str | int,
    device: torch.device,
    options: InferenceOptions = PLAIN,
    words: TextEmbeddings | None = None,
) -> tuple[Mapping[str, Segmentor], Recipe, int]:
    """The models of a run by name, its recipe and its step; with options the model to deploy alone.

    Raises:
        RunError: There is no run or no such checkpoint.
        RecipeError: The options do not fit the run.
    """
    method, recipe, step = load_method(run, which, device)
    method.read_words(words)
    if not options.name:
        return method.classifiers(), recipe, step
    options.check(recipe)
    members = [
        method.classifier,
        *(load_method(other, "latest", device)[0].classifier for other in options.ensemble),
    ]
    voting = [KNNVote(member) if options.knn and isinstance(member, FIDNet) else member for member in members]
    plain = len(voting) == 1 and options.views == 1
    return {recipe.method.deployed: voting[0] if plain else Combined(voting, options.views)}, recipe, step
