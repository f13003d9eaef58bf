import hashlib
import math
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ray_lidarseg.datasets import splits as module
from ray_lidarseg.datasets.catalog import Catalog
from ray_lidarseg.datasets.splits import make_split, split_digest
from ray_lidarseg.errors import SplitError
from ray_lidarseg.recipe.schema import Split


def catalog(
    num_train: int, num_val: int = 3, unlabelled: tuple[int, ...] = (), order: list[int] | None = None
) -> Catalog:
    count = num_train + num_val
    entries = Catalog(
        frame_id=tuple(f"f{i:04d}" for i in range(count)),
        dataset=("nuscenes",) * count,
        scene=tuple(f"scene-{i // 7}" for i in range(count)),
        split=("train",) * num_train + ("val",) * num_val,
        timestamp_us=np.arange(count) * 1000,
        shard=("shard-0.parquet",) * count,
        row=np.arange(count),
        num_points=np.full(count, 5),
        is_labelled=np.array([i not in unlabelled for i in range(count)]),
    )
    return entries if order is None else entries.select([entries.frame_id[i] for i in order])


protocols = st.sampled_from(["uniform", "scene", "slidr-skip"])


@given(
    protocol=protocols, num_train=st.integers(1, 60), ratio=st.floats(0.05, 1.0), seed=st.integers(0, 3), data=st.data()
)
def test_a_split_is_deterministic_disjoint_and_complete(protocol, num_train, ratio, seed, data):
    spec = Split(protocol=protocol, ratio=ratio, seed=seed)
    if math.floor(ratio * num_train + 1e-9) == 0:
        with pytest.raises(SplitError, match=f"of {num_train} training frames with labels selects none"):
            make_split(catalog(num_train), spec)
        return
    split = make_split(catalog(num_train), spec)
    order = data.draw(st.permutations(range(num_train + 3)))
    assert make_split(catalog(num_train, order=list(order)), spec) == split
    train = {f"f{i:04d}" for i in range(num_train)}
    if set(split.labelled) == train:
        assert split.unlabelled == split.labelled
    else:
        assert set(split.labelled) | set(split.unlabelled) == train
        assert not set(split.labelled) & set(split.unlabelled)


@given(num_train=st.integers(1, 200), percent=st.integers(1, 100), seed=st.integers(0, 3))
def test_uniform_counts_are_floors_and_ratios_nest(num_train, percent, seed):
    expected = percent * num_train // 100
    if not expected:
        return
    split = make_split(catalog(num_train), Split(ratio=percent / 100, seed=seed))
    assert len(split.labelled) == expected
    whole = make_split(catalog(num_train), Split(ratio=1.0, seed=seed))
    assert set(split.labelled) <= set(whole.labelled)
    if expected >= 2:
        half = make_split(catalog(num_train), Split(ratio=percent / 200, seed=seed))
        assert set(half.labelled) < set(split.labelled)


def test_published_counts() -> None:
    # LaserMix: floor(p N) of 28,130 nuScenes and 19,130 SemanticKITTI training frames.
    for total, counts in ((28_130, (281, 2_813, 5_626, 14_065)), (19_130, (191, 1_913, 3_826, 9_565))):
        frames = catalog(total)
        for ratio, count in zip((0.01, 0.1, 0.2, 0.5), counts, strict=True):
            split = make_split(frames, Split(ratio=ratio))
            assert (len(split.labelled), len(split.unlabelled)) == (count, total - count)


def test_seeds_draw_different_frames() -> None:
    first, second = (make_split(catalog(60), Split(ratio=0.2, seed=seed)) for seed in (0, 1))
    assert first.labelled != second.labelled
    assert first.digest != second.digest


def test_scene_takes_whole_scenes_until_the_ratio_is_reached() -> None:
    split = make_split(catalog(35), Split(protocol="scene", ratio=0.25))  # 8 of 35 frames: two scenes of 7
    scenes = {int(frame_id[1:]) // 7 for frame_id in split.labelled}
    assert len(split.labelled) == 14
    assert len(scenes) == 2
    assert not scenes & {int(frame_id[1:]) // 7 for frame_id in split.unlabelled}


def test_slidr_skip_takes_every_kth_frame_in_time() -> None:
    split = make_split(catalog(20), Split(protocol="slidr-skip", ratio=0.2))
    assert split.labelled == ("f0000", "f0005", "f0010", "f0015")


def numbered(scenes: int, frames: int) -> Catalog:
    """Training scenes of one length, in an order that is not theirs."""
    count = scenes * frames
    order = np.random.default_rng(0).permutation(count)
    return Catalog(
        frame_id=tuple(f"f{i:05d}" for i in order),
        dataset=("nuscenes",) * count,
        scene=tuple(f"scene-{i // frames:04d}" for i in order),
        split=("train",) * count,
        timestamp_us=order * 1000,
        shard=("shard-0.parquet",) * count,
        row=order,
        num_points=np.full(count, 5),
        is_labelled=np.ones(count, bool),
    )


@pytest.mark.parametrize(("ratio", "scenes"), [(0.01, 7), (0.05, 35), (0.1, 70), (0.25, 175), (1.0, 700)])
def test_slidr_scenes_are_those_of_its_code(ratio: float, scenes: int) -> None:
    split = make_split(numbered(700, 2), Split(protocol="slidr-scenes", ratio=ratio, seed=3))
    step = 700 // scenes
    wanted = [f"f{2 * scene + frame:05d}" for scene in range(0, 700, step) for frame in range(2)]
    assert list(split.labelled) == wanted
    assert split == make_split(numbered(700, 2), Split(protocol="slidr-scenes", ratio=ratio, seed=3))


def test_one_per_cent_of_semantickitti_is_every_hundredth_frame() -> None:
    split = make_split(numbered(10, 1913), Split(protocol="slidr-skip", ratio=0.01))
    assert len(split.labelled) == 192
    assert split.labelled[:2] == ("f00000", "f00100")


def test_the_digest_is_of_the_sorted_ids() -> None:
    expected = hashlib.sha256(b"a\nb\nc").hexdigest()[:16]
    assert split_digest(["c", "a", "b"]) == expected
    frames = catalog(5)
    split = make_split(frames, Split(protocol="list", frames=("f0003", "f0001")))
    assert split.digest == hashlib.sha256(b"f0001\nf0003").hexdigest()[:16]


def test_frames_without_labels_are_only_ever_unlabelled() -> None:
    frames = catalog(10, unlabelled=(0, 2, 4, 6, 8))
    split = make_split(frames, Split(ratio=0.4))
    assert len(split.labelled) == 2
    assert all(int(frame_id[1:]) % 2 for frame_id in split.labelled)
    assert len(split.unlabelled) == 8
    whole = make_split(frames, Split(ratio=1.0))
    assert (len(whole.labelled), len(whole.unlabelled)) == (5, 5)


def test_a_list_from_a_file_with_repeats_and_blank_lines(tmp_path: Path) -> None:
    file = tmp_path / "list.txt"
    file.write_text("f0002\n\nf0004\nf0002\n")
    split = make_split(catalog(8), Split(protocol="list", frames=("f0005",), file=str(file)))
    assert split.labelled == ("f0002", "f0004", "f0005")
    assert split.ratio == pytest.approx(3 / 8)


def test_a_list_from_a_file_with_a_byte_order_mark_and_one_that_is_no_text(tmp_path: Path) -> None:
    file = tmp_path / "split.txt"
    file.write_bytes(b"\xef\xbb\xbff0002\r\nf0001\r\n")
    assert make_split(catalog(8), Split(protocol="list", file=str(file))).labelled == ("f0001", "f0002")
    file.write_bytes(b"f0002\n\xe4")
    with pytest.raises(SplitError, match=r"^split.file \S+/split.txt is not UTF-8 text"):
        make_split(catalog(8), Split(protocol="list", file=str(file)))


def tokens(frames: Catalog) -> Catalog:
    """The same frames, each with a sample token as in nuScenes."""
    return replace(frames, alias=tuple(hashlib.md5(name.encode()).hexdigest() for name in frames.frame_id))


def kitti(num_train: int) -> Catalog:
    ids = tuple(f"{i // 10:02d}/{i % 10:06d}" for i in range(num_train + 3))
    return replace(catalog(num_train), frame_id=ids, dataset=("semantickitti",) * len(ids))


def test_a_public_list_names_samples_and_not_sample_data(tmp_path: Path) -> None:
    frames = tokens(catalog(8))
    file = tmp_path / "nuscenes_list.txt"
    file.write_text("\n".join([frames.alias[2], frames.alias[5], "f0006"]))
    assert make_split(frames, Split(protocol="list", file=str(file))).labelled == ("f0002", "f0005", "f0006")


def test_sample_tokens_against_a_folder_that_kept_none() -> None:
    token = tokens(catalog(4)).alias[1]
    with pytest.raises(SplitError, match=r"1 of 1 listed frames are not among the 4 .*index and prepare again"):
        make_split(catalog(4), Split(protocol="list", frames=(token,)))


@pytest.mark.parametrize(
    "line",
    [
        "01/000002",
        "01/velodyne/000002.bin",
        "SemanticKITTI/dataset/sequences/01/velodyne/000002.bin",
        "train/01/labels/000002.label",
        "01/scribbles/000002.label",
    ],
)
def test_semantickitti_lists_by_id_or_by_path(line: str) -> None:
    assert make_split(kitti(20), Split(protocol="list", frames=(line,))).labelled == ("01/000002",)


def _publish(monkeypatch: pytest.MonkeyPatch, frames: Catalog, names: list[str], digest: str = "") -> None:
    expected = (len(names), digest or split_digest(names))
    monkeypatch.setattr(module, "_PUBLISHED", {(frames.dataset[0], 20): {10: expected}})


@pytest.mark.parametrize("frames", [tokens(catalog(20)), kitti(20)])
def test_a_published_list_is_recognised_by_its_digest(frames: Catalog, tmp_path: Path, monkeypatch) -> None:
    names = [alias or frame_id for alias, frame_id in zip(frames.alias, frames.frame_id, strict=True)]
    _publish(monkeypatch, frames, [names[3], names[7]])
    (tmp_path / "data_10pct.txt").write_text(f"{names[7]}\n{names[3]}\n")
    split = make_split(frames, Split(protocol="list", file=str(tmp_path / "data_10pct.txt")))
    assert split.published == "LaserMix 10 %"
    assert split.labelled == (frames.frame_id[3], frames.frame_id[7])
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # another number of frames is a list of one's own
        assert make_split(frames, Split(protocol="list", frames=(names[3],))).published == ""


def test_a_file_named_like_a_published_list_must_be_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    frames = kitti(20)
    _publish(monkeypatch, frames, ["00/000003", "00/000007"])
    file = tmp_path / "semantickitti_10pct.txt"
    file.write_text("00/000003\n")
    with pytest.raises(
        SplitError, match=r"LaserMix's 10 % list of semantickitti \(2 frames.*but lists 1 frames with dig"
    ):
        make_split(frames, Split(protocol="list", file=str(file)))
    half = frames.select(frames.frame_id[:10])  # a part of the data set: nothing to compare with
    assert make_split(half, Split(protocol="list", file=str(file))).labelled == ("00/000003",)


def test_a_list_as_long_as_a_published_one_but_different_is_warned_of(monkeypatch: pytest.MonkeyPatch) -> None:
    frames = kitti(20)
    _publish(monkeypatch, frames, ["00/000003"], digest="0" * 16)
    with pytest.warns(
        UserWarning, match="holds 1 frames as LaserMix's 10 % list of semantickitti does, but its digest is"
    ):
        make_split(frames, Split(protocol="list", frames=("00/000003",)))


def test_the_published_counts_are_floors_of_whole_data_sets() -> None:
    for (_, total), lists in module._PUBLISHED.items():
        assert {percent: count for percent, (count, _) in lists.items()} == {
            percent: percent * total // 100 for percent in (1, 10, 20, 50)
        }
        assert all(len(digest) == 16 and int(digest, 16) for _, digest in lists.values())


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"ratio": 0.01}, r"split.ratio=0.01 of 10 training frames with labels selects none: the least ratio is 0.1"),
        ({"protocol": "scene", "ratio": 0.0}, "selects none"),
        ({"protocol": "list"}, "needs split.frames, or split.file"),
        ({"protocol": "list", "frames": ("f0001", "x")}, r"1 of 2 listed frames are not among the 11 .*\['x'\]"),
        ({"protocol": "list", "frames": ("f0011",)}, "not among the 11 training frames"),
        ({"protocol": "list", "frames": ("f0000",)}, r"1 of 1 listed frames have no labels, for example \['f0000'\]"),
        ({"protocol": "list", "file": "no/such.txt"}, r"split.file no/such.txt cannot be read"),
    ],
)
def test_splits_that_cannot_be(spec: dict, message: str) -> None:
    with pytest.raises(SplitError, match=message):
        make_split(catalog(11, unlabelled=(0,)), Split(**spec))


def test_no_labels_at_all() -> None:
    with pytest.raises(SplitError, match=r"none of the 2 training frames \(of 5 in all\) has labels"):
        make_split(catalog(2, unlabelled=(0, 1)), Split())
