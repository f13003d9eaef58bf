"""Archives for the two benchmarks' servers, and the servers' own rules, run on the archive before it is uploaded.

Rules, from the benchmarks' instructions and validators (semantic-kitti-api, nuscenes-devkit):

- SemanticKITTI: ``sequences/XX/predictions/NNNNNN.label`` for every scan of 11 … 21, uint32, one a point of the scan,
  raw ids through the inverse label map; the zip holds an entry of its own for every folder.
- nuScenes-lidarseg: ``lidarseg/SET/TOKEN_lidarseg.bin`` for every key-frame of the set, uint8, one a point, 1 … 16; and
  ``SET/submission.json`` with five booleans under ``meta``.
"""

import json
import zipfile
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np

from ray_lidarseg.datasets import nuscenes, semantickitti
from ray_lidarseg.datasets.submission import FileFormat, label_path, submission_bytes
from ray_lidarseg.errors import DataError
from ray_lidarseg.sample import Keyframe

_ZIP_EPOCH = (1980, 1, 1, 0, 0, 0)  # the same labels make the same archive
_FOLDER_MODE, _FILE_MODE = 0o40755 << 16, 0o100644 << 16
_META = json.loads(submission_bytes())["meta"].keys()
_NAMED = 5


@dataclass(frozen=True)
class Benchmark:
    """What one server takes.

    Attributes:
        dataset: Name of the data set, and of the taxonomy that models must predict.
        file_format: Of the predictions: ``label`` or ``lidarseg``.
        id_type: Of one label.
        ids: Legal ids.
        official: Official set of a split of an index, and how many scans each scene of it must have (0: any number).
    """

    dataset: str
    file_format: FileFormat
    id_type: str
    ids: tuple[int, ...]
    official: Callable[[str, Sequence[str]], tuple[str, Mapping[str, int]]]


BENCHMARKS = {
    "semantickitti": Benchmark(
        semantickitti.NAME, "label", "<u4", semantickitti.CLASSES.train_to_raw, semantickitti.official_set
    ),
    "nuscenes": Benchmark(nuscenes.NAME, "lidarseg", "u1", nuscenes.CLASSES.train_to_raw, nuscenes.official_set),
}
"""By data set."""


@dataclass(frozen=True)
class Member:
    """One label file of an archive.

    Attributes:
        path: In the archive.
        source: Below the folder of predictions.
        num_points: Of the scan.
    """

    path: str
    source: str
    num_points: int


def benchmark_of(dataset: str, file_format: str) -> Benchmark:
    """The benchmark that predictions are for.

    Raises:
        DataError: The data set has none, or its server wants another format.
    """
    if dataset not in BENCHMARKS:
        raise DataError(f"{dataset} has no benchmark server we know: expected predictions of {', '.join(BENCHMARKS)}")
    found = BENCHMARKS[dataset]
    if file_format != found.file_format:
        raise DataError(
            f"the server of {dataset} takes format {found.file_format}, these are {file_format}: predict into another "
            f"folder with --format {found.file_format}"
        )
    return found


def members_of(
    benchmark: Benchmark, frames: Sequence[Keyframe], num_points: Sequence[int], split: str, partial: bool
) -> tuple[str, list[Member], list[str]]:
    """The official set that the frames of a split are of, its label files, and what the official list finds missing.

    Scenes that are not on the list are left out, unless ``partial``.
    """
    scans = Counter(frame.scene for frame in frames)
    kind, (name, wanted) = benchmark.file_format, benchmark.official(split, list(scans))
    missing = [
        f"{scene} has {scans[scene]} scans, expected {count or 'some'}"
        for scene, count in wanted.items()
        if not scans[scene] or (count and scans[scene] != count)
    ]
    members = [
        Member(label_path(frame.frame_id, kind, name), label_path(frame.frame_id, kind, split), count)
        for frame, count in zip(frames, num_points, strict=True)
        if partial or frame.scene in wanted
    ]
    return name, members, missing


def write_archive(file: BinaryIO, benchmark: Benchmark, name: str, contents: Iterable[tuple[str, bytes]]) -> None:
    """Writes a zip in which every folder has its own entry before its files.

    Args:
        file: Empty, open for reading and writing.
        benchmark: Whose server is to read it.
        name: Of the official set.
        contents: Path and bytes of each label file.
    """
    extra = [(f"{name}/submission.json", submission_bytes())] if benchmark.file_format == "lidarseg" else []
    folders: set[str] = set()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for path, content in (*extra, *contents):
            for depth in range(1, path.count("/") + 1):
                folder = "/".join(path.split("/")[:depth]) + "/"
                if folder not in folders:
                    folders.add(folder)
                    archive.writestr(_entry(folder, _FOLDER_MODE, zipfile.ZIP_STORED), b"")
            archive.writestr(_entry(path, _FILE_MODE, zipfile.ZIP_DEFLATED), content)


def _entry(path: str, mode: int, compression: int) -> zipfile.ZipInfo:
    entry = zipfile.ZipInfo(path, _ZIP_EPOCH)
    entry.external_attr, entry.compress_type = mode, compression
    return entry


def check_archive(file: BinaryIO, benchmark: Benchmark, name: str, members: Sequence[Member]) -> None:
    """Runs the server's rules on an archive.

    Raises:
        DataError: It breaks some; the first few are named.
    """
    try:
        with zipfile.ZipFile(file) as archive:
            problems = [*_misses(archive, benchmark, name, members), *_broken(archive, benchmark, members)]
    except zipfile.BadZipFile as error:
        raise DataError(f"the archive is no zip file: {error}") from error
    if problems:
        more = [f"… {len(problems) - _NAMED} more"] if len(problems) > _NAMED else []
        raise DataError("\n  ".join(["the archive breaks the server's rules:", *problems[:_NAMED], *more]))


def _misses(archive: zipfile.ZipFile, benchmark: Benchmark, name: str, members: Sequence[Member]) -> list[str]:
    there, wanted = set(archive.namelist()), {member.path for member in members}
    problems = [f"{path} is missing" for path in sorted(wanted - there)]
    folders = {"/".join(path.split("/")[:depth]) + "/" for path in wanted for depth in range(1, path.count("/") + 1)}
    problems += [f"folder {folder} has no entry of its own" for folder in sorted(folders - there)]
    meta = f"{name}/submission.json"
    if benchmark.file_format == "lidarseg":
        wanted.add(meta)
        problems += _meta_problems(archive.read(meta) if meta in there else b"{}", meta)
    strays = sorted(path for path in there - wanted if not path.endswith("/"))
    return [*problems, *(f"{path} belongs to no scan of the set" for path in strays)]


def _meta_problems(content: bytes, path: str) -> list[str]:
    try:
        meta = json.loads(content)["meta"]
        is_right = set(meta) == set(_META) and all(isinstance(value, bool) for value in meta.values())
    except (ValueError, TypeError, KeyError):
        is_right = False
    return [] if is_right else [f"{path}: expected true or false for each of {', '.join(_META)} under meta"]


def _broken(archive: zipfile.ZipFile, benchmark: Benchmark, members: Sequence[Member]) -> list[str]:
    there, problems = set(archive.namelist()), []
    width = np.dtype(benchmark.id_type).itemsize
    for member in members:
        if member.path not in there:
            continue
        content = archive.read(member.path)
        if len(content) != width * member.num_points:
            problems.append(
                f"{member.path} has {len(content) / width:g} labels, the scan has {member.num_points} points"
            )
            continue
        ids = np.frombuffer(content, benchmark.id_type)
        wrong = np.setdiff1d(ids & 0xFFFF, benchmark.ids)
        if len(wrong):
            problems.append(f"{member.path} holds ids {wrong.tolist()[:_NAMED]}: expected {list(benchmark.ids)}")
    return problems
