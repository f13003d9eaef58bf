"""Short trainings whose losses are stored: recipe → stream → method → step loop, on one CPU thread, without Ray.

Everything the golden tests import of the package is imported here. The data are drawn from numbers alone (streets of
ground, walls, trees, cars and people; images of the same things), written as prepared shards and layers to a temporary
folder and read back by the training stream, so that shards, split, sampler, augmentation and evidence take part.
"""

import io
import math
import tempfile
from collections.abc import Mapping
from typing import Any, get_args

import numpy as np
import torch
from PIL import Image
from pyarrow import fs

from ray_lidarseg.datasets import image_scans, world_images
from ray_lidarseg.datasets.catalog import write_catalog
from ray_lidarseg.datasets.entries import dataset_of
from ray_lidarseg.datasets.evidence import TextEmbeddings
from ray_lidarseg.datasets.layers import (
    LAYER_FILE,
    TEXT_FILE,
    Layer,
    features_columns,
    layer_folder,
    pairs_columns,
    write_layer_catalog,
    write_layer_shard,
)
from ray_lidarseg.datasets.prepared_frames import PreparedFrames
from ray_lidarseg.datasets.sensor import resolve_sensor
from ray_lidarseg.datasets.shards import write_shard
from ray_lidarseg.datasets.splits import make_split, no_labels
from ray_lidarseg.datasets.stream import TrainSteps
from ray_lidarseg.methods.build import build_method
from ray_lidarseg.recipe.load import override
from ray_lidarseg.recipe.schema import Recipe
from ray_lidarseg.sample import Keyframe
from ray_lidarseg.storage.whole_files import write_whole
from ray_lidarseg.training.loop import Ranks, StepLoop
from tests.golden.compare import Series

Settings = dict[str, Any]
"""Dotted key of the recipe → value."""

NUM_STEPS = 20
_NUM_FRAMES = 8
_FEATURE_DIM = 8
_NUM_CLASSES = 16  # nuScenes
_LOCAL = fs.LocalFileSystem()

_RUN: Settings = {
    "seed": 3,
    "split.ratio": 0.5,
    "optim.name": "sgd",
    "optim.lr": 0.05,
    "train.steps": NUM_STEPS,
    "train.labelled_per_step": 2,
    "train.unlabelled_per_step": 2,
    "train.amp": "off",
    "workers.num_workers": 1,
}
_TEACHER: Settings = {"method.ema_decay": 0.7}
_CONSISTENT: Settings = {**_TEACHER, "method.consistency_weight": 50.0}
_CONFIDENT: Settings = {"method.confidence": 0.5}
_EVIDENCE: Settings = {"data.evidence": "auto", "data.evidence_dim": _FEATURE_DIM}
_METHODS: dict[str, Settings] = {
    "supervised": {"optim.name": "adamw", "optim.lr": 0.008},
    "mean_teacher": _CONSISTENT,
    "lasermix": {**_CONSISTENT, **_CONFIDENT},
    "lasermix_pp": {**_CONSISTENT, **_CONFIDENT, **_EVIDENCE},
    "cbst": _TEACHER,
    "cps": {},
    "cutmix_seg": {**_TEACHER, **_CONFIDENT},
    "polarmix": {**_CONSISTENT, **_CONFIDENT},
    "nerf": {"method.masks": "none", "method.beams": 200, "method.step_m": 0.4, "method.warm_up_ratio": 0.0},
    "distill": _EVIDENCE,
}
"""Thresholds that a network of a few steps reaches for some of the points: else no pseudo-label would count."""

_MODELS: dict[str, Settings] = {
    "fidnet": {"height_px": 32, "width_px": 64, "width_factor": 0.125, "blocks": [1, 1, 1, 1]},
    "minkunet": {"depth": 14, "width_factor": 0.125, "voxel_size_m": 0.5},
    "spvcnn": {"depth": 14, "width_factor": 0.125, "voxel_size_m": 0.5},
    "cylinder3d": {"grid": [48, 36, 16], "width_factor": 0.125},
    "image_unet": {"width_factor": 0.25, "num_levels": 3},
}
_IMAGE_SIZE = (24, 48)
_IMAGES: Settings = {
    "data.dataset": "world-images",
    "data.image_size": list(_IMAGE_SIZE),
    "optim.name": "adamw",
    "optim.lr": 0.008,
}


def _settings(method: str, model: str) -> Settings:
    chosen = {"method.name": method, "model.name": model}
    sizes = {f"model.{key}": value for key, value in _MODELS[model].items()}
    return {**chosen, **_RUN, **_METHODS[method], **sizes, **(_IMAGES if model == "image_unet" else {})}


ALL: dict[str, Settings] = {
    f"{method}-{model}": _settings(method, model)
    for method, models in {
        **dict.fromkeys(_METHODS, ("fidnet", "minkunet")),
        "lasermix": ("fidnet", "minkunet", "spvcnn", "cylinder3d", "image_unet"),
        "nerf": ("minkunet", "cylinder3d"),
    }.items()
    for model in models
}
"""Every series by its name: each method on a range view and on sparse voxels, each other model once."""


def method_names() -> set[str]:
    """The methods a recipe may name."""
    variants = get_args(Recipe.model_fields["method"].annotation)
    return {variant.model_fields["name"].default for variant in variants}


def run(settings: Mapping[str, Any], threads: int = 1, nudge: int = 0) -> Series:
    """What each step of a recipe says, as float32 on the CPU.

    Args:
        settings: What differs from the default recipe.
        threads: Of torch, which has as many as before afterwards.
        nudge: Seed of a move of every initial weight by at most its last digit; 0: none.
    """
    recipe, before = override(Recipe(), settings), torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with tempfile.TemporaryDirectory() as folder:
            frames = _image_frames(folder) if recipe.model.name == "image_unet" else _scan_frames(folder)
            return _train(recipe, frames, nudge)
    finally:
        torch.set_num_threads(before)


def _train(recipe: Recipe, frames: PreparedFrames, nudge: int) -> Series:
    """As a worker of the train verb does it."""
    sensor = resolve_sensor(recipe.data)
    torch.manual_seed(recipe.seed)
    method = build_method(recipe, sensor, dataset_of(recipe.data).taxonomy.num_classes)
    if nudge:
        _nudge(method, nudge)
    loop = StepLoop(method, recipe, torch.device("cpu"), Ranks())
    reads = {"with_unlabelled": method.uses_unlabelled, "extras": method.extras, "rays": method.rays}
    reads["with_labelled"] = recipe.method.reads_labels
    split = make_split(frames.catalog, recipe.split) if recipe.method.reads_labels else no_labels(frames.catalog)
    stream = TrainSteps(frames, split, recipe, sensor, **reads)
    said = [loop.one_step(stream[step]) for step in range(NUM_STEPS)]
    return {name: [_digits(values[name]) for values in said] for name in said[0]}


def _nudge(module: torch.nn.Module, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.mul_(1 + 1.2e-7 * (2 * torch.rand(parameter.shape, generator=generator) - 1))


def _digits(value: torch.Tensor) -> float:
    """The shortest decimal number that is this float32 and no other."""
    return float(str(np.float32(value.item())))


def _scan_frames(folder: str) -> PreparedFrames:
    write_shard(_LOCAL, folder, [_scan(number) for number in range(_NUM_FRAMES)])
    frames = PreparedFrames(_LOCAL, folder, write_catalog(_LOCAL, folder))
    _write_evidence(folder, frames)
    return frames


CAR, PERSON, ROAD, PAVEMENT, WALL, TREE = 3, 6, 10, 12, 14, 15
"""Class ids of nuScenes."""


def _scan(number: int) -> Keyframe:
    """32 rings of 40 points: road and pavement below, walls and trees around, cars and people in between."""
    rng = np.random.default_rng(number)
    inclination, azimuth = np.meshgrid(np.radians(np.linspace(-30, 10, 32)), np.linspace(-np.pi, np.pi, 40, False))
    inclination, azimuth = inclination.ravel(), azimuth.ravel() + rng.uniform(0, 0.05, inclination.size)
    ground_m = np.where(inclination < 0, 1.8 / np.maximum(-np.sin(inclination), 1e-3), np.inf)
    side_m = 12.0 / np.maximum(np.abs(np.sin(azimuth + 0.1 * number)), 0.2)  # fronts on both sides of a street
    sector = (np.floor((azimuth + math.pi) / (2 * math.pi) * 10) + number).astype(int) % 10
    thing_m = np.select([sector == 2, sector == 6], [8.0 + number % 3, 6.0], np.inf)
    thing_m[np.sin(inclination) * 7.0 > 0.3] = np.inf  # they are low
    range_m = np.minimum(np.minimum(ground_m, side_m), thing_m)
    is_ground, is_thing = ground_m <= range_m, thing_m <= range_m
    flat = np.where(range_m * np.abs(np.sin(azimuth)) < 5.0, ROAD, PAVEMENT)
    labels = np.select([is_thing & (sector == 2), is_thing, is_ground], [CAR, PERSON, flat], WALL)
    labels[(labels == WALL) & (sector % 3 == 0)] = TREE
    range_m = range_m + rng.uniform(-0.02, 0.02, range_m.size)
    range_m[rng.random(range_m.size) < 0.03] = 0.5  # no return
    labels[rng.random(labels.size) < 0.03] = 255
    x, y = range_m * np.cos(inclination) * np.cos(azimuth), range_m * np.cos(inclination) * np.sin(azimuth)
    strength = labels / 32.0 % 1.0 + rng.uniform(0, 0.1, range_m.size)
    points = np.stack([x, y, range_m * np.sin(inclination), np.clip(strength, 0, 1)], axis=1).astype(np.float32)
    return Keyframe(
        f"frame-{number}", "nuscenes", f"scene-{number // 2}", "train", number, "points", "labels",
        points=points, labels=labels.astype(np.uint8),
    )  # fmt: skip


def _write_evidence(folder: str, frames: PreparedFrames) -> None:
    """Two cameras that see the front half; a segment is a class in a tenth of a turn, its feature noisy words of it."""
    words = np.random.default_rng(100).standard_normal((_NUM_CLASSES, _FEATURE_DIM))
    words /= np.linalg.norm(words, axis=1, keepdims=True)
    rows = [_evidence_rows(frames[index], words) for index in range(len(frames))]
    for layer, kind in ((Layer("pairs", {}, ("masks-0",)), 0), (Layer("features", {}, ("masks-0",), _FEATURE_DIM), 1)):
        place = layer_folder(folder, layer.name)
        write_whole(_LOCAL, f"{place}/{LAYER_FILE}", layer.to_json())
        if layer.kind == "features":
            names = tuple(f"class {number}" for number in range(_NUM_CLASSES))
            text = TextEmbeddings(words.astype(np.float32), np.arange(_NUM_CLASSES), names)
            write_whole(_LOCAL, f"{place}/{TEXT_FILE}", text.to_bytes())
        write_layer_shard(_LOCAL, place, list(frames.catalog.frame_id), [both[kind] for both in rows])
        write_layer_catalog(_LOCAL, place)


def _evidence_rows(frame: Keyframe, words: np.ndarray) -> tuple[dict[str, Any], dict[str, Any]]:
    rng = np.random.default_rng(200 + frame.timestamp_us)
    tenth = np.floor((np.arctan2(frame.points[:, 1], frame.points[:, 0]) + math.pi) / (2 * math.pi) * 10).astype(int)
    is_seen = (frame.points[:, 0] > 0) & (frame.labels != 255)
    camera = np.where(is_seen, (frame.points[:, 1] > 0).astype(np.int8), -1).astype(np.int8)
    segment, features = np.zeros(len(frame.points), np.uint16), {}
    for position, name in enumerate(("CAM_LEFT", "CAM_RIGHT")):
        mine = camera == position
        found, idx = np.unique(100 * tenth[mine] + frame.labels[mine], return_inverse=True)
        segment[mine] = idx + 1
        noisy = words[found % 100] + 0.3 * rng.standard_normal((len(found), _FEATURE_DIM))
        features[name] = (noisy / np.linalg.norm(noisy, axis=1, keepdims=True)).astype(np.float32)
    pixels = np.zeros((len(segment), 2), np.int16)
    name = {"frame_id": frame.frame_id}
    return {**name, **pairs_columns(camera, pixels, segment)}, {**name, **features_columns(features)}


def _image_frames(folder: str) -> PreparedFrames:
    write_shard(_LOCAL, folder, [_image(number) for number in range(_NUM_FRAMES)])
    return PreparedFrames(_LOCAL, folder, write_catalog(_LOCAL, folder))


def _image(number: int) -> Keyframe:
    """Sky above a wall above road, with a car; stored at the size it is trained at, so that nothing is resized."""
    rng = np.random.default_rng(300 + number)
    raw = np.zeros(_IMAGE_SIZE, np.uint8)  # ids of nuScenes-lidarseg: 0 the sky, 28 a wall, 24 road, 17 a car
    raw[8 + number % 3 :], raw[14 + number % 4 :] = 28, 24
    raw[12:18, 4 + 5 * number % 32 :][:, :10] = 17
    palette = np.zeros((32, 3))
    palette[[0, 28, 24, 17]] = (120, 160, 240), (150, 120, 90), (90, 90, 90), (200, 30, 30)
    pixels = np.clip(palette[raw] + rng.uniform(-20, 20, (*_IMAGE_SIZE, 3)), 0, 255).astype(np.uint8)
    uris = ("image.png", "labels.png")
    row = image_scans.keyframe(f"frame-{number}", "world-images", f"scene-{number // 2}", "train", number, uris)
    return image_scans.decode_bytes(row, _png(pixels), _png(raw), world_images.CLASSES)


def _png(pixels: np.ndarray) -> bytes:
    sink = io.BytesIO()
    Image.fromarray(pixels).save(sink, "PNG")
    return sink.getvalue()
