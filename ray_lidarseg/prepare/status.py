"""``prepare --status``: what a folder holds of an index, layer by layer, without starting anything."""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from pyarrow import fs

from ray_lidarseg import storage
from ray_lidarseg.datasets.catalog import catalog_of_entries, shard_entries
from ray_lidarseg.datasets.layers import Layer, layer_bytes, layer_names, read_layer
from ray_lidarseg.prepare.decoding import decoded_frames, listed_frames
from ray_lidarseg.prepare.stage_report import read_failures
from ray_lidarseg.prepare.stages import Frames, compared_layer, entries_of, layer_uri

_NAMED_FAILURES = 3
_UNITS = ("B", "KiB", "MiB", "GiB", "TiB")


@dataclass(frozen=True)
class StageStatus:
    """Where one stage stands.

    Attributes:
        name: ``decode``, or the layer's name.
        about: The teacher.
        done: Frames finished.
        left: Frames that can be computed now.
        waits: Frames a layer below does not hold yet, or failed on.
        failures: Reasons by frame.
        num_bytes: On disk.
    """

    name: str
    about: str
    done: int
    left: int
    waits: int
    failures: dict[str, str]
    num_bytes: int


def status(index: str, out: str, image_splits: Collection[str] = ()) -> tuple[StageStatus, ...]:
    """Prints and returns where decoding and every layer of a prepared folder stand.

    Args:
        index: What `index` wrote.
        out: The prepared folder; may not exist yet.
        image_splits: As for ``prepare``: frames of others are not left to do.

    Raises:
        DataError: The index is missing, ``out`` was prepared from another one, or a file is torn.
        StorageError: The bucket does not exist or may not be listed.
    """
    index, out = storage.absolute(index), storage.absolute(out)
    storage.check_listable(out)
    filesystem, folder = storage.resolve(out)
    listed = listed_frames(index)
    decoded = decoded_frames(listed, out).finished
    failures = {name: why for name, why in read_failures(out, decoded).items() if name in listed}
    left = len(listed) - len(decoded) - len(failures)
    found = [StageStatus("decode", "", len(decoded), left, 0, failures, layer_bytes(filesystem, folder))]
    frames = _frames_of(filesystem, folder, listed, decoded)
    if len(frames.catalog):
        frames = frames.of_splits(image_splits)
    found += [_of_layer(out, read_layer(filesystem, folder, name), frames) for name in layer_names(filesystem, folder)]
    print(f"{out}, of {len(listed)} frames in {index}:")
    for stage in found:
        print("\n".join(_lines(stage)))
    return tuple(found)


def _frames_of(filesystem: fs.FileSystem, folder: str, listed: dict[str, Any], decoded: set[str]) -> Frames:
    """The decoded frames as their shards hold them; the catalog may not be written yet."""
    entries = [entry for entry in shard_entries(filesystem, folder) if entry["frame_id"] in decoded]
    values = {frame_id: columns["values"] for frame_id, columns in listed.items()}
    return Frames(catalog_of_entries(entries), values)


def _of_layer(out: str, layer: Layer, frames: Frames) -> StageStatus:
    uri, decoded = layer_uri(out, layer.name), set(frames.catalog.frame_id)
    done = compared_layer(out, layer, frames).finished
    ready = decoded
    for name in layer.reads:
        ready = ready & {entry["frame_id"] for entry in entries_of(out, name)}
    failures = {name: why for name, why in read_failures(uri, done).items() if name in ready}
    left = len(ready - done - failures.keys())
    num_bytes = layer_bytes(*storage.resolve(uri))
    return StageStatus(layer.name, _about(layer), len(done), left, len(decoded - ready), failures, num_bytes)


def _about(layer: Layer) -> str:
    digests = layer.identity.get("checkpoint_sha256", ())  # of one file, or by name of a folder's files
    digests = [digests] if isinstance(digests, str) else list(dict(digests).values())
    checkpoint = f", checkpoint {'+'.join(digest[:8] for digest in digests)}" if digests else ""
    return str(layer.identity.get("name", layer.kind)) + checkpoint


def _lines(stage: StageStatus) -> list[str]:
    about = f" ({stage.about})" if stage.about else ""
    counts = f"{stage.done} done, {stage.left} left, {len(stage.failures)} failed, {readable(stage.num_bytes)}"
    waits = f"; {stage.waits} wait for the masks" if stage.waits else ""
    first = [f"    {frame_id}: {why}" for frame_id, why in list(stage.failures.items())[:_NAMED_FAILURES]]
    return [f"  {stage.name}{about}: {counts}{waits}", *first]


def readable(num_bytes: float) -> str:
    """Bytes for people: ``1.5 MiB``."""
    for unit in _UNITS[:-1]:
        if num_bytes < 1024:
            return f"{num_bytes:.3g} {unit}"
        num_bytes /= 1024
    return f"{num_bytes:.3g} {_UNITS[-1]}"
