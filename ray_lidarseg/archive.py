"""The verb `archive`: predictions of an official split as the archive that the benchmark's server takes, checked."""

from collections.abc import Iterator
from typing import Any, BinaryIO

from ray_lidarseg import storage
from ray_lidarseg.datasets.entries import dataset_named
from ray_lidarseg.datasets.parquet_files import open_parquet
from ray_lidarseg.datasets.submission_archive import Member, benchmark_of, check_archive, members_of, write_archive
from ray_lidarseg.errors import DataError
from ray_lidarseg.recipe.text_files import read_json, require
from ray_lidarseg.runtime.progress import progress
from ray_lidarseg.sample import Keyframe

_NAMED = 5
_FLOAT_BYTES = 4
_SUMMARY = {"file_format": str, "split": str, "dataset": str, "*": object}
_LISTED = ("frame_id", "dataset", "scene", "split", "points_uri")


def archive(predictions: str, index: str, out: str, partial: bool = False) -> int:
    """Writes the archive; nothing is there afterwards where it breaks a rule (``datasets.submission_archive``).

    Args:
        predictions: Folder that `predict` wrote with format ``label`` (SemanticKITTI) or ``lidarseg`` (nuScenes).
        index: What `index` wrote of the data set: says which scans the split has, and where they lie.
        out: Zip file; a path or a URI.
        partial: Also where the index lacks scenes or scans of the official list, as own worlds do.

    Returns:
        Number of label files in the archive.

    Raises:
        DataError: No benchmark takes these predictions, scans are missing, or a rule is broken; the first are named.
        StorageError: ``out`` cannot be written.
    """
    folder = storage.absolute(predictions)
    summary = _summary(folder)
    benchmark, split = benchmark_of(summary["dataset"], summary["file_format"]), summary["split"]
    frames = _frames(index, benchmark.dataset, split)
    num_points = [_num_points(frame) for frame in frames]
    name, members, missing = members_of(benchmark, frames, num_points, split, partial)
    if missing and not partial:
        raise DataError(
            f"{index} is not all of {benchmark.dataset}'s {name}: {'; '.join(missing[:_NAMED])}"
            f"{' …' if len(missing) > _NAMED else ''}; its server would refuse the archive (--partial writes it anyhow)"
        )
    storage.check_file_writable(out)

    def fill(file: BinaryIO) -> None:
        write_archive(file, benchmark, name, _contents(folder, members))
        file.seek(0)
        check_archive(file, benchmark, name, members)

    storage.write_file(storage.absolute(out), fill)
    size_mib = storage.info_of(storage.absolute(out)).size / 2**20
    print(
        f"{out}: {len(members)} scans of {benchmark.dataset} {name}, {sum(each.num_points for each in members):,} "
        f"points, {size_mib:.1f} MiB; it keeps every rule of the server"
        + (f", but {len(missing)} of its scenes are not complete" if missing else "")
    )
    return len(members)


def _summary(folder: str) -> dict[str, Any]:
    file = storage.join(folder, "predictions.json")
    if not storage.exists(file):
        raise DataError(f"{folder} has no predictions.json: expected a folder that `ray-lidarseg predict` wrote")
    summary = read_json(storage.read_bytes(file), file, DataError)
    require(summary, _SUMMARY, file, DataError)
    return summary


def _frames(index: str, dataset: str, split: str) -> list[Keyframe]:
    with open_parquet(*storage.resolve(storage.absolute(index)), writer="index") as file:
        rows = file.read(columns=list(_LISTED)).to_pylist()
    others = sorted({row["dataset"] for row in rows} - {dataset})
    if others:
        raise DataError(
            f"{index} lists frames of {', '.join(others)}, the predictions are of {dataset}: give its index"
        )
    frames = [
        Keyframe(row["frame_id"], row["dataset"], row["scene"], row["split"], 0, row["points_uri"])
        for row in rows
        if row["split"] == split
    ]
    if not frames:
        raise DataError(f"{index} lists no frame of split {split!r}: index the root that holds it")
    return frames


def _num_points(frame: Keyframe) -> int:
    files = dataset_named(frame.dataset).files
    assert files is not None  # both benchmarks' scans are plain columns
    return max(0, storage.info_of(frame.points_uri).size or 0) // (_FLOAT_BYTES * len(files.columns))


def _contents(folder: str, members: list[Member]) -> Iterator[tuple[str, bytes]]:
    absent = [member.source for member in members if not storage.exists(storage.join(folder, member.source))]
    if absent:
        raise DataError(
            f"{len(absent)} of {len(members)} scans have no labels, for example {', '.join(absent[:_NAMED])}: give "
            "the predict command again"
        )
    with progress(len(members), "archive", "scan", delay_s=2.0) as bar:
        for member in members:
            yield member.path, storage.read_bytes(storage.join(folder, member.source))
            bar.update()
