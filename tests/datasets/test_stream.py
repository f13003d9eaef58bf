from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import fs

from ray_lidarseg.datasets.catalog import write_catalog
from ray_lidarseg.datasets.entries import dataset_named
from ray_lidarseg.datasets.layers import (
    Layer,
    features_columns,
    layer_folder,
    pairs_columns,
    write_layer_catalog,
    write_layer_shard,
)
from ray_lidarseg.datasets.parcel import packed, unpacked
from ray_lidarseg.datasets.prepared_frames import PreparedFrames
from ray_lidarseg.datasets.shards import write_shard
from ray_lidarseg.datasets.splits import LabelSplit, make_split
from ray_lidarseg.datasets.stream import TrainSteps
from ray_lidarseg.errors import DataError
from ray_lidarseg.recipe.load import override
from ray_lidarseg.recipe.schema import Recipe, Split
from ray_lidarseg.sample import Keyframe, PointBatch
from ray_lidarseg.types import IGNORE, IMAGE_FEATURES, IMAGE_SEGMENT

LOCAL = fs.LocalFileSystem()
BASE = {"workers.num_workers": 1, "train.steps": 50, "train.labelled_per_step": 6, "train.unlabelled_per_step": 6}


def keyframe(number: int) -> Keyframe:
    """All points of frame n have label n; the first is too near to be used."""
    points = np.random.default_rng(number).uniform(5, 20, (number + 3, 4)).astype(np.float32)
    points[0, :3] = 0.1
    labels = np.full(number + 3, number, np.uint8)
    return Keyframe(f"f{number:02d}", "nuscenes", "s", "train", number, "p", "l", points=points, labels=labels)


@pytest.fixture(scope="module")
def frames(tmp_path_factory) -> PreparedFrames:
    folder = str(tmp_path_factory.mktemp("prepared"))
    write_shard(LOCAL, folder, [keyframe(number) for number in range(15)])
    return PreparedFrames(LOCAL, folder, write_catalog(LOCAL, folder))


def steps_of(
    frames: PreparedFrames, changes: dict | None = None, rank: int = 0, world: int = 1, **kwargs
) -> TrainSteps:
    recipe = override(Recipe(), BASE | (changes or {}))
    return TrainSteps(frames, split_of(frames), recipe, dataset_named("nuscenes").sensor, rank, world, **kwargs)


def split_of(frames: PreparedFrames) -> LabelSplit:
    return make_split(frames.catalog, Split(ratio=0.3))


def all_scans(micro_batches: list[tuple[PointBatch, PointBatch]], stream: int) -> list[PointBatch]:
    return [scan for pair in micro_batches for scan in pair[stream].scans()]


def test_a_step_is_labelled_and_unlabelled_scans_of_the_right_frames(frames) -> None:
    steps, split = steps_of(frames), split_of(frames)
    ((labelled, unlabelled),) = steps[3]
    assert (labelled.num_scans, unlabelled.num_scans) == (6, 6)
    seen = {f"f{int(scan.labels[0]):02d}" for scan in labelled.scans()}
    assert seen <= set(split.labelled)
    assert bool((unlabelled.labels == IGNORE).all())
    sizes = {len(scan) for scan in unlabelled.scans()}
    assert sizes <= {int(frame_id[1:]) + 2 for frame_id in split.unlabelled}


def test_the_same_step_is_the_same_tensors_and_steps_differ(frames) -> None:
    once, again = steps_of(frames)[7][0][0], steps_of(frames)[7][0][0]
    assert torch.equal(once.points, again.points)
    assert not torch.equal(once.points, steps_of(frames, {"seed": 1})[7][0][0].points)


@settings(max_examples=15, deadline=None)
@given(world=st.sampled_from([1, 2, 3, 6]), micro_batch=st.integers(0, 4), step=st.integers(0, 49))
def test_all_workers_together_see_the_global_batch_in_pairs(frames, world, micro_batch, step):
    whole = steps_of(frames)[step]
    parts = [steps_of(frames, {"train.micro_batch": micro_batch}, rank, world)[step] for rank in range(world)]
    for stream in (0, 1):
        expected = all_scans(whole, stream)
        for rank, part in enumerate(parts):
            for here, there in zip(all_scans(part, stream), expected[rank::world], strict=True):
                assert torch.equal(here.points, there.points)
                assert torch.equal(here.labels, there.labels)
    sizes = [(labelled.num_scans, unlabelled.num_scans) for part in parts for labelled, unlabelled in part]
    assert all(labelled == unlabelled for labelled, unlabelled in sizes)
    assert not micro_batch or max(max(size) for size in sizes) <= micro_batch


def test_a_repeated_scan_is_augmented_anew_in_every_slot(frames) -> None:
    steps = steps_of(frames, {"train.labelled_per_step": 12, "train.unlabelled_per_step": 12})
    scans = [scan for scan in steps[0][0][0].scans() if scan.labels[0] == steps[0][0][0].labels[0]]
    assert len(scans) >= 3
    assert not torch.equal(scans[0].points, scans[1].points)


@pytest.mark.parametrize(
    "how", [{"changes": {"method": {"name": "supervised"}, "train.unlabelled_per_step": 0}}, {"with_unlabelled": False}]
)
def test_a_stream_that_is_not_read_is_an_empty_batch(frames, how) -> None:
    ((labelled, unlabelled),) = steps_of(frames, **how)[0]
    assert (labelled.num_scans, unlabelled.num_scans, len(unlabelled)) == (6, 0, 0)


def test_streams_of_different_length_are_spread_over_the_micro_batches(frames) -> None:
    changes = {"method": {"name": "mean_teacher"}, "train.labelled_per_step": 2, "train.micro_batch": 3}
    sizes = [(a.num_scans, b.num_scans) for a, b in steps_of(frames, changes)[0]]
    assert sizes == [(1, 3), (1, 3)]


def test_a_data_loader_reads_it(frames) -> None:
    steps = steps_of(frames)
    loader = torch.utils.data.DataLoader(steps, batch_size=None, sampler=range(40, len(steps)), num_workers=1)
    batches = list(loader)
    assert len(batches) == 10
    assert torch.equal(batches[0][0][0].points, steps[40][0][0].points)
    with pytest.raises(IndexError):
        steps[50]


def test_small_integers_from_loader_processes_are_the_batches_of_this_process(frames) -> None:
    steps = steps_of(frames)
    loader = torch.utils.data.DataLoader(
        steps, batch_size=None, sampler=range(44, len(steps)), num_workers=2, collate_fn=packed
    )
    for number, parcel in enumerate(loader, start=44):
        for pair, expected in zip(unpacked(parcel), steps[number], strict=True):
            for one, other in zip(pair, expected, strict=True):
                for name in ("points", "scan_idx", "labels"):
                    assert torch.equal(getattr(one, name), getattr(other, name))
                    assert getattr(one, name).dtype == getattr(other, name).dtype
    assert number == 49


def test_an_unreadable_frame_is_named(frames, tmp_path: Path) -> None:
    folder = str(tmp_path)
    name = write_shard(LOCAL, folder, [keyframe(number) for number in range(15)])
    broken = PreparedFrames(LOCAL, folder, write_catalog(LOCAL, folder))
    Path(folder, name).unlink()
    with pytest.raises(DataError, match=r"frame f\d\d in .* cannot be read: .*is missing"):
        steps_of(broken)[0]


def test_shards_of_another_data_set_are_refused(frames) -> None:
    with pytest.raises(DataError, match=r"data.dataset=semantickitti, but .* holds nuscenes frames"):
        steps_of(frames, {"data.dataset": "semantickitti"})


def with_evidence(folder: str) -> PreparedFrames:
    """Two paired points in frame n, whose features say n; the teachers failed on the last frame."""
    write_shard(LOCAL, folder, [keyframe(number) for number in range(15)])
    frames = PreparedFrames(LOCAL, folder, write_catalog(LOCAL, folder))
    pairs, features = [], []
    for number in range(14):
        segment = np.zeros(number + 3, np.uint16)
        segment[1:3] = 1
        pixels = np.zeros((number + 3, 2), np.int16)
        pairs.append({"frame_id": f"f{number:02d}", **pairs_columns(np.zeros(number + 3, np.int8), pixels, segment)})
        features.append({"frame_id": f"f{number:02d}", **features_columns({"CAM": np.full((1, 2), number + 1)})})
    for layer, rows in (
        (Layer("pairs", {}, ("masks-0",)), pairs),
        (Layer("features", {}, ("masks-0",), feature_dim=2), features),
    ):
        path = Path(layer_folder(folder, layer.name))
        path.mkdir(parents=True)
        (path / "layer.json").write_bytes(layer.to_json())
        write_layer_shard(LOCAL, str(path), ["all"], rows)
        write_layer_catalog(LOCAL, str(path))
    return frames


def test_extras_belong_to_the_points_they_come_with_in_both_streams(tmp_path: Path) -> None:
    """Unusable points are dropped, points are moved by the augmentation, scans are packed: extras stay with theirs."""
    frames = with_evidence(str(tmp_path))
    steps = steps_of(frames, {"data.evidence": "auto"}, extras=frozenset({IMAGE_FEATURES, IMAGE_SEGMENT}))
    seen = 0
    for step in range(4):
        for batch in steps[step][0]:
            assert (set(batch.extras), set(batch.segments)) == ({IMAGE_SEGMENT}, {IMAGE_FEATURES})
            for scan in batch.scans():
                number = len(scan) - 2  # frame n has n + 3 points, one of them too near
                expected = [number + 1] * 2 + [0] * (len(scan) - 2) if number < 14 else [0] * len(scan)
                assert scan.of_segments(IMAGE_FEATURES)[:, 0].tolist() == expected
                assert (scan.extras[IMAGE_SEGMENT] > 0).tolist() == [bool(value) for value in expected]
                seen += 1
    assert seen == 4 * 12


def test_an_empty_stream_has_empty_extras(tmp_path: Path) -> None:
    frames = with_evidence(str(tmp_path))
    extras = frozenset({IMAGE_FEATURES})
    steps = steps_of(frames, {"data.evidence": "auto"}, extras=extras, with_unlabelled=False)
    assert steps[0][0][1].of_segments(IMAGE_FEATURES).shape == (0, 2)
    assert PointBatch.pack(list(steps[0][0])).of_segments(IMAGE_FEATURES).shape[1] == 2


def test_extras_without_a_layer_name_the_command(frames) -> None:
    with pytest.raises(
        DataError, match=r"reads image_features, but data.evidence names no layer: .*prepare INDEX --out"
    ):
        steps_of(frames, extras=frozenset({IMAGE_FEATURES}))
    with pytest.raises(DataError, match=r"has no features layer: write one with `ray-lidarseg prepare"):
        steps_of(frames, {"data.evidence": "auto"}, extras=frozenset({IMAGE_FEATURES}))
    with pytest.raises(DataError, match=r"no extra colour"):
        steps_of(frames, extras=frozenset({"colour"}))
