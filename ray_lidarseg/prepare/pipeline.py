"""The verb itself: decode what is missing, then each layer that was asked for, one stage after the other."""

from collections.abc import Callable, Collection
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from ray_lidarseg import storage
from ray_lidarseg.datasets import ontology_files
from ray_lidarseg.datasets.catalog import CATALOG_NAME, drop_rows, write_catalog
from ray_lidarseg.datasets.layers import Layer, layer_names, read_layer, write_layer_catalog
from ray_lidarseg.datasets.origin import Compared, described
from ray_lidarseg.errors import DataError
from ray_lidarseg.prepare.decoding import decoded_frames, listed_frames, progress_of, run_decoding
from ray_lidarseg.prepare.requested_layers import Teachers
from ray_lidarseg.prepare.stage_report import FAILURES_NAME, Spent
from ray_lidarseg.prepare.stages import (
    Frames,
    Stage,
    StageReport,
    compared_layer,
    entries_of,
    found_layer,
    is_up_to_date,
    layer_uri,
    refresh_words,
    run_stage,
    stages_of,
)
from ray_lidarseg.prepare.torn_shards import without_torn
from ray_lidarseg.recipe.ontology import Ontology
from ray_lidarseg.runtime.cluster import connect
from ray_lidarseg.runtime.pool import Actors
from ray_lidarseg.storage.lock import held
from ray_lidarseg.storage.whole_files import remove_unfinished


@dataclass(frozen=True)
class PrepareReport:
    """What one call did.

    Attributes:
        done: Frames decoded.
        skipped: Frames of the index that were there already.
        failed: Frames with a reason in ``failures.jsonl``; the next call tries them again.
        nonfinite_points: Points with a NaN or an infinity in the written frames; kept in the shard, not trained on.
        layers: What each further stage did.
        spent: What decoding cost.
    """

    done: int
    skipped: int
    failed: int
    nonfinite_points: int = 0
    layers: tuple[StageReport, ...] = ()
    spent: Spent = field(default_factory=Spent, compare=False)


def prepare(
    index: str,
    out: str,
    max_failed_ratio: float = 0.01,
    teachers: Teachers | None = None,
    actors: Actors | None = None,
    retry_failed: bool = False,
    image_splits: Collection[str] = (),
) -> PrepareReport:
    """Brings a prepared folder up to date with an index: decoded frames, and the layers of the teachers.

    Interrupted at any moment, the same call continues: a shard is there whole or not at all. Frames whose files,
    calibration or images have changed since are named and computed again, with the layers that read them; layers that
    the call does not ask for lose such rows, so that their frames count as missing there.

    Args:
        index: What `index` wrote; a path or a URI.
        out: Folder of the shards, ``catalog.parquet``, ``failures.jsonl`` and ``layers/``; a path or a URI.
        max_failed_ratio: Share of a stage's frames that may fail. Ours: one in a hundred.
        teachers: Which images are shown to; None: frames are decoded, nothing else.
        actors: The pool of each teacher; None: as many as the cluster holds, a GPU each where there are any.
        retry_failed: Tries frames alone that failed before; all else that is missing stays missing.
        image_splits: Splits whose images are shown to the teachers; empty: all. Every frame is decoded.

    Raises:
        DataError: More frames failed; the first reasons are named, finished shards stay. Or ``out`` was prepared from
            another index, or ``max_failed_ratio`` is no share, or a teacher cannot be built, or no frame is of the
            splits, or ``out`` holds a training run.
        ResourceError: The cluster cannot hold the actors.
        StorageError: ``out`` cannot be written (a full disk ends the job), or another process writes into it.
    """
    if not 0.0 <= max_failed_ratio <= 1.0:
        raise DataError(f"--max-failed-ratio {max_failed_ratio:g} is no share of the frames: expected 0 … 1")
    index, out = storage.absolute(index), storage.absolute(out)
    if storage.exists(storage.join(out, "recipe.yaml")):
        raise DataError(f"{out} holds a training run: give the shards a folder of their own with --out")
    storage.check_writable(out)
    storage.check_listable(out)
    stages = stages_of(out, teachers or Teachers(), actors or Actors())  # a missing checkpoint shows before any work
    with ExitStack() as stack:

        def start_ray() -> None:
            stack.enter_context(connect())

        stack.enter_context(held(out, "prepare"))
        job = _Job(index, out, max_failed_ratio, retry_failed, image_splits, start_ray)
        return job.run(stages)


@dataclass(frozen=True)
class _Job:
    index: str
    out: str
    limit: float
    only_failed: bool
    image_splits: Collection[str]
    start_ray: Callable[[], None]

    def run(self, stages: list[Stage]) -> PrepareReport:
        listed, ontology = listed_frames(self.index), ontology_files.of_index(self.index)
        ontology_files.keep(ontology, self.out)
        report, frames = self._decode(listed, ontology)
        if stages:
            report = replace(report, layers=self._layers(stages, frames.of_splits(self.image_splits), ontology))
        if not self.only_failed:
            asked = set() if self.image_splits else {stage.layer.name for stage in stages}
            self._drop_rows_nobody_renews(frames, asked)
        return report

    def _decode(self, listed: dict[str, dict[str, Any]], ontology: Ontology | None) -> tuple[PrepareReport, Frames]:
        filesystem, folder = storage.resolve(self.out)
        remove_unfinished(filesystem, folder)
        compared = partial(decoded_frames, listed, self.out)
        decoded = compared() if self.only_failed else without_torn(self.out, compared)
        self._drop_changed(decoded)
        progress = progress_of(listed, decoded, self.out, self.limit, self.only_failed)
        try:
            if progress.waiting:
                self.start_ray()
                run_decoding(self.index, self.out, ontology, progress)
        finally:
            progress.write_failures()
        with storage.explained("write", self.out):
            catalog = write_catalog(filesystem, folder)
        counts = (progress.done, len(decoded.finished), len(progress.failures), progress.nonfinite_points)
        report = PrepareReport(*counts, spent=progress.spent)
        print(_summary(report, self.out, len(catalog)), flush=True)
        catalog = catalog.select(frame_id for frame_id in catalog.frame_id if frame_id in listed)
        values = {frame_id: columns["values"] for frame_id, columns in listed.items()}
        return report, Frames(catalog, values | (decoded.before if self.only_failed else {}))

    def _drop_changed(self, decoded: Compared) -> None:
        if not decoded.outdated:
            return
        what = f"{len(decoded.changed)} frames changed since they were prepared: {described(decoded.changed)}"
        if self.only_failed:
            print(f"{what}; they stay as they were until the command is given without --retry-failed", flush=True)
            return
        if decoded.changed:
            print(f"{what}; they are decoded again", flush=True)
        with storage.explained("write", self.out):
            drop_rows(*storage.resolve(self.out), decoded.outdated)

    def _layers(self, stages: list[Stage], frames: Frames, ontology: Ontology | None) -> tuple[StageReport, ...]:
        missing: list[Stage] = []
        for stage in stages:  # what changes a layer may change those that read it
            below = {other.layer.name for other in missing} & set(stage.layer.reads)
            if below or not is_up_to_date(stage, frames):
                missing.append(stage)
        if missing:
            self.start_ray()
        for stage in missing:  # all of them first: CLIP's bad checkpoint shows before SAM's long night
            found_layer(stage, frames.catalog, ontology)
        for stage in stages:
            refresh_words(stage, frames.catalog, ontology, self.start_ray)
        reports = []
        for stage in stages:
            if stage in missing:
                reports.append(run_stage(stage, frames, self.limit, self.only_failed))
            else:
                count = len(frames.catalog)
                reports.append(StageReport(stage.layer.name, 0, count, 0))
                print(f"{stage.layer.name} ({stage.settings.name}): all {count} frames were there already")
        return tuple(reports)

    def _drop_rows_nobody_renews(self, frames: Frames, asked: Collection[str]) -> None:
        """Takes out of layers, but those asked for, what is not of these frames any more: training would read it."""
        filesystem, folder = storage.resolve(self.out)
        found: dict[str, tuple[Layer, Compared]] = {}
        for name in layer_names(filesystem, folder):
            if name in asked or not storage.exists(storage.join(layer_uri(self.out, name), CATALOG_NAME)):
                continue  # nobody reads a layer without a catalog
            try:
                layer = read_layer(filesystem, folder, name)
                found[name] = layer, compared_layer(self.out, layer, frames)
            except DataError as error:
                print(f"{name} is not compared with the frames: {error}", flush=True)
        # Those that read others first: a row that stays behind the one it was made of would never be found again.
        for layer, compared in sorted(found.values(), key=lambda item: not item[0].reads):
            below = {frame_id for name in layer.reads if name in found for frame_id in found[name][1].changed}
            self._drop_rows(layer.name, compared, below)

    def _drop_rows(self, name: str, compared: Compared, below: Collection[str]) -> None:
        """The outdated rows of one layer, and those of the frames that the layer below loses."""
        left = [entry for entry in entries_of(self.out, name) if entry["frame_id"] in below] if below else []
        rows = {*compared.outdated, *((entry["shard"], entry["row"]) for entry in left)}
        if not rows:
            return
        changed = {entry["frame_id"]: ["masks"] for entry in left} | compared.changed
        if changed:
            print(
                f"{name}: what {len(changed)} frames were made of changed: {described(changed)}; their rows are gone: "
                "give the command with the --masks and --features of the layer to compute them again",
                flush=True,
            )
        uri = layer_uri(self.out, name)
        with storage.explained("write", uri):
            drop_rows(*storage.resolve(uri), rows)
            write_layer_catalog(*storage.resolve(uri))


def _summary(report: PrepareReport, out: str, num_prepared: int) -> str:
    parts = [f"{report.done} frames prepared", f"{report.skipped} were there already", f"{report.failed} failed"]
    if report.failed:
        parts[-1] += f" (see {storage.join(out, FAILURES_NAME)})"
    if report.nonfinite_points:
        parts.append(f"{report.nonfinite_points} points are not finite and will not be trained on")
    if others := num_prepared - report.done - report.skipped:
        parts.append(f"{others} of other indexes are there, too")
    return f"{out}: " + ", ".join(parts)
