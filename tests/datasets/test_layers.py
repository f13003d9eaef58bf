import pickle
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import fs

from ray_lidarseg.datasets import layers
from ray_lidarseg.datasets.catalog import Catalog, write_catalog
from ray_lidarseg.datasets.evidence import Evidence, EvidenceReader, TextEmbeddings, evidence_layers, read_text
from ray_lidarseg.datasets.layers import (
    Layer,
    LayerRows,
    encode_segments,
    features_columns,
    layer_folder,
    masks_columns,
    pairs_columns,
    segments_of,
    write_layer_catalog,
    write_layer_shard,
)
from ray_lidarseg.datasets.shards import list_shards, write_shard
from ray_lidarseg.errors import DataError
from ray_lidarseg.sample import Keyframe
from ray_lidarseg.types import IMAGE_FEATURES, IMAGE_SEGMENT, LANGUAGE_LOGITS

LOCAL = fs.LocalFileSystem()
FRONT = np.array([[1, 0], [0, 1]], np.float16)  # unit features of two segments
BACK = np.array([[0.6, 0.8]], np.float16)
EVIDENCE = Evidence(
    point_camera=np.array([0, 0, 1, -1, 1, 0], np.int8),
    point_segment=np.array([2, 1, 1, 0, 0, 0], np.uint16),
    segment_features=(FRONT, BACK),
    feature_dim=2,
)
TEXT = TextEmbeddings(
    np.array([[1, 0], [0, 1], [-1, 0]], np.float32), np.array([0, 0, 1], np.int64), ("car", "van", "road")
)


def put(folder: str, layer: Layer, rows: list[dict], text: TextEmbeddings | None = None) -> str:
    """Writes a whole layer by hand; returns its name."""
    path = Path(layer_folder(folder, layer.name))
    path.mkdir(parents=True)
    (path / "layer.json").write_bytes(layer.to_json())
    write_layer_shard(LOCAL, str(path), [row["frame_id"] for row in rows], rows)
    write_layer_catalog(LOCAL, str(path))
    if text:
        (path / "text.npz").write_bytes(text.to_bytes())
    return layer.name


def masks_layer(number: int = 0) -> Layer:
    return Layer("masks", {"name": "slic", "num_segments": 150 + number})


def pairs_layer(masks: Layer, occlusion: bool = True) -> Layer:
    return Layer("pairs", {"occlusion": occlusion}, (masks.name,))


def features_layer(masks: Layer, checkpoint: str = "a1") -> Layer:
    return Layer("features", {"name": "clip", "checkpoint": checkpoint}, (masks.name,), feature_dim=2)


@pytest.fixture
def folder(tmp_path: Path) -> str:
    """Two frames of six points; teachers failed on the second."""
    frames = [Keyframe(f"f{n}", "nuscenes", "s", "train", n, "p", points=np.ones((6, 4), np.float32)) for n in (0, 1)]
    write_shard(LOCAL, str(tmp_path), frames)
    write_catalog(LOCAL, str(tmp_path))
    pairs = pairs_columns(EVIDENCE.point_camera, np.full((6, 2), -1, np.int16), EVIDENCE.point_segment)
    put(str(tmp_path), pairs_layer(masks_layer()), [{"frame_id": "f0", **pairs}])
    features = features_columns({"CAM_A": FRONT, "CAM_B": BACK})
    put(str(tmp_path), features_layer(masks_layer()), [{"frame_id": "f0", **features}], TEXT)
    return str(tmp_path)


def reader(folder: str, layer: str = "auto") -> EvidenceReader:
    return EvidenceReader(LOCAL, folder, catalog_of(folder), layer)


def catalog_of(folder: str) -> Catalog:
    return write_catalog(LOCAL, folder)


def test_segments_by_hand() -> None:
    row, segments = EVIDENCE.image_segment(), EVIDENCE.segments(TEXT, (IMAGE_FEATURES, LANGUAGE_LOGITS))
    assert (row > 0).tolist() == [True, True, True, False, False, False]
    assert segments[IMAGE_FEATURES].dtype == np.float16
    expected = [[0, 1], [1, 0], [0.6, 0.8], [0, 0], [0, 0], [0, 0]]
    np.testing.assert_allclose(segments[IMAGE_FEATURES][row], expected, atol=1e-3)
    # car is the better of "car" and "van"; road is "road" alone
    logits = [[1, 0], [1, -1], [0.8, -0.6], [0, 0], [0, 0], [0, 0]]
    np.testing.assert_allclose(segments[LANGUAGE_LOGITS][row], logits, atol=1e-3)


def test_a_segment_whose_feature_is_zero_pairs_nothing() -> None:
    evidence = Evidence(np.zeros(2, np.int8), np.array([1, 2], np.uint16), (np.array([[0, 0], [1, 0]], np.float16),), 2)
    assert evidence.image_segment().tolist() == [0, 2]


@pytest.mark.parametrize(("camera", "segment"), [(0, 3), (1, 2), (2, 1)])
def test_a_pair_without_a_feature_row_is_an_error(camera: int, segment: int) -> None:
    wrong = Evidence(np.array([camera], np.int8), np.array([segment], np.uint16), (FRONT, BACK), 2)
    with pytest.raises(DataError, match="segments that have no feature row: prepare both layers again"):
        wrong.image_segment()


def test_logits_without_words_and_unknown_names_are_errors(folder: str) -> None:
    with pytest.raises(DataError, match=r"language_logits needs .* --features clip"):
        EVIDENCE.segments(None, [LANGUAGE_LOGITS])
    with pytest.raises(DataError, match=r"no extra colour: layers give image_features, language_logits, image_segment"):
        reader(folder).read(0, ["colour"])


@settings(max_examples=25, deadline=None)
@given(counts=st.lists(st.integers(0, 5), max_size=4), seed=st.integers(0, 99))
def test_segments_agree_with_a_loop_over_points(counts: list[int], seed: int) -> None:
    rng = np.random.default_rng(seed)
    features = tuple(rng.normal(size=(count, 3)).astype(np.float16) for count in counts)
    camera = rng.integers(-1, len(counts), 20).astype(np.int8)
    segment = np.array([rng.integers(0, counts[c] + 1) if c >= 0 else 0 for c in camera], np.uint16)
    evidence = Evidence(camera, segment, features, 3)
    number, table = evidence.image_segment(), evidence.segments()[IMAGE_FEATURES]
    for point in range(20):
        is_paired = camera[point] >= 0 and segment[point] > 0
        row = features[camera[point]][segment[point] - 1] if is_paired else np.zeros(3)
        np.testing.assert_array_equal(table[number[point]], row)
        assert bool(number[point]) == is_paired


def test_a_reader_gives_what_a_frame_has_also_after_pickling(folder: str) -> None:
    names = [IMAGE_FEATURES, LANGUAGE_LOGITS]
    extras, segments = pickle.loads(pickle.dumps(reader(folder))).read(0, names)
    expected = EVIDENCE.segments(TEXT, names)
    assert segments.keys() == expected.keys()
    assert all(np.array_equal(segments[name].numpy(), expected[name]) for name in names)
    assert extras[IMAGE_SEGMENT].tolist() == EVIDENCE.image_segment().tolist()
    assert reader(folder).read(0, []) == ({}, {})


def test_a_frame_a_teacher_failed_on_has_no_pairs(folder: str) -> None:
    evidence = reader(folder)
    assert evidence.num_missing == 1
    extras, segments = evidence.read(1, [IMAGE_FEATURES])
    assert extras[IMAGE_SEGMENT].tolist() == [0] * 6
    assert segments[IMAGE_FEATURES].tolist() == [[0, 0]]


def test_no_points_at_all_keep_the_shapes(folder: str) -> None:
    extras, segments = reader(folder).empty([IMAGE_FEATURES, LANGUAGE_LOGITS])
    assert extras[IMAGE_SEGMENT].shape == (0,)
    assert {name: tuple(rows.shape) for name, rows in segments.items()} == {
        IMAGE_FEATURES: (1, 2),
        LANGUAGE_LOGITS: (1, 2),
    }


def test_only_the_columns_needed_are_read(folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    row = layers.OpenShards.row
    monkeypatch.setattr(
        layers.OpenShards,
        "row",
        lambda self, name, at, columns=None: asked.append(columns) or row(self, name, at, columns),
    )
    reader(folder).evidence(0)
    assert sorted(name for names in asked for name in names) == [
        *("CAM_A.num_segments", "CAM_A.segment_features", "CAM_B.num_segments", "CAM_B.segment_features"),
        *("point_camera", "point_segment"),
    ]


def test_a_camera_a_frame_lacks_is_left_out_of_the_order(tmp_path: Path) -> None:
    """Camera positions count the cameras of the frame, not those of the shard; zero segments is not absence."""
    rows = [
        {"frame_id": "a", **features_columns({"CAM_A": FRONT, "CAM_B": BACK})},
        {"frame_id": "b", **features_columns({"CAM_B": BACK, "CAM_C": np.zeros((0, 2), np.float16)})},
    ]
    name = put(str(tmp_path), features_layer(masks_layer()), rows)
    found = LayerRows(LOCAL, str(tmp_path), name)
    assert layers.cameras_of(found.row("a")) == ["CAM_A", "CAM_B"]
    assert layers.cameras_of(found.row("b")) == ["CAM_B", "CAM_C"]


def test_masks_come_back_with_more_than_255_segments(tmp_path: Path) -> None:
    index_map = np.arange(600, dtype=np.uint16).reshape(20, 30)
    rows = [
        {"frame_id": "a", **masks_columns({"CAM_A": (encode_segments(index_map), 599)})},
        {"frame_id": "b", **masks_columns({})},
    ]
    found = LayerRows(LOCAL, str(tmp_path), put(str(tmp_path), masks_layer(), rows))
    np.testing.assert_array_equal(segments_of(found.row("a"), "CAM_A"), index_map)
    assert found.row("a", ["num_segments"]) == {"CAM_A.num_segments": 599}
    assert layers.cameras_of(found.row("b")) == []


def test_the_same_group_replaces_its_file_whatever_failed(tmp_path: Path) -> None:
    for rows in ([{"frame_id": "a"}], [{"frame_id": "a"}, {"frame_id": "b"}]):
        write_layer_shard(LOCAL, str(tmp_path), ["a", "b"], rows)
    assert len(list_shards(LOCAL, str(tmp_path))) == 1
    assert [entry["frame_id"] for entry in layers.layer_entries(LOCAL, str(tmp_path))] == ["a", "b"]


def test_a_name_changes_with_all_that_decides_the_content_and_with_nothing_else() -> None:
    masks = masks_layer()
    names = {masks.name, masks_layer(1).name, Layer("masks", masks.identity, ("x",)).name, features_layer(masks).name}
    assert len(names) == 4
    layer = features_layer(masks)
    assert Layer(layer.kind, layer.identity, layer.reads, feature_dim=512).name == layer.name
    assert Layer.from_json(layer.to_json(), "o") == layer


def test_auto_with_several_layers_names_them(folder: str) -> None:
    other = put(folder, features_layer(masks_layer(), "b2"), [])
    first = features_layer(masks_layer()).name
    with pytest.raises(DataError, match=r"has 2 features layers, say which .*data.evidence=features-\w+ or data"):
        reader(folder)
    assert reader(folder, first).read(0, [IMAGE_SEGMENT])[0][IMAGE_SEGMENT].any()
    assert other in evidence_layers(LOCAL, folder, other)
    second = put(folder, pairs_layer(masks_layer(), occlusion=False), [])
    with pytest.raises(DataError, match=rf"2 pairs layers, .*data.evidence={first}/pairs-"):
        reader(folder, first)
    assert evidence_layers(LOCAL, folder, f"{first}/{second}") == (first, second)


def test_pairs_of_other_masks_do_not_fit(folder: str) -> None:
    put(folder, pairs_layer(masks_layer(1)), [])
    assert evidence_layers(LOCAL, folder, "auto")[1] == pairs_layer(masks_layer()).name


def test_what_is_missing_is_said(folder: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"has no layer 'features-x'; it has: features-\w+, pairs-\w+"):
        reader(folder, "features-x")
    with pytest.raises(DataError, match=r"has no features layer: .*prepare INDEX --out .*--features clip"):
        evidence_layers(LOCAL, str(tmp_path / "none"), "auto")
    Path(layer_folder(folder, features_layer(masks_layer()).name), "catalog.parquet").unlink()
    with pytest.raises(DataError, match=r"catalog.parquet is missing: run `ray-lidarseg prepare` to the end"):
        reader(folder)


def test_pairs_of_another_scan_are_noticed(folder: str) -> None:
    frames = [Keyframe("f0", "nuscenes", "s", "train", 0, "p", points=np.ones((7, 4), np.float32))]
    for file in Path(folder).glob("shard-*"):
        file.unlink()
    write_shard(LOCAL, folder, frames)
    with pytest.raises(DataError, match=r"frame f0 has 7 points, pairs-\w+ pairs 6 of them"):
        reader(folder).evidence(0)


def test_text_without_a_file_is_none_and_comes_back_otherwise(folder: str) -> None:
    back = read_text(LOCAL, folder, features_layer(masks_layer()).name)
    assert back.names == TEXT.names
    assert back.num_classes == 2
    np.testing.assert_array_equal(back.embeddings, TEXT.embeddings)
    assert read_text(LOCAL, folder, pairs_layer(masks_layer()).name) is None


def test_a_layer_file_that_is_none_or_of_another_version() -> None:
    with pytest.raises(DataError, match=r"x is no layer.json .*prepare again"):
        Layer.from_json(b"{}", "x")
    with pytest.raises(DataError, match=r"x has version 0, this release reads 1"):
        Layer.from_json(masks_layer().to_json().replace(b'"schema_version": 1', b'"schema_version": 0'), "x")
