"""The verb `index`: list a data set's key-frames, one Parquet row each, by path; a few label files are looked into."""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import replace

from ray_lidarseg import storage
from ray_lidarseg.checks.checks import check_scans
from ray_lidarseg.checks.measures import measure
from ray_lidarseg.datasets import ontology_files
from ray_lidarseg.datasets.class_map import chosen_label_files, class_map, counted, described_map, warnings_of
from ray_lidarseg.datasets.entries import dataset_named, entry_named
from ray_lidarseg.datasets.parquet_files import parquet_bytes
from ray_lidarseg.datasets.shards import keyframe_table
from ray_lidarseg.datasets.spec import DatasetSpec, IndexOptions, OpenDataset
from ray_lidarseg.errors import DataError, LidarSegError
from ray_lidarseg.recipe.ontology import Ontology, parse_ontology
from ray_lidarseg.runtime.progress import progress
from ray_lidarseg.sample import Keyframe

_ROWS_PER_GROUP = 1024  # a few MiB at six cameras


def index(
    dataset: str, root: str, out: str, version: str = "v1.0-mini", label_dir: str = "labels", ontology: str = ""
) -> int:
    """Writes one row per LiDAR key-frame, or per image; an existing file is replaced.

    Args:
        dataset: Name of an entry of ``datasets.entries``.
        root: Folder of the data set, on a disk or mount that the workers of `prepare` see under the same path; or the
            manifest, a path or a URI (``datasets.manifest`` describes it).
        out: Parquet file to write; a path or a URI.
        version: nuScenes table folder.
        label_dir: SemanticKITTI label folder: ``labels`` or ``scribbles``.
        ontology: Of a manifest: its ontology file, which the index file keeps; one scan is compared with it.

    Returns:
        Number of key-frames.

    Raises:
        DataError: The folder is missing, holds no key-frames, or is inconsistent.
        StorageError: ``out`` cannot be written.
    """
    read_as = _read_ontology(dataset, ontology)
    spec = dataset_named(dataset, read_as)
    frames = list(_counted(spec.index(root, IndexOptions(version, label_dir))))
    if not frames:
        raise DataError(f"{root} holds no key-frames of {dataset}: check the root and the version")
    _refuse_repeated(frames)
    table = keyframe_table(frames)
    if read_as:
        _compare(frames[0], spec)
        table = ontology_files.attach(table, read_as)
    storage.write_bytes(out, parquet_bytes(table, _ROWS_PER_GROUP))
    print(f"{len(frames)} key-frames in {out}: {_counts(frames)}")
    _print_class_map(frames, spec)
    return len(frames)


def _counted(listed: Iterable[Keyframe]) -> Iterator[Keyframe]:
    with progress(None, "index", "frame", delay_s=2.0) as bar:
        for frame in listed:
            bar.update()
            yield frame


def _read_ontology(dataset: str, ontology: str) -> Ontology | None:
    is_open = isinstance(entry_named(dataset), OpenDataset)
    if is_open != bool(ontology):
        raise DataError(
            f"dataset {dataset} needs --ontology: a YAML file with its classes and its LiDAR"
            if is_open
            else f"--ontology is for own logs: {dataset} brings its own classes and LiDAR"
        )
    return parse_ontology(storage.read_bytes(ontology), origin=ontology) if ontology else None


def _compare(frame: Keyframe, spec: DatasetSpec) -> None:
    """Says what the first scan makes of the ontology: cheaper now than after a night of training."""
    scan = replace(spec.decode(frame), cameras=())
    for finding in check_scans([measure(scan, spec.sensor)], spec.sensor):
        if finding.severity != "ok":
            print(f"warning: {frame.points_uri}: {finding.check}: {finding.measured}. Fix: {finding.fix}")


def _print_class_map(frames: list[Keyframe], spec: DatasetSpec) -> None:
    """Says what the labels of a few frames become: a wrong map is cheaper to find now than in a run's numbers."""
    chosen = chosen_label_files([frame.labels_uri for frame in frames])
    if spec.raw_labels is None or not chosen:
        return
    counts: Counter[int] = Counter()
    for position in chosen:
        try:
            counts += counted(spec.raw_labels(frames[position]))
        except LidarSegError as error:  # `validate` and `prepare` name every frame that cannot be read
            print(f"warning: {error}")
    counts.pop(-1, 0)  # points without a label
    rows = class_map(spec.taxonomy, counts)
    print(described_map(rows, f"class map, {len(chosen)} label files"))
    for warning in warnings_of(rows, spec.taxonomy):
        print(f"warning: in {len(chosen)} label files, {warning}")


def _refuse_repeated(frames: list[Keyframe]) -> None:
    repeated = [frame_id for frame_id, count in Counter(frame.frame_id for frame in frames).items() if count > 1]
    if repeated:
        raise DataError(f"{len(repeated)} frame ids occur more than once, for example {repeated[:3]}")


def _counts(frames: list[Keyframe]) -> str:
    total = Counter(frame.split for frame in frames)
    labelled = Counter(frame.split for frame in frames if frame.labels_uri)
    return ", ".join(f"{split} {total[split]} ({labelled[split]} with labels)" for split in sorted(total))
