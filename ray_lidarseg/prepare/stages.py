"""One stage for each layer: frames that lack it → an actor pool → shards and a catalog of the layer.

Stages run one after the other, each with all the cluster's GPUs, so nobody has to guess how SAM and CLIP share them. An
image is decoded once for each teacher, which costs little beside SAM.
"""

import json
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from ray_lidarseg import storage
from ray_lidarseg.datasets.catalog import CATALOG_NAME, Catalog, drop_rows
from ray_lidarseg.datasets.evidence import read_text
from ray_lidarseg.datasets.layers import (
    LAYER_FILE,
    LAYERS_FOLDER,
    TEXT_FILE,
    Layer,
    layer_entries,
    layer_names,
    read_layer,
    write_layer_catalog,
)
from ray_lidarseg.datasets.origin import Compared, compare, described
from ray_lidarseg.errors import DataError, TornFileError
from ray_lidarseg.foundation.prompts import vocabulary
from ray_lidarseg.foundation.settings import PairSettings, SlicMasks
from ray_lidarseg.prepare.requested_layers import Teachers, probed, uses_gpu
from ray_lidarseg.prepare.stage_report import FAILURES_NAME, Progress, Result, Spent, read_failures
from ray_lidarseg.prepare.torn_shards import without_torn
from ray_lidarseg.prepare.workers import FeatureWorker, LayerWorker, MaskWorker, PairWorker
from ray_lidarseg.recipe.ontology import Ontology
from ray_lidarseg.runtime.pool import Actors, stream
from ray_lidarseg.runtime.progress import progress as progress_bar
from ray_lidarseg.storage.whole_files import remove_unfinished

_WORKERS: dict[str, type[LayerWorker]] = {"masks": MaskWorker, "pairs": PairWorker, "features": FeatureWorker}
_FRAMES_PER_SHARD = {"masks": 4, "pairs": 16, "features": 4}  # ours: a crash costs so many; 24 images are 40 s of SAM
_GROUPS_PER_ACTOR = 4  # ours: few frames are spread over all actors


@dataclass(frozen=True)
class StageReport:
    """What one stage did in one call.

    Attributes:
        layer: Name.
        done: Frames written.
        skipped: Frames that were there already.
        failed: Frames with a reason in the layer's ``failures.jsonl``.
        spent: What the frames of this call cost.
    """

    layer: str
    done: int
    skipped: int
    failed: int
    spent: Spent = field(default_factory=Spent)


@dataclass(frozen=True)
class Frames:
    """The decoded frames a command is about.

    Attributes:
        catalog: Their entries.
        values: What the index says of each beside its files (``datasets.origin.values_of``).
    """

    catalog: Catalog
    values: Mapping[str, Mapping[str, str]]

    def of_splits(self, splits: Collection[str]) -> "Frames":
        """Those of the splits; empty: all.

        Raises:
            DataError: No frame is of them.
        """
        if not splits:
            return self
        chosen = self.catalog.of_split(*splits)
        if not len(chosen):
            there = ", ".join(sorted(set(self.catalog.split))) or "none"
            raise DataError(f"--image-splits {' '.join(splits)}: no frame is of these splits; there are: {there}")
        return Frames(chosen, self.values)


@dataclass(frozen=True)
class Stage:
    """One layer that a command asks for.

    Attributes:
        out: URI of the prepared folder.
        layer: What it is made of.
        settings: Of its teacher, or of the pairing.
        actors: The pool, as the command asks for it.
    """

    out: str
    layer: Layer
    settings: Any
    actors: Actors

    @property
    def uri(self) -> str:
        """URI of the layer's folder."""
        return layer_uri(self.out, self.layer.name)

    def places(self, frames: Frames) -> dict[str, dict[str, Any]]:
        """Where the rows lie that a frame's computation reads, by frame id; frames a layer below failed on lack.

        ``values`` are what the row will be made of beside files, as JSON.
        """
        catalog, values = frames.catalog, values_now(self.out, self.layer, frames)
        entries = zip(catalog.frame_id, catalog.shard, catalog.row.tolist(), strict=True)
        places = {name: {"frame_id": name, "shard": shard, "row": row} for name, shard, row in entries}
        for name, place in places.items():
            known = values.get(name, {})
            place["values"] = json.dumps({key: known[key] for key in self._reads if known.get(key)})
        if not self.layer.reads:
            return places
        masks = {entry["frame_id"]: entry for entry in entries_of(self.out, self.layer.reads[0])}
        return {
            name: {**place, "masks_shard": masks[name]["shard"], "masks_row": masks[name]["row"]}
            for name, place in places.items()
            if name in masks
        }

    @property
    def _reads(self) -> tuple[str, ...]:
        """Names of the values that decide a row of this layer."""
        if self.layer.kind == "pairs":
            return ("scan", "calibration", "images", "masks")
        if self.layer.kind == "features":
            return ("images", "masks")
        with_prompts = getattr(self.settings, "prompts", "grid") == "lidar"
        return ("images", "scan", "calibration") if with_prompts else ("images",)

    def run(self, progress: Progress, places: Mapping[str, Mapping[str, Any]]) -> None:
        """Computes the frames that wait; Ray must be connected.

        Raises:
            DataError: Too many frames failed.
        """
        with progress_bar(len(progress.waiting), self.layer.name, "frame") as bar:
            for most in (_FRAMES_PER_SHARD[self.layer.kind], 1):  # a frame that kills its process took others with it
                if progress.waiting and most == 1:  # a shard may be there although its result got lost
                    progress.add_finished(entry["frame_id"] for entry in entries_of(self.out, self.layer.name))
                for result in self._results([dict(places[name]) for name in sorted(progress.waiting)], most):
                    progress.add(result)
                    bar.update()
                    bar.set_postfix(failed=len(progress.failures), refresh=False)
                    progress.stop_if_too_many_failed()
        progress.give_up_waiting()

    def _results(self, rows: list[dict[str, Any]], most: int) -> Iterator[Result]:
        _, num_actors = self.actors.sizes(max(1, len(rows)))
        group = max(1, min(most, len(rows) // (num_actors * _GROUPS_PER_ACTOR)))
        reads = layer_uri(self.out, self.layer.reads[0]) if self.layer.reads else ""
        arguments = {
            "out": self.out,
            "layer": self.uri,
            "reads": reads,
            "threads": self.actors.threads,
            "settings": self.settings,
        }
        for row in stream(rows, _WORKERS[self.layer.kind], arguments, group, self.actors):
            yield Result(**row)


def layer_uri(out: str, name: str) -> str:
    """URI of a layer's folder."""
    return storage.join(out, LAYERS_FOLDER, name)


def entries_of(out: str, name: str) -> list[dict[str, Any]]:
    """What ``layer_entries`` says of every row of a layer; none where there is no such layer yet."""
    return list(layer_entries(*storage.resolve(layer_uri(out, name))))


def values_now(out: str, layer: Layer, frames: Frames) -> dict[str, dict[str, str]]:
    """What rows of a layer would be made of now, beside files, by frame; frames a layer below lacks are left out."""
    scans = zip(frames.catalog.frame_id, frames.catalog.digest, strict=True)
    values = {name: {**frames.values.get(name, {}), "scan": digest.partition("/")[0]} for name, digest in scans}
    for below in layer.reads:
        rows = {entry["frame_id"]: entry["digest"] for entry in entries_of(out, below)}
        values = {name: {**known, "masks": rows[name]} for name, known in values.items() if name in rows}
    return {  # shards and layers of earlier releases have no digests
        name: {key: value for key, value in known.items() if value} for name, known in values.items()
    }


def compared_layer(out: str, layer: Layer, frames: Frames) -> Compared:
    """The rows of a layer, compared with the images, masks, scans and calibration as they are now."""
    uri = layer_uri(out, layer.name)
    return compare(entries_of(out, layer.name), values_now(out, layer, frames), uri)


def stages_of(out: str, teachers: Teachers, actors: Actors) -> list[Stage]:
    """The stages a command asks for, in order; reads and hashes the checkpoints."""
    settings = {"masks": teachers.masks, "pairs": teachers.pairs, "features": teachers.features}
    return [
        Stage(out, layer, settings[layer.kind], actors if uses_gpu(settings[layer.kind]) else actors.without_gpu())
        for layer in teachers.layers()
    ]


def run_stage(stage: Stage, frames: Frames, limit: float, only_failed: bool) -> StageReport:
    """Brings one layer up to date with the decoded frames; its ``layer.json`` is there, and Ray is connected.

    Args:
        stage: Which.
        frames: Decoded frames of the index.
        limit: Share of the frames that may fail.
        only_failed: Tries those alone that failed before.

    Raises:
        DataError: Too many frames failed.
        StorageError: The layer cannot be written.
    """
    filesystem, folder = storage.resolve(stage.uri)
    remove_unfinished(filesystem, folder)
    places = stage.places(frames)
    as_it_is = partial(compared_layer, stage.out, stage.layer, frames)
    compared = as_it_is() if only_failed else without_torn(stage.uri, as_it_is)
    finished = compared.finished | (compared.changed.keys() if only_failed else set())
    _drop_changed(stage, compared, only_failed)
    if not only_failed:
        _drop_orphans(stage, frames.catalog.frame_id, places)
    earlier = {name: why for name, why in read_failures(stage.uri, finished).items() if name in places}
    waiting = set(earlier) if only_failed else set(places) - finished
    progress = Progress(stage.uri, len(places), limit, waiting, earlier)
    try:
        stage.run(progress, places)
    finally:
        progress.write_failures()
    with storage.explained("write", stage.uri):
        write_layer_catalog(filesystem, folder)
    report = StageReport(stage.layer.name, progress.done, len(finished), len(progress.failures), progress.spent)
    print(_summary(report, stage), flush=True)
    return report


def _drop_changed(stage: Stage, compared: Compared, only_failed: bool) -> None:
    if not compared.outdated:
        return
    what = (
        f"{stage.layer.name}: what {len(compared.changed)} frames were made of changed: {described(compared.changed)}"
    )
    if only_failed:
        print(f"{what}; they stay as they were until the command is given without --retry-failed", flush=True)
        return
    if compared.changed:
        print(f"{what}; they are computed again", flush=True)
    with storage.explained("write", stage.uri):
        drop_rows(*storage.resolve(stage.uri), compared.outdated)


def _drop_orphans(stage: Stage, frames: Collection[str], places: Collection[str]) -> None:
    """Rows whose masks are gone, as their images changed and the mask teacher failed on them: training would read them.

    Only behind the stage of the masks: who deletes that layer to save room keeps what was made of it.
    """
    gone = set(frames) - set(places)
    rows = [entry for entry in entries_of(stage.out, stage.layer.name) if entry["frame_id"] in gone] if gone else []
    if not rows:
        return
    changed = described({entry["frame_id"]: ["masks"] for entry in rows})
    print(f"{stage.layer.name}: their masks failed, so these rows are gone: {changed}", flush=True)
    with storage.explained("write", stage.uri):
        drop_rows(*storage.resolve(stage.uri), [(entry["shard"], entry["row"]) for entry in rows])


def is_up_to_date(stage: Stage, frames: Frames) -> bool:
    """Whether the layer has its catalog and every frame; says so without Ray and without building a teacher."""
    if not storage.exists(storage.join(stage.uri, CATALOG_NAME)):
        return False
    try:
        return compared_layer(stage.out, stage.layer, frames).finished >= set(frames.catalog.frame_id)
    except TornFileError:
        return False


def found_layer(stage: Stage, catalog: Catalog, ontology: Ontology | None) -> None:
    """Writes ``layer.json``, once, after the teacher was built where its actors will be; Ray must be connected.

    Args:
        stage: Which.
        catalog: Decoded frames.
        ontology: Of an own data set: its words.

    Raises:
        DataError: The teacher cannot be built, or a layer of that name has other settings.
        ResourceError: The cluster cannot hold the actors.
    """
    stage.actors.require()
    filesystem, folder = storage.resolve(stage.out)
    if storage.exists(storage.join(stage.uri, LAYER_FILE)):
        _require_same(stage.layer, read_layer(filesystem, folder, stage.layer.name), stage.uri)
        return
    layer = stage.layer
    if not isinstance(stage.settings, SlicMasks | PairSettings):
        found = probed(stage.settings, vocabulary(catalog.dataset[0], ontology), stage.actors)
        layer = Layer(layer.kind, layer.identity, layer.reads, found.feature_dim)
        if found.text is not None:
            storage.write_bytes(storage.join(stage.uri, TEXT_FILE), found.text.to_bytes())
    _announce(stage)
    file = storage.join(stage.uri, LAYER_FILE)
    _require_same(layer, Layer.from_json(storage.write_once(file, layer.to_json()), file), stage.uri)


def refresh_words(stage: Stage, catalog: Catalog, ontology: Ontology | None, start_ray: Callable[[], None]) -> None:
    """Embeds the classes' words again where they have changed since; the features do not depend on them.

    Args:
        stage: Which; its ``layer.json`` is there.
        catalog: Decoded frames.
        ontology: Of an own data set: its words.
        start_ray: Connects to Ray, where the teacher is needed.
    """
    there = read_text(*storage.resolve(stage.out), stage.layer.name)
    if there is None:
        return
    words = vocabulary(catalog.dataset[0], ontology)
    if there.names == words.words and np.array_equal(there.class_idx, words.class_idx):
        return
    start_ray()
    found = probed(stage.settings, words, stage.actors)
    if found.text is not None:
        storage.write_bytes(storage.join(stage.uri, TEXT_FILE), found.text.to_bytes())
        print(f"{stage.layer.name} ({stage.settings.name}): {len(words.words)} words of the classes embedded again")


def _require_same(layer: Layer, there: Layer, uri: str) -> None:
    if (there.kind, there.identity, there.reads) != (layer.kind, layer.identity, layer.reads):
        raise DataError(f"{uri} holds a layer of other settings under the same name: delete it, or prepare elsewhere")


def _announce(stage: Stage) -> None:
    """Says that a layer is new, why, and that older ones of its kind stay."""
    filesystem, folder = storage.resolve(stage.out)
    for old in layer_names(filesystem, folder):
        if not old.startswith(stage.layer.kind) or old == stage.layer.name:  # its folder may hold text.npz already
            continue
        changes = ", ".join(differences(read_layer(filesystem, folder, old), stage.layer))
        print(f"{stage.layer.name} is a new layer: {changes}; {old} stays as it is", flush=True)


def differences(old: Layer, new: Layer) -> list[str]:
    """What decides that two layers of one kind are not the same."""
    before, after = ({**layer.identity, "reads": list(layer.reads)} for layer in (old, new))
    return [
        f"{key} {_short(before.get(key))} → {_short(after.get(key))}"
        for key in sorted(before.keys() | after.keys())
        if before.get(key) != after.get(key)
    ]


def _short(value: Any) -> str:
    text = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
    return text if len(text) <= 24 else text[:12] + "…"


def _summary(report: StageReport, stage: Stage) -> str:
    parts = [f"{report.done} frames", f"{report.skipped} were there already", f"{report.failed} failed"]
    if report.failed:
        parts[-1] += f" (see {storage.join(stage.uri, FAILURES_NAME)})"
    if report.spent.seconds:
        parts.append(f"{report.spent.seconds / report.spent.frames:.2f} s a frame and worker")
        if stage.layer.kind != "pairs":
            parts.append(f"{report.spent.model_ratio:.0%} of it in the teacher")
    return f"{stage.layer.name} ({stage.settings.name}): " + ", ".join(parts)
