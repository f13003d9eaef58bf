"""What words say of a distilled network's points, of the images, and of both; and the structure of the features."""

from dataclasses import replace
from typing import Any, cast

import pyarrow as pa
import torch

from ray_lidarseg import storage
from ray_lidarseg.datasets.catalog import Catalog
from ray_lidarseg.datasets.evidence import EvidenceReader, TextEmbeddings
from ray_lidarseg.datasets.points import to_batch
from ray_lidarseg.datasets.prepared_frames import PreparedFrames
from ray_lidarseg.datasets.sensor import resolve_sensor
from ray_lidarseg.errors import DataError, RunError, reason
from ray_lidarseg.evaluate.scored_frames import results
from ray_lidarseg.methods.distill import Distill
from ray_lidarseg.methods.method import Method
from ray_lidarseg.metrics.zero_shot import LanguageScores
from ray_lidarseg.models.word_classifier import ZeroShot
from ray_lidarseg.recipe.schema import Recipe
from ray_lidarseg.runtime import pool
from ray_lidarseg.training.run_folder import load_method
from ray_lidarseg.types import IMAGE_FEATURES, IMAGE_SEGMENT

_PER_CLASS = 5000  # arXiv 2409.00845, figure 1
_LEAST_PER_FRAME = 50  # ours: neighbours of a frame say the same; four times what an even share would be


def other_words(method: Method, file: str) -> bytes:
    """Content of the file of words a distilled network is to be asked with; the method has them afterwards.

    Args:
        method: The run's.
        file: What `prototypes` or `prepare` wrote (``.npz``); empty: the network's own.

    Raises:
        DataError: The embeddings have another length or number of classes than the network.
        RunError: The run is no distilled network, or one without words.
    """
    if not file:
        _ = method.classifier
        return b""
    if not isinstance(method, Distill):
        raise RunError("--words is for distilled networks (method distill): this run has a classifier of its own")
    content = storage.read_bytes(file)
    found = TextEmbeddings.from_bytes(content, file)
    wanted = (method.head.out_features, method.student.num_classes)
    if (found.embeddings.shape[1], found.num_classes) != wanted:
        raise DataError(
            f"{file} holds embeddings of length {found.embeddings.shape[1]} of {found.num_classes} classes, the "
            f"network speaks {wanted[0]} of {wanted[1]}: embed with the teacher it was distilled from"
        )
    method.read_words(found)
    return content


def score_language(
    run: str, recipe: Recipe, prepared: str, catalog: Catalog, step: int, words: bytes, num_classes: int
) -> LanguageScores | None:
    """Scores of a distilled run; None, and a line that says why, where the shards hold no features of the images.

    Args:
        run: The run folder.
        recipe: Its recipe; ``data.evidence`` names the layer.
        prepared: The shards.
        catalog: The frames.
        step: Of the checkpoint.
        words: What ``other_words`` gave.
        num_classes: C.
    """
    try:
        EvidenceReader(*storage.resolve(prepared), catalog, recipe.data.evidence)
    except DataError as error:
        print(f"no structure, and no scores of the images: {error}", flush=True)
        return None
    per_frame = max(_LEAST_PER_FRAME, -(-4 * _PER_CLASS // len(catalog)))
    scores = LanguageScores(num_classes, per_frame, _PER_CLASS)
    arguments = {"run": run, "step": step, "prepared": prepared, "split_catalog": catalog, "words": words}
    arguments["per_frame"] = per_frame
    for part in results(range(len(catalog)), _Reader, arguments, recipe.train.evaluate_batch, "words"):
        scores.merge_bytes(part["scores"])
    return scores


class _Reader:
    """One actor: the network, its words, shards and layers."""

    def __init__(self, run: str, step: int, prepared: str, split_catalog: Catalog, words: bytes, per_frame: int):
        self.device, self.per_frame = pool.own_device(), per_frame
        method, self.recipe, _ = load_method(run, step, self.device)
        method.read_words(TextEmbeddings.from_bytes(words) if words else None)
        self.model = cast(ZeroShot, method.classifier).eval()
        self.sensor = resolve_sensor(self.recipe.data)
        place = (*storage.resolve(prepared), split_catalog)
        self.frames, self.evidence = PreparedFrames(*place), EvidenceReader(*place, self.recipe.data.evidence)

    def __call__(self, rows: pa.Table) -> pa.Table:
        positions = rows.column("position").to_pylist()
        result: dict[str, Any] = {"positions": positions, "error": "", "scores": b""}
        try:
            result["scores"] = self._scores(positions).to_bytes()
        except Exception as error:  # the driver raises it, as the DataError it is
            result["error"] = reason(error)
        return pa.Table.from_pylist([result])

    @torch.no_grad()
    def _scores(self, positions: list[int]) -> LanguageScores:
        scores = LanguageScores(self.model.num_classes, self.per_frame, _PER_CLASS)
        for position in positions:
            frame, (extras, segments) = self.frames[position], self.evidence.read(position, (IMAGE_FEATURES,))
            scan, _ = to_batch(frame, self.sensor, self.recipe.data.use_intensity, extras)
            batch = replace(scan, segments=segments).to(self.device)
            points, images = self.model(batch).point_features, batch.of_segments(IMAGE_FEATURES).float()
            is_paired = batch.extras[IMAGE_SEGMENT] > 0
            scores.add(frame.frame_id, batch.labels, points, images, is_paired, self.model.words)
        return scores
