"""Every reader of files that people bring or disks keep, with small whole files to damage.

A reader gives something that can be compared: what it gives for a damaged file is either a refusal in our words or a
value. Where a format says how much there is, or carries a digest, a value other than that of the whole file is wrong.
"""

import io
import json
import random
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image
from pyarrow import fs

from ray_lidarseg import storage
from ray_lidarseg.datasets import manifest, semantickitti
from ray_lidarseg.datasets.catalog import read_catalog, write_catalog
from ray_lidarseg.datasets.decode import decode
from ray_lidarseg.datasets.evidence import TextEmbeddings
from ray_lidarseg.datasets.image_files import read_ids, read_rgb
from ray_lidarseg.datasets.layers import Layer
from ray_lidarseg.datasets.point_files import read_columns
from ray_lidarseg.datasets.prepared_frames import PreparedFrames
from ray_lidarseg.datasets.scans import decode_scan
from ray_lidarseg.datasets.shards import write_shard
from ray_lidarseg.datasets.splits import make_split
from ray_lidarseg.foundation.settings import settings_of, split_overrides
from ray_lidarseg.prepare.stage_report import read_failures
from ray_lidarseg.recipe.load import parse_recipe
from ray_lidarseg.recipe.ontology import parse_ontology
from ray_lidarseg.recipe.schema import Recipe, Split
from ray_lidarseg.report.run_summary import read_run
from ray_lidarseg.report.scenes import predicted_scenes
from ray_lidarseg.report.sweep_section import sweep_panel
from ray_lidarseg.report.tables import facts
from ray_lidarseg.sample import Keyframe
from ray_lidarseg.sweep.study import parse_study, shipped_studies
from ray_lidarseg.sweep.trials import read_trials
from ray_lidarseg.synthetic.options import parse_options, with_options
from ray_lidarseg.synthetic.presets import PRESETS
from ray_lidarseg.training import checkpoints
from tests.fuzz.mutations import BINARY, TEXT, Mutation, cut

LOCAL = fs.LocalFileSystem()
ONTOLOGY = b"""name: own
classes:
  - {name: car, raw_ids: [10, 252], colour: [1, 2, 3], synonyms: [van]}
  - {name: road, raw_ids: [40]}
ignore_raw_ids: [0, 1]
absent_class: skip
sensor: {num_beams: 32, fov_up_deg: 10, fov_down_deg: -30, min_range_m: 1, max_range_m: 80, intensity: [0, 255]}
"""
RECIPE = b"""name: run
seed: 3
data: {prepared: p, dataset: nuscenes, val_frames: [a, b]}
split: {protocol: uniform, ratio: 0.1}
model: {name: minkunet, depth: 18}
method: {name: lasermix, confidence: 0.9, num_areas: [3, 4]}
optim: {lr: 0.001}
train: {steps: 100, labelled_per_step: 2, unlabelled_per_step: 2}
"""


@dataclass(frozen=True)
class Reader:
    """One reader and its whole files.

    Attributes:
        name: Of the table's row.
        files: Names and contents.
        read: From the name and content of a file, and an empty folder to work in, to a value that can be compared.
        mutations: What is done to the files.
        telling: Mutations that the format shows by itself: a value then must be that of the whole file.
    """

    name: str
    files: tuple[tuple[str, bytes], ...]
    read: Callable[[str, bytes, Path], Any]
    mutations: tuple[Mutation, ...] = TEXT
    telling: frozenset[Mutation] = field(default_factory=frozenset)


def _npy(values: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, values)
    return file.getvalue()


def _parquet(columns: dict[str, Any], **options: Any) -> bytes:
    file = io.BytesIO()
    pq.write_table(pa.table(columns), file, **options)
    return file.getvalue()


def _picture(kind: str, mode: str) -> bytes:
    pixels = np.random.default_rng(1).integers(0, 255, (24, 32, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(file, kind)
    return file.getvalue()


def _points(num: int = 60) -> np.ndarray:
    rng = np.random.default_rng(2)
    columns = (rng.normal(0, 20, (num, 2)), rng.normal(-1, 0.5, (num, 1)), rng.uniform(0, 1, (num, 1)))
    return np.concatenate(columns, axis=1).astype(np.float32)


def _pcd(encoding: str) -> bytes:
    points, labels = _points(20), np.arange(20, dtype=np.uint16)
    header = "# .PCD v0.7\nVERSION 0.7\nFIELDS x y z intensity class\nSIZE 4 4 4 4 2\nTYPE F F F F U\nCOUNT 1 1 1 1 1\n"
    header += f"WIDTH 20\nHEIGHT 1\nVIEWPOINT 0 0 0 1 0 0 0\nPOINTS 20\nDATA {encoding}\n"
    rows = b"".join(struct.pack("<ffffH", *row, label) for row, label in zip(points, labels, strict=True))
    if encoding == "ascii":
        lines = (
            f"{' '.join(f'{value:.6g}' for value in row)} {label}" for row, label in zip(points, labels, strict=True)
        )
        return (header + "\n".join(lines) + "\n").encode()
    if encoding == "binary":
        return header.encode() + rows
    blocks = points.T.tobytes() + labels.tobytes()
    return header.encode() + struct.pack("<II", len(blocks), len(blocks)) + blocks


def _record(number: int) -> dict[str, Any]:
    camera = {"image": f"i/{number}.jpg", "intrinsics": [500.0, 0, 16, 0, 500, 12, 0, 0, 1], "width": 32, "height": 24}
    return {
        "frame_id": f"d/{number:04d}",
        "scene": "s",
        "split": "train",
        "timestamp_us": 1_600_000_000_000_000 + number,
        "points": f"scans/{number}.bin",
        "labels": f"labels/{number}.label",
        "cameras": {"front": {**camera, "timestamp_us": 5, "cam_SE3_lidar": np.eye(4).ravel().tolist()}},
    }


def _arrays(columns: dict[str, np.ndarray]) -> list[Any]:
    return [(name, str(values.dtype), values.shape, values.tobytes()) for name, values in columns.items()]


def _frame(number: int, **changes: Any) -> Keyframe:
    fixed = {"points": _points(), "labels": np.zeros(60, np.uint8), "labels_uri": "l"}
    return Keyframe(f"f{number}", "nuscenes", "s", "train", number, f"{number}.bin", **{**fixed, **changes})


def _prepared(folder: Path) -> dict[str, bytes]:
    write_shard(LOCAL, str(folder), [_frame(number) for number in range(3)])
    write_catalog(LOCAL, str(folder))
    return {file.name: file.read_bytes() for file in sorted(folder.iterdir())}


def _laid_out(files: dict[str, bytes], folder: Path) -> str:
    for name, content in files.items():
        storage.write_bytes(str(folder / name), content)
    return str(folder)


def _words() -> bytes:
    embeddings = np.eye(3, 4, dtype=np.float16)
    return TextEmbeddings(embeddings, np.array([0, 0, 1]), ("car", "van", "road")).to_bytes()


def _described_run(folder: str) -> list[Any]:
    view = read_run(folder, "run $x$")
    return [view.models(), view.class_iou(), facts(view), view.protocol, view.family, view.missing]


RUN_FILES = {
    "recipe.yaml": Recipe().to_yaml().encode(),
    "manifest.json": json.dumps(
        {
            "split": {"protocol": "uniform", "ratio": 0.1, "digest": "ab", "num_labelled": 3, "num_unlabelled": 9},
            "versions": {"git_commit": "abc", "torch": "2"},
            "hardware": {"cpu": "x", "cores": 2, "memory_gib": 8.0, "gpus": ["g"]},
            "is_finished": True,
        }
    ).encode(),
    "metrics.jsonl": b'{"kind": "train", "step": 1, "loss_total": 1.0, "scans_per_s": 2.0, "memory_gib": 1.0}\n'
    b'{"kind": "evaluate", "step": 2, "model": "student", "point_miou_ratio": 0.5, "point_iou_ratio": [0.5, null]}\n',
    "evaluation/val.json": json.dumps(
        {
            "step": 2,
            "models": {
                name: {level: {"miou_ratio": 0.5, "iou_ratio": [0.5, None]} for level in ("point", "cell")}
                for name in ("student", "teacher")
            },
        }
    ).encode(),
}


def _damaged_run(name: str, content: bytes, folder: Path) -> Any:
    return _described_run(_laid_out({**RUN_FILES, name: content}, folder))


def _settings(name: str, content: bytes, folder: Path) -> Any:
    text = content.decode("utf-8", "surrogateescape")
    if name == "recipe":
        return parse_recipe("", [text]).model_dump()
    if name == "teacher":
        return settings_of("masks", "slic", split_overrides([text])["masks"]).model_dump()
    return with_options(PRESETS["tiny"], parse_options([text])).options


def _study(name: str, content: bytes, folder: Path) -> Any:
    study = parse_study(content, (), name)
    return study.model_dump(), study.changes(study.drawn(3))


def _study_line(name: str, content: bytes, folder: Path) -> Any:
    return parse_study(STUDY, [content.decode("utf-8", "surrogateescape")]).model_dump()


def _sweep(name: str, content: bytes, folder: Path) -> Any:
    _laid_out({**SWEEP_FILES, name: content}, folder)
    return sweep_panel(str(folder))


def _trial_record(name: str, content: bytes, folder: Path) -> Any:
    _laid_out({f"trials/a/{name}": content}, folder)
    return read_trials(str(folder))


def _catalog(name: str, content: bytes, folder: Path) -> Any:
    files = {**READ_SHARDS, name: content}
    catalog = read_catalog(LOCAL, _laid_out(files, folder))
    frames = PreparedFrames(LOCAL, str(folder), catalog)
    return [
        (frame.frame_id, frame.points.tobytes(), frame.labels.tobytes()) for frame in map(frames.__getitem__, range(3))
    ]


def _listed(name: str, content: bytes, folder: Path) -> Any:
    catalog = read_catalog(LOCAL, _laid_out(READ_SHARDS, folder))
    storage.write_bytes(str(folder / "list.txt"), content)
    return make_split(catalog, Split(protocol="list", file=str(folder / "list.txt"))).labelled


def _predictions(name: str, content: bytes, folder: Path) -> Any:
    scenes, _, problems = predicted_scenes(_laid_out({name: content}, folder))
    return [len(scenes), problems]


def _failures(name: str, content: bytes, folder: Path) -> Any:
    return read_failures(_laid_out({name: content}, folder))


def _kitti(name: str, content: bytes, folder: Path) -> Any:
    files = {
        "calib.txt": CALIBRATION,
        "times.txt": b"0.0\n0.1\n",
        "image_2/000000.png": _picture("PNG", "RGB"),
        name: content,
    }
    _laid_out({**files, "velodyne/000000.bin": b"", "velodyne/000001.bin": b""}, folder / "sequences" / "00")
    frames = list(semantickitti.index(str(folder)))
    return [(frame.timestamp_us, [camera.cam_SE3_lidar.tolist() for camera in frame.cameras]) for frame in frames]


def _scan(name: str, content: bytes, folder: Path) -> Any:
    storage.write_bytes(str(folder / name), content)
    frame = decode_scan(str(folder / name))
    return [frame.dataset, frame.points.tobytes(), frame.ring.tobytes()]


def _own_frame(name: str, content: bytes, folder: Path) -> Any:
    files = {"s.bin": (_points() * np.float32([1, 1, 1, 255])).tobytes(), name: content}
    record = {**_record(0), "points": "s.bin", "labels": name, "cameras": {}}
    _laid_out(files, folder)
    ontology = parse_ontology(ONTOLOGY)
    (frame,) = manifest.index(json.dumps(record).encode(), str(folder / "m.jsonl"), ontology)
    decoded = decode(frame, ontology)
    return [decoded.points.tobytes(), decoded.labels.tobytes()]


def _manifest(name: str, content: bytes, folder: Path) -> Any:
    frames = manifest.index(content, f"/logs/{name}", parse_ontology(ONTOLOGY))
    return pa.Table.from_pylist([frame.to_row() for frame in frames]).to_pylist()


def _unpacked(name: str, content: bytes, folder: Path) -> Any:
    state = checkpoints.unpack(content)
    return [state["step"], state["method"]["w"].tolist()]


def _place(name: str, content: bytes, folder: Path) -> Any:
    text = content.decode("utf-8", "surrogateescape")
    joined = storage.join(text, "b.bin")
    return [storage.absolute(text), storage.name_of(joined), storage.is_local(text)]


def _name(name: str, content: bytes, folder: Path) -> Any:
    path = folder / storage.relative_file(content.decode("utf-8", "surrogateescape"))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x")
    assert path.resolve().is_relative_to(folder.resolve())
    return str(path.relative_to(folder))


def _made_in(make: Callable[[Path], dict[str, bytes]]) -> dict[str, bytes]:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        return make(Path(folder))


READ_SHARDS = _made_in(_prepared)
IDS = np.array([10, 40, 0, 252] * 15, np.uint32)
TRUNCATED = frozenset({cut})
EXAMPLE = {"frame_id": "a", "labels": "a.label", "dataset": "", "points_uri": "a.bin", "columns": 4, "position": -1}
SUMMARY = {
    **{"run": "r", "step": 1, "fingerprint": "ab", "file_format": "label", "split": "val", "num_scans": 1},
    **{"data": Recipe().data.model_dump(mode="json"), "read_as": None, "prepared": "", "num_points": {"car": 3}},
    "examples": [EXAMPLE],
}

CALIBRATION = b"P2: 700 0 600 40 0 700 180 0 0 0 1 0\nTr: 0 -1 0 0 0 0 -1 0 1 0 0 0\n"
RECIPES = (("r.yaml", RECIPE), ("full.yaml", Recipe().to_yaml().encode()))
STUDY = "question: q\nspace: {optim.lr: [0.1, 0.2]}\nsearch: random\ntrials: 3\n"
TRIAL = json.dumps(
    {
        **{"params": {"optim.lr": 0.1}, "seed": 0, "recipe": Recipe().to_yaml(), "state": "stopped", "seconds": 1.5},
        **{"evaluations": [{"step": 2, "point_miou_ratio": 0.5}], "num_workers": 1, "num_gpus": 0, "reason": ""},
    }
).encode()
SWEEP_ROW = {
    **{"trial": "a", "state": "finished", "space.optim.lr": 0.1, "seed": 0, "step": 2, "point_miou_ratio": 0.5},
    **{"seconds": 1.5, "cost": 0.0, "reason": ""},
}
SWEEP_FILES = {
    "trials.parquet": _parquet({key: [value] for key, value in SWEEP_ROW.items()}),
    "study.yaml": b"study: {question: q, metric: point_miou_ratio, mode: max}\nrecipe: {}\n",
}
SETTINGS = (("recipe", b"augment.rotation_deg=[-3, 4]"), ("teacher", b"masks.num_segments=100"), ("world", b"beams=64"))
RECORDS = b"".join(json.dumps(_record(number)).encode() + b"\n" for number in range(3))
TABLE = _parquet({key: [_record(number)[key] for number in range(3)] for key in _record(0)})
CLOUDS = tuple((f"{kind}.pcd", _pcd(kind)) for kind in ("ascii", "binary", "binary_compressed"))
ARRAYS = (("a.npy", _npy(_points())), ("b.npy", _npy(_points().view([(name, "<f4") for name in "xyzi"]))))
COLUMNS: dict[str, Any] = dict(zip("xyzi", _points().T, strict=True))
TABLES = (
    ("a.parquet", _parquet(COLUMNS)),
    ("b.parquet", _parquet({**COLUMNS, "note": ["far"] * 60}, compression="zstd")),
)
FIVE = np.column_stack([_points(), np.arange(60) % 32]).astype("<f4")
LABELS = (("l.label", IDS.tobytes()), ("l.npy", _npy(IDS.astype(np.int32))))
MODES = (("PNG", "RGB"), ("JPEG", "RGB"), ("PNG", "P"), ("PNG", "LA"), ("JPEG", "CMYK"), ("WEBP", "RGB"))
LAYER = Layer("masks", {"teacher": "slic", "n": 3}, ("a",)).to_json()
REASONS = b'{"frame_id": "a", "points_uri": "a.bin", "reason": "torn"}\n' * 3
STATE = checkpoints.pack({"step": 3, "method": {"w": torch.arange(40.0)}})
URIS = (("uri", b"s3://logs/day#1/a b?region=eu"), ("uri", b"/logs/what?/50%20"), ("uri", b"file:///logs/a%20b"))
NAMES = (("id", b"08/000123"), ("id", b"n015-2018__LIDAR_TOP__15"), ("id", b"../..//x/"))


def _read_points(point_format: str) -> Callable[[str, bytes, Path], Any]:
    return lambda name, content, folder: _arrays(read_columns(content, point_format, name))


def _read_words(name: str, content: bytes, folder: Path) -> Any:
    return TextEmbeddings.from_bytes(content).logits(np.ones((1, 4), np.float32)).tolist()


READERS = (
    Reader("recipe", RECIPES, lambda name, content, folder: parse_recipe(content, (), name).model_dump()),
    Reader("--set", SETTINGS, _settings),
    Reader("study", tuple((f"{name}.yaml", file.read_bytes()) for name, file in shipped_studies().items()), _study),
    Reader("--study", (("lines", b"space.optim.lr={uniform: [0.1, 0.2]}"),), _study_line),
    Reader("sweep's table", (("trials.parquet", SWEEP_FILES["trials.parquet"]),), _sweep, BINARY),
    Reader("sweep's study", (("study.yaml", SWEEP_FILES["study.yaml"]),), _sweep),
    Reader("trial.json", (("trial.json", TRIAL),), _trial_record),
    Reader("ontology", (("o.yaml", ONTOLOGY),), lambda name, content, folder: parse_ontology(content).model_dump()),
    Reader("manifest, JSONL", (("m.jsonl", RECORDS),), _manifest),
    Reader("manifest, Parquet", (("m.parquet", TABLE),), _manifest, BINARY, TRUNCATED),
    Reader("PCD", CLOUDS, _read_points("pcd")),
    Reader("npy", ARRAYS, _read_points("npy"), TEXT, TRUNCATED),
    Reader("Parquet", TABLES, _read_points("parquet"), BINARY, TRUNCATED),
    Reader("bin", (("a.bin", _points().tobytes()), ("b.pcd.bin", FIVE.tobytes())), _scan, BINARY),
    Reader("labels", LABELS, _own_frame, BINARY, TRUNCATED),
    Reader(
        "pictures",
        tuple((f"{mode}.{kind}", _picture(kind, mode)) for kind, mode in MODES),
        lambda name, content, folder: read_rgb(content, name).tobytes(),
        BINARY,
    ),
    Reader(
        "index images",
        (("i.png", _picture("PNG", "L")),),
        lambda name, content, folder: read_ids(content, name).tobytes(),
        BINARY,
    ),
    Reader("shards and catalog", tuple(READ_SHARDS.items()), _catalog, BINARY, frozenset(BINARY)),
    Reader("layer.json", (("layer.json", LAYER),), lambda name, content, folder: Layer.from_json(content, name).name),
    Reader("text.npz", (("text.npz", _words()),), _read_words, BINARY),
    Reader("failures.jsonl", (("failures.jsonl", REASONS),), _failures),
    Reader("predictions.json", (("predictions.json", json.dumps(SUMMARY).encode()),), _predictions),
    Reader("split list", (("list.txt", b"f0\nf2\n"),), _listed),
    Reader("checkpoint", (("state.pt", STATE),), _unpacked, BINARY, frozenset(BINARY)),
    Reader("run folder", tuple(RUN_FILES.items()), _damaged_run),
    Reader("KITTI calibration", (("calib.txt", CALIBRATION), ("times.txt", b"0.0\n0.1\n")), _kitti),
    Reader("URIs", URIS, _place),
    Reader("file names", NAMES, _name),
)
"""All of them."""


def case(reader: Reader, seed: int, number: int) -> tuple[str, bytes, bytes, list[Mutation]]:
    """Case ``number`` of a reader: a file's name, its whole and its damaged content, and what was done to it."""
    rng = random.Random(f"{seed}/{reader.name}/{number}")
    name, whole = rng.choice(reader.files)
    mutations = [rng.choice(reader.mutations) for _ in range(rng.choice((1, 1, 1, 2, 3)))]
    damaged = whole
    for mutation in mutations:
        damaged = mutation(damaged, rng)
    return name, whole, damaged, mutations
