"""``prepare --estimate``: the real pipeline over a few frames, extrapolated to what is left."""

import io
import uuid
from collections.abc import Collection
from contextlib import ExitStack, redirect_stdout
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ray_lidarseg import storage
from ray_lidarseg.datasets.parquet_files import open_parquet, parquet_bytes
from ray_lidarseg.errors import DataError
from ray_lidarseg.prepare.decoding import decoded_frames, listed_frames
from ray_lidarseg.prepare.pipeline import prepare
from ray_lidarseg.prepare.requested_layers import Teachers, uses_gpu
from ray_lidarseg.prepare.stage_report import Spent
from ray_lidarseg.prepare.stages import entries_of, stages_of
from ray_lidarseg.prepare.status import readable
from ray_lidarseg.runtime.cluster import connect
from ray_lidarseg.runtime.pool import Actors

_SECONDS_PER_HOUR = 3600.0


@dataclass(frozen=True)
class StageEstimate:
    """What one stage will take.

    Attributes:
        name: ``decode``, or the layer's name.
        device: ``CPU`` or ``GPU``: what its workers run on.
        left: Frames to compute.
        seconds_per_frame: Of one warm worker, measured.
        num_bytes: On disk, for the frames left.
    """

    name: str
    device: str
    left: int
    seconds_per_frame: float
    num_bytes: float

    @property
    def worker_hours(self) -> float:
        """Of one worker; n workers need an n-th of it."""
        return self.left * self.seconds_per_frame / _SECONDS_PER_HOUR


def estimate(
    index: str,
    out: str,
    teachers: Teachers,
    actors: Actors,
    sample: int = 4,
    price_per_hour: float = 0.0,
    image_splits: Collection[str] = (),
) -> tuple[StageEstimate, ...]:
    """Measures a few frames, spread over the index, with the real teachers, and prints what the rest will take.

    The frames go through the whole pipeline into a folder beside the shards, deleted afterwards. Loading a model and
    a worker's first frame are left out.

    Args:
        index: What `index` wrote.
        out: The prepared folder; what it holds already is not counted again.
        teachers: As for ``prepare``.
        actors: What each worker gets; one of them measures.
        sample: Frames.
        price_per_hour: Of one worker; 0: cost is not printed.
        image_splits: As for ``prepare``.

    Raises:
        DataError: All of the frames failed, or as for ``prepare``.
        ResourceError: The cluster cannot hold one worker.
        StorageError: ``out`` cannot be written.
    """
    if sample < 1:
        raise DataError(f"--sample {sample}: at least one frame must be measured")
    index, out = storage.absolute(index), storage.absolute(out)
    scratch = storage.join(out, f".estimate-{uuid.uuid4().hex[:8]}")
    one = replace(actors, min_size=1, max_size=1)
    with ExitStack() as stack:
        few = storage.join(scratch, "index.parquet")
        storage.write_bytes(few, _sample(index, sample, image_splits))
        stack.callback(storage.remove_folder, scratch)
        stack.enter_context(connect())
        device = "GPU" if actors.gpus else "CPU"
        with redirect_stdout(io.StringIO()) as said:
            report = prepare(few, storage.join(scratch, "prepared"), 1.0, teachers, one)
    if not report.done or any(not layer.done for layer in report.layers):
        raise DataError(f"none of {sample} frames could be prepared:\n{said.getvalue()}")
    listed = listed_frames(index)
    found = [_of("decode", "CPU", report.spent, listed.keys(), decoded_frames(listed, out).finished)]
    wanted = set(_of_splits(index, image_splits)["frame_id"].to_pylist())
    for stage, layer in zip(stages_of(out, teachers, actors), report.layers, strict=True):
        finished = {entry["frame_id"] for entry in entries_of(layer.layer)}
        where = device if uses_gpu(stage.settings) else "CPU"
        found.append(_of(layer.layer, where, layer.spent, wanted, finished))
    print("\n".join(_table(found, report.done, price_per_hour)), flush=True)
    return tuple(found)


def _of_splits(index: str, splits: Collection[str]) -> pa.Table:
    with open_parquet(*storage.resolve(index), writer="index") as file:
        table: pa.Table = file.read()
    table = table.filter(pc.is_in(table["split"], pa.array(list(splits)))) if splits else table
    if not len(table):
        raise DataError(f"{index} holds no frame" + (f" of --image-splits {' '.join(splits)}" if splits else ""))
    return table


def _sample(index: str, count: int, splits: Collection[str] = ()) -> bytes:
    """An index of a few of the frames, evenly spread."""
    table = _of_splits(index, splits)
    chosen = np.unique(np.linspace(0, len(table) - 1, min(count, len(table))).astype(int))
    return parquet_bytes(table.take(chosen), rows_per_group=count)


def _of(name: str, device: str, spent: Spent, wanted: Collection[str], finished: Collection[str]) -> StageEstimate:
    left = len(set(wanted) - set(finished))
    return StageEstimate(name, device, left, spent.seconds_per_frame, left * spent.bytes_per_frame)


def _table(found: list[StageEstimate], measured: int, price_per_hour: float) -> list[str]:
    lines = [
        f"measured on {measured} frames with one worker:",
        f"  {'stage':<18}{'frames left':>12}{'s a frame':>11}{'worker-hours':>14}  {'on disk':>9}",
    ]
    lines += [
        f"  {stage.name:<18}{stage.left:>12,}{stage.seconds_per_frame:>11.3g}{stage.worker_hours:>10.3g} {stage.device}"
        f"  {readable(stage.num_bytes):>9}"
        for stage in found
    ]
    hours = {device: sum(stage.worker_hours for stage in found if stage.device == device) for device in ("GPU", "CPU")}
    total = " and ".join(f"{hours[device]:.3g} {device}-worker-hours" for device in hours if hours[device])
    lines.append(f"in all {total or 'nothing to do'}, {readable(sum(stage.num_bytes for stage in found))}")
    if price_per_hour:
        cost = price_per_hour * sum(hours.values())
        lines[-1] += f", {cost:,.2f} at {price_per_hour:g} an hour and worker"
    return lines
