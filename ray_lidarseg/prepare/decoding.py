"""The first stage: index rows → those no finished shard holds → blocks of a few → one shard a block.

Only index rows and one result line a frame travel through Ray; points go from file to shard inside a task. What is bad
about a frame is a result, not an exception, so it costs that frame and nothing else.
"""

import itertools
import math
import time
from collections.abc import Iterator
from dataclasses import asdict, fields

import pyarrow as pa

from ray_lidarseg import storage
from ray_lidarseg.datasets.decode import decode
from ray_lidarseg.datasets.points import num_nonfinite
from ray_lidarseg.datasets.shards import open_parquet, shard_entries, shard_file
from ray_lidarseg.errors import DataError
from ray_lidarseg.prepare.stage_report import NUM_RETRIES, Progress, Result, read_failures, reason
from ray_lidarseg.recipe.ontology import Ontology
from ray_lidarseg.runtime.cluster import worker_runtime_env
from ray_lidarseg.runtime.pool import quiet_data
from ray_lidarseg.runtime.progress import progress as progress_bar
from ray_lidarseg.sample import Keyframe

_FRAMES_PER_SHARD = 8  # ours: what a crash costs, 5 MiB of nuScenes or 14 MiB of SemanticKITTI
_ORIGIN = ("points_uri", "labels_uri", "scene", "split")  # what makes a frame of the index the one in a shard
_ARROW_TYPES = {str: pa.string(), int: pa.int64(), float: pa.float64()}
RESULT_SCHEMA = pa.schema([(column.name, _ARROW_TYPES[column.type]) for column in fields(Result)])


def listed_frames(index: str) -> dict[str, dict[str, str]]:
    """Frame ids of the index, each with the columns that say where it comes from."""
    with open_parquet(*storage.resolve(index), writer="index") as file:
        rows = file.read(columns=["frame_id", *_ORIGIN]).to_pylist()
    return {row["frame_id"]: row for row in rows}


def finished_frames(listed: dict[str, dict[str, str]], out: str) -> set[str]:
    """Frames of the index that the shards of ``out`` hold.

    Raises:
        DataError: A shard holds a frame of that id that comes from elsewhere, or is torn.
    """
    finished = set()
    for entry in shard_entries(*storage.resolve(out)):
        now = listed.get(entry["frame_id"], entry)
        for name in _ORIGIN:
            if entry[name] != now[name]:
                raise DataError(
                    f"{out} holds frame {entry['frame_id']} with {name} {entry[name] or '(none)'}, the index says "
                    f"{now[name] or '(none)'}: prepare this index into a new folder"
                )
        finished.add(entry["frame_id"])
    return finished & listed.keys()


def progress_of(
    listed: dict[str, dict[str, str]], out: str, limit: float, only_failed: bool = False
) -> tuple[Progress, int]:
    """Where decoding stands, and how many of the frames are finished.

    Args:
        listed: See ``listed_frames``.
        out: The prepared folder.
        limit: Share of the frames that may fail.
        only_failed: Leaves frames waiting alone that did not fail before.
    """
    finished = finished_frames(listed, out)
    earlier = {name: why for name, why in read_failures(out, finished).items() if name in listed}
    waiting = set(earlier) if only_failed else set(listed) - finished

    def origin(frame_id: str) -> dict[str, str]:
        return {name: listed[frame_id][name] for name in _ORIGIN[:2]}

    return Progress(out, len(listed), limit, waiting, earlier, origin), len(finished)


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
    errors: dict[str, str] = {}
    for row in rows.to_pylist():
        try:
            frames.append(decode(Keyframe.from_row(row), ontology))
        except Exception as error:  # whatever is wrong with one frame must not cost the others
            errors[row["frame_id"]] = reason(error)
    ids = rows.column("frame_id").to_pylist()
    num_bytes = 0
    if frames:
        try:
            name, data = shard_file(frames, ids)
            storage.write_bytes(storage.join(out, name), data)
            num_bytes = len(data) // len(frames)
        except Exception as error:  # a full disk: recorded for each frame, and soon more than may fail
            errors |= {frame.frame_id: f"cannot write its shard: {reason(error)}" for frame in frames}
    nonfinite = {frame.frame_id: num_nonfinite(frame.points) for frame in frames}
    seconds = (time.perf_counter() - started) / len(ids)
    return results_table(Result(i, errors.get(i, ""), nonfinite.get(i, 0), num_bytes, seconds) for i in ids)


def results_table(results: Iterator[Result]) -> pa.Table:
    """What a task or an actor gives back."""
    return pa.Table.from_pylist([asdict(result) for result in results], schema=RESULT_SCHEMA)
