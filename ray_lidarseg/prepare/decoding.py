"""The first stage: index rows → those no finished shard holds → blocks of a few → one shard a block.

Only index rows and one result line a frame travel through Ray; points go from file to shard inside a task. What is bad
about a frame is a result, not an exception, so it costs that frame and nothing else.
"""

import itertools
import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, fields
from typing import Any

import pyarrow as pa
from pyarrow import fs

from ray_lidarseg import storage
from ray_lidarseg.datasets.catalog import shard_entries
from ray_lidarseg.datasets.decode import decode
from ray_lidarseg.datasets.entries import holds_images
from ray_lidarseg.datasets.origin import Compared, Entries, Origin, compare, values_of
from ray_lidarseg.datasets.parquet_files import open_parquet
from ray_lidarseg.datasets.points import num_nonfinite
from ray_lidarseg.datasets.shards import shard_file
from ray_lidarseg.errors import DataError, reason
from ray_lidarseg.prepare.stage_report import NUM_RETRIES, Progress, Result, not_made, read_failures
from ray_lidarseg.recipe.ontology import Ontology
from ray_lidarseg.runtime.cluster import worker_runtime_env
from ray_lidarseg.runtime.pool import quiet_data
from ray_lidarseg.runtime.progress import progress as progress_bar
from ray_lidarseg.sample import Keyframe
from ray_lidarseg.storage.stamps import recorded, stamps_of

_FRAMES_PER_SHARD = 8  # ours: what a crash costs, 5 MiB of nuScenes or 14 MiB of SemanticKITTI
_ORIGIN = ("points_uri", "labels_uri", "scene", "split")  # what makes a frame of the index the one in a shard
_NO_POINTS = {"points": b"", "labels": b"", "ring": b""}
_CONTENT = (*_NO_POINTS, "image")
_ARROW_TYPES = {str: pa.string(), int: pa.int64(), float: pa.float64()}
RESULT_SCHEMA = pa.schema([(column.name, _ARROW_TYPES[column.type]) for column in fields(Result)])


def listed_frames(index: str) -> dict[str, dict[str, Any]]:
    """Frame ids of the index, each with the columns that say where it comes from, and its ``values`` beside files."""
    with open_parquet(*storage.resolve(index), writer="index") as file:
        rows = file.read().to_pylist()
    return {
        row["frame_id"]: {name: row[name] for name in _ORIGIN} | {"values": values_of(Keyframe.from_row(row))}
        for row in rows
    }


def decoded_frames(listed: dict[str, dict[str, Any]], out: str) -> Compared:
    """Compares the shards of ``out`` with an index and its files.

    Raises:
        DataError: A shard holds a frame of that id that comes from elsewhere, or is torn.
        StorageError: A file whose times changed cannot be read.
    """
    filesystem, folder = storage.resolve(out)
    entries = [entry for entry in shard_entries(filesystem, folder) if _is_of(entry, listed, out)]
    now = {frame_id: columns["values"] for frame_id, columns in listed.items()}
    return compare(entries, now, folder, lambda older: _differing_of_earlier_release(filesystem, folder, older, now))


def _is_of(entry: dict[str, Any], listed: dict[str, dict[str, Any]], out: str) -> bool:
    """Whether a shard's frame is one of the index; one of that id that comes from elsewhere is an error."""
    now = listed.get(entry["frame_id"])
    if now is None:
        return False
    for name in _ORIGIN:
        if entry[name] != now[name]:
            raise DataError(
                f"{out} holds frame {entry['frame_id']} with {name} {entry[name] or '(none)'}, the index says "
                f"{now[name] or '(none)'}: prepare this index into a new folder"
            )
    return True


def _differing_of_earlier_release(
    filesystem: fs.FileSystem, folder: str, entries: Entries, now: Mapping[str, Mapping[str, str]]
) -> dict[str, list[str]]:
    """Of shards that do not say what they were made of: files modified since, and calibration compared by value."""
    found: dict[str, list[str]] = {}
    stamps = stamps_of(uri for entry in entries.values() for uri in (entry["points_uri"], entry["labels_uri"]) if uri)
    for shard in sorted({entry["shard"] for entry in entries.values()}):
        written_ns = filesystem.get_file_info(f"{folder}/{shard}").mtime_ns
        values = [values_of(frame) for frame in _without_content(filesystem, f"{folder}/{shard}")]
        for place, entry in entries.items():
            if entry["shard"] == shard:
                uris = (entry["points_uri"], entry["labels_uri"])
                before, current = values[entry["row"]], now[entry["frame_id"]]
                is_scan = not holds_images(entry["dataset"])  # a decoded image is a camera, an index row is none
                different = [name for name in before if is_scan and before[name] != current[name]]
                different += [uri for uri in uris if uri in stamps and stamps[uri].times_ns[0] > written_ns]
                found |= {place: different} if different else {}
    return found


def _without_content(filesystem: fs.FileSystem, shard: str) -> list[Keyframe]:
    """The frames of a shard without points, labels and images."""
    with open_parquet(filesystem, shard) as file:
        columns = [name for name in file.schema_arrow.names if name.rpartition(".")[2] not in _CONTENT]
        rows = file.read(columns=columns, use_threads=False).to_pylist()
        images = {name: b"" for name in file.schema_arrow.names if name.endswith(".image")}
    return [Keyframe.from_row({**images, **_NO_POINTS, **row}) for row in rows]


def progress_of(
    listed: dict[str, dict[str, Any]], decoded: Compared, out: str, limit: float, only_failed: bool = False
) -> Progress:
    """Where decoding stands.

    Args:
        listed: See ``listed_frames``.
        decoded: What is there already.
        out: The prepared folder.
        limit: Share of the frames that may fail.
        only_failed: Leaves frames waiting alone that did not fail before.
    """
    earlier = {name: why for name, why in read_failures(out, decoded.finished).items() if name in listed}
    waiting = set(earlier) if only_failed else set(listed) - decoded.finished

    def origin(frame_id: str) -> dict[str, str]:
        return {name: listed[frame_id][name] for name in _ORIGIN[:2]}

    return Progress(out, len(listed), limit, waiting, earlier, origin)


def run_decoding(index: str, out: str, ontology: Ontology | None, progress: Progress) -> None:
    """Decodes the frames that wait; Ray must be connected.

    Raises:
        DataError: Too many frames failed.
    """
    with quiet_data(), progress_bar(len(progress.waiting), "prepare", "frame") as bar:
        for frames_per_shard in (_FRAMES_PER_SHARD, 1):  # a frame that kills its process took others with it
            if progress.waiting and frames_per_shard == 1:  # a shard may be there although its result got lost
                progress.add_finished(entry["frame_id"] for entry in shard_entries(*storage.resolve(out)))
            num_blocks = math.ceil(len(progress.waiting) / frames_per_shard)
            for result in _results(index, out, ontology, progress.waiting, num_blocks):
                progress.add(result)
                bar.update()
                bar.set_postfix(failed=len(progress.failures), refresh=False)
                progress.stop_if_too_many_failed()
    progress.give_up_waiting()


def _results(index: str, out: str, ontology: Ontology | None, waiting: set[str], num_blocks: int) -> Iterator[Result]:
    if not waiting:
        return
    import ray

    rows = _rows(index, waiting)
    ends = [len(rows) * number // num_blocks for number in range(num_blocks + 1)]
    # Blocks of our own: Ray's reader starts up to 32 actors to look at the one file, and shuffles its rows into blocks.
    blocks = [rows.take(pa.array(range(*between), pa.int64())) for between in itertools.pairwise(ends)]
    results = ray.data.from_arrow(blocks).map_batches(
        _prepare_rows,
        fn_kwargs={"out": out, "ontology": ontology},
        batch_format="pyarrow",
        batch_size=None,
        runtime_env=worker_runtime_env(),
        max_retries=NUM_RETRIES,
    )
    for batch in results.iter_batches(batch_size=None, batch_format="pyarrow"):
        for row in batch.to_pylist():
            yield Result(**row)


def _rows(index: str, wanted: set[str]) -> pa.Table:
    """Rows of some frames of the index, in its order."""
    with open_parquet(*storage.resolve(index), writer="index") as file:
        rows = file.read(use_threads=False)
    return rows.filter(pa.array([frame_id in wanted for frame_id in rows.column("frame_id").to_pylist()], pa.bool_()))


def _prepare_rows(rows: pa.Table, out: str, ontology: Ontology | None) -> pa.Table:
    """Decodes index rows and writes the good ones as one shard; one result a row, with an error where it went wrong."""
    started = time.perf_counter()
    frames: list[Keyframe] = []
    origins: list[str] = []
    errors: dict[str, str] = {}
    for row in rows.to_pylist():
        try:
            with recorded() as files:
                listed = Keyframe.from_row(row)
                frames.append(decode(listed, ontology))
            origins.append(Origin(files, values_of(listed)).to_json())
        except Exception as error:  # whatever is wrong with one frame must not cost the others
            errors[row["frame_id"]] = reason(error)
    ids = rows.column("frame_id").to_pylist()
    num_bytes = 0
    if frames:
        try:
            name, data = shard_file(frames, ids, origins)
            storage.write_bytes(storage.join(out, name), data)
            num_bytes = len(data) // len(frames)
        except Exception as error:  # a full disk ends the job
            errors |= {frame.frame_id: not_made(error) for frame in frames}
    nonfinite = {frame.frame_id: num_nonfinite(frame.points) for frame in frames}
    seconds = (time.perf_counter() - started) / len(ids)
    return results_table(Result(i, errors.get(i, ""), nonfinite.get(i, 0), num_bytes, seconds) for i in ids)


def results_table(results: Iterator[Result]) -> pa.Table:
    """What a task or an actor gives back."""
    return pa.Table.from_pylist([asdict(result) for result in results], schema=RESULT_SCHEMA)
