"""What one call of `predict` is told: the model, where labels go, and as which files."""

from dataclasses import dataclass

from ray_lidarseg import storage
from ray_lidarseg.datasets import ontology_files
from ray_lidarseg.datasets.entries import dataset_of
from ray_lidarseg.datasets.origin import digest_of_value
from ray_lidarseg.datasets.point_clouds import CLOUD_FORMATS
from ray_lidarseg.datasets.submission import FileFormat, check_format, label_path
from ray_lidarseg.errors import DataError
from ray_lidarseg.recipe.ontology import Ontology
from ray_lidarseg.recipe.schema import Data
from ray_lidarseg.training.inference_options import PLAIN, InferenceOptions
from ray_lidarseg.training.run_folder import RunFolder, load_method


@dataclass(frozen=True)
class Job:
    """What every actor is told."""

    run: str
    out: str
    step: int
    weights: str  # digest of the checkpoint's content, and what else the options bring in
    file_format: FileFormat
    split: str
    data: Data
    fingerprint: str
    batch: int
    options: InferenceOptions
    index: str  # the frames come from; empty where they come from elsewhere
    read_as: Ontology | None  # of own logs: what their scans hold, when it is not what prepared shards say

    def path(self, frame_id: str) -> str:
        """Where the labels of a frame lie, below ``out``."""
        return label_path(frame_id, self.file_format, self.split)

    @property
    def is_cloud(self) -> bool:
        """Whether labels, points and truth go into one file."""
        return self.file_format in CLOUD_FORMATS

    def knows_truth(self, dataset: str) -> bool:
        """Whether the labels of a scan of that data set mean the classes the model predicts."""
        return ontology_files.mean_the_same(self.data, dataset, self.read_as)

    @property
    def read_as_digest(self) -> str:
        """Digest of ``read_as``; empty where there is none."""
        return digest_of_value(self.read_as.model_dump(mode="json")) if self.read_as else ""


def job_of(
    run: str,
    out: str,
    which: str | int,
    file_format: FileFormat,
    split: str,
    index: str,
    options: InferenceOptions = PLAIN,
) -> Job:
    """The job of a run folder's checkpoint.

    Raises:
        RunError: There is no run or checkpoint.
        RecipeError: The options do not fit the run.
        DataError: The format cannot hold the run's classes.
    """
    folder = RunFolder(run)
    _, recipe, step = load_method(folder.uri, which)
    options.check(recipe)
    weights = "-".join([folder.checkpoint(step)["sha256"][:16], *options.weights(), *filter(None, [options.name])])
    dataset = dataset_of(recipe.data)
    check_format(file_format, dataset.taxonomy)
    if file_format in CLOUD_FORMATS and dataset.is_images:
        raise DataError(f"format {file_format} holds the points of scans, and {dataset.name} images: choose label")
    read_as = ontology_files.of_index(index) if index else recipe.data.ontology
    index_uri, batch = storage.absolute(index) if index else "", recipe.train.evaluate_batch
    made = (folder.uri, out, step, weights, file_format, split, recipe.data, recipe.fingerprint, batch, options)
    return Job(*made, index_uri, read_as)
