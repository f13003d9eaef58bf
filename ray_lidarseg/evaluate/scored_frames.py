"""Which frames a run is scored on, and the pool that scores them."""

import hashlib
from collections.abc import Iterator, Sequence
from operator import itemgetter
from typing import Any

from ray_lidarseg import storage
from ray_lidarseg.datasets import ontology_files
from ray_lidarseg.datasets.catalog import Catalog, read_catalog
from ray_lidarseg.errors import DataError
from ray_lidarseg.recipe.schema import Recipe
from ray_lidarseg.runtime import pool
from ray_lidarseg.runtime.cluster import connect
from ray_lidarseg.runtime.progress import progress
from ray_lidarseg.training.moved_shards import are_of_run, with_validation_there
from ray_lidarseg.training.run_folder import RunFolder
from ray_lidarseg.training.run_frames import RunFrames, described, stored_frames

FOLDER = "evaluation"
"""Folder of a run for what this verb writes."""


def choose(folder: RunFolder, recipe: Recipe, prepared: str, split: str) -> tuple[str, Catalog]:
    """The labelled frames of a split, and where their shards lie; ``data.val_frames`` validate wherever they lie.

    Args:
        folder: The run.
        recipe: Its recipe.
        prepared: Other shards than the recipe's, or the same ones moved; or empty.
        split: ``train``, ``val`` or ``test``.

    Raises:
        RunError: The run's shards are not there.
        DataError: No labelled frame, or shards of another data set.
    """
    place = storage.absolute(prepared) if prepared else folder.prepared(recipe)
    everything = read_catalog(*storage.resolve(place))
    frames = stored_frames(folder.uri)
    if prepared:
        everything = with_validation_there(everything, frames, recipe.data.val_frames)
    else:
        _refuse_another_project(folder, frames, everything, place)
        everything = everything.with_validation(recipe.data.val_frames)
    if frames and are_of_run(everything, frames):
        _say_what_changed(folder, frames, everything)
    catalog = _labelled(everything, split)
    _check_dataset(catalog, recipe)
    ontology_files.check_classes(recipe.data, place)
    return place, catalog


def digest_of(catalog: Catalog) -> str:
    """16 hex digits that name these very frames with their content."""
    lines = "\n".join(map(" ".join, zip(catalog.frame_id, catalog.digest, strict=True)))
    return hashlib.sha256(lines.encode()).hexdigest()[:16]


def results(
    positions: Sequence[int], worker: type, arguments: dict[str, Any], batch: int, title: str
) -> Iterator[dict[str, Any]]:
    """Result rows of a pool over catalog positions, as they come; each has its ``positions`` and ``error``.

    Raises:
        DataError: What a worker reports, or frames that gave no result.
    """
    rows, done = [{"position": position} for position in positions], 0
    with connect(), progress(len(rows), title, "frame") as bar:
        for part in pool.stream_twice(rows, worker, arguments, batch, "position", itemgetter("positions")):
            if part["error"]:
                raise DataError(part["error"])
            yield part
            done += len(part["positions"])
            bar.update(len(part["positions"]))
    if done < len(rows):
        raise DataError(
            f"{len(rows) - done} of {len(rows)} frames gave no result, their worker process kept dying (out of "
            "memory?): set train.evaluate_batch to less in the run's recipe.yaml"
        )


def _refuse_another_project(folder: RunFolder, frames: RunFrames | None, catalog: Catalog, prepared: str) -> None:
    if frames and frames.content and frames.content.keys().isdisjoint(catalog.frame_id):
        raise DataError(
            f"{prepared} holds none of the {len(frames.content)} frames {folder.uri} was trained beside: another data "
            "set lies there now; if it is meant, say so with --prepared"
        )


def _say_what_changed(folder: RunFolder, frames: RunFrames, catalog: Catalog) -> None:
    if changed := frames.changed(dict(zip(catalog.frame_id, catalog.digest, strict=True))):
        print(f"{described(changed)} since {folder.uri} began; what is there now is scored", flush=True)


def _labelled(catalog: Catalog, split: str) -> Catalog:
    chosen = catalog.of_split(split)
    labelled = chosen.select(name for name, known in zip(chosen.frame_id, chosen.is_labelled, strict=True) if known)
    if not len(labelled):
        raise DataError(
            f"no labelled frame of split {split!r} among {len(catalog)} prepared ones ({len(chosen)} of that split): "
            "give another --split, or take frames out of train with data.val_frames"
        )
    return labelled


def _check_dataset(catalog: Catalog, recipe: Recipe) -> None:
    others = sorted(set(catalog.dataset) - {recipe.data.dataset})
    if others:
        raise DataError(
            f"the shards hold frames of {', '.join(others)}, the run was trained for the classes of "
            f"{recipe.data.dataset}: give shards of that data set"
        )
