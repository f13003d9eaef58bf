import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from ray_lidarseg import storage
from ray_lidarseg.datasets import manifest, manifest_records
from ray_lidarseg.datasets.decode import decode as decode_frame
from ray_lidarseg.datasets.manifest_records import CHAIN
from ray_lidarseg.errors import DataError, StorageError
from ray_lidarseg.recipe.ontology import Ontology, parse_ontology
from ray_lidarseg.sample import Keyframe
from ray_lidarseg.types import IGNORE

POSE = np.eye(4).reshape(-1).tolist()
SHIFTED = np.array([[1, 0, 0, 5], [0, 1, 0, 6], [0, 0, 1, 7], [0, 0, 0, 1]], np.float64)
CAMERA: dict[str, Any] = {
    "image": "images/0.jpg",
    "intrinsics": [100.0, 0, 50, 0, 100, 40, 0, 0, 1],
    "width": 100,
    "height": 80,
    "timestamp_us": 1,
    "cam_SE3_lidar": POSE,
}
RECORD: dict[str, Any] = {
    "frame_id": "a",
    "scene": "drive",
    "split": "train",
    "timestamp_us": 5,
    "points": "scans/0.bin",
    "labels": "labels/0.label",
    "cameras": {"front": CAMERA},
}
POINTS = np.array([[1, 2, 3, 0], [4, 5, 6, 50], [7, 8, 9, 200]], np.float32)


def ontology(**sensor: Any) -> Ontology:
    lidar = {"num_beams": 16, "fov_up_deg": 15, "fov_down_deg": -15, "min_range_m": 1, "max_range_m": 100}
    classes = [{"name": "car", "raw_ids": [10]}, {"name": "road", "raw_ids": [40, 41]}]
    content = {"name": "own", "classes": classes, "ignore_raw_ids": [0]}
    return parse_ontology(yaml.safe_dump({**content, "sensor": {**lidar, "intensity": [0, 100], **sensor}}))


def index(*records: dict[str, Any], uri: str = "/logs/manifest.jsonl", **sensor: Any) -> list[Keyframe]:
    return manifest.index("\n".join(json.dumps(record) for record in records).encode(), uri, ontology(**sensor))


def without(*names: str, **changes: Any) -> dict[str, Any]:
    return {name: value for name, value in {**RECORD, **changes}.items() if name not in names}


def camera(**changes: Any) -> dict[str, Any]:
    values = {**CAMERA, **changes}
    return {**RECORD, "cameras": {"front": {name: value for name, value in values.items() if value is not None}}}


def parquet(records: list[dict[str, Any]]) -> bytes:
    file = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(records), file)
    return file.getvalue()


def test_a_record_becomes_a_key_frame() -> None:
    (frame,) = index(RECORD)
    assert (frame.frame_id, frame.dataset, frame.scene, frame.split, frame.timestamp_us) == (
        "a",
        "manifest",
        "drive",
        "train",
        5,
    )
    assert frame.points_uri == "/logs/scans/0.bin"
    assert frame.labels_uri == "/logs/labels/0.label"
    (front,) = frame.cameras
    assert (front.name, front.uri, front.width_px, front.height_px) == ("front", "/logs/images/0.jpg", 100, 80)
    assert front.intrinsics[0].tolist() == [100.0, 0.0, 50.0]


@pytest.mark.parametrize(
    ("path", "uri", "expected"),
    [
        ("a.bin", "s3://bucket/logs/m.jsonl", "s3://bucket/logs/a.bin"),
        ("s3://other/a.bin", "/logs/m.jsonl", "s3://other/a.bin"),
        ("/disk/a.bin", "s3://bucket/m.jsonl", "/disk/a.bin"),
        ("a.bin", "m.jsonl", "a.bin"),
    ],
)
def test_paths_are_relative_to_the_manifest(path: str, uri: str, expected: str) -> None:
    assert index({**RECORD, "points": path}, uri=uri)[0].points_uri == expected


def test_parquet_and_jsonl_say_the_same() -> None:
    other = without("labels", frame_id="b", cameras={"rear": CAMERA})
    records = [RECORD, other]
    from_parquet = manifest.index(parquet(records), "/logs/manifest.parquet", ontology())
    assert [frame.to_row() for frame in from_parquet] == [frame.to_row() for frame in index(*records)]
    assert [[view.name for view in frame.cameras] for frame in from_parquet] == [["front"], ["rear"]]


def test_parquet_cameras_may_be_a_map() -> None:
    struct = pa.Table.from_pylist([CAMERA]).to_struct_array().combine_chunks().type
    table = pa.Table.from_pylist([{**RECORD, "cameras": [("front", CAMERA)]}], schema=_schema(struct))
    file = io.BytesIO()
    pq.write_table(table, file)
    (frame,) = manifest.index(file.getvalue(), "/logs/m.parquet", ontology())
    assert frame.to_row() == index(RECORD)[0].to_row()


def _schema(struct: pa.DataType) -> pa.Schema:
    kinds = dict.fromkeys(("frame_id", "scene", "split", "points", "labels"), pa.string())
    return pa.schema({**kinds, "timestamp_us": pa.int64(), "cameras": pa.map_(pa.string(), struct)})


def test_the_chain_of_four_poses_is_composed() -> None:
    # LiDAR 5, 6, 7 from the first ego, which is where the second ego is shifted to: nothing is left of either.
    poses = {
        "ego_SE3_lidar": POSE,
        "global_SE3_lidar_ego": SHIFTED.tolist(),
        "global_SE3_camera_ego": POSE,
        "ego_SE3_cam": SHIFTED.reshape(-1).tolist(),
    }
    (frame,) = index(camera(cam_SE3_lidar=None, **poses))
    np.testing.assert_allclose(frame.cameras[0].cam_SE3_lidar, np.eye(4))
    (frame,) = index(camera(cam_SE3_lidar=None, **{**poses, "ego_SE3_cam": POSE}))
    np.testing.assert_allclose(frame.cameras[0].cam_SE3_lidar, SHIFTED)


@pytest.mark.parametrize(
    ("record", "message"),
    [
        (without("timestamp_us"), "line 1: frame 'a': timestamp_us is missing"),
        (
            without("timestamp_us", timestmp_us=5),
            "timestamp_us is missing; unknown column 'timestmp_us'; did you mean 'timestamp_us'",
        ),
        (without("labels", label="x"), "unknown column 'label'; did you mean 'labels'"),
        (without(timestamp_us="5"), r"timestamp_us: expected a whole number \(got '5'\)"),
        (without(timestamp_us=1.5), "timestamp_us: expected a whole number"),
        (without(scene=None), "scene: expected text .got null."),
        (without(frame_id=""), "frame_id: expected at least 1 character"),
        (without(split="training"), "split: expected 'train', 'val' or 'test'"),
        (without(points="a.las"), "cannot tell the point format"),
        (without(labels="a.lbl"), "a.lbl: cannot tell from the name how wide its ids are: set label_format to one of"),
        (without(labels="#class", label_format="uint8"), "label_format is for label files"),
        (without(timestamp_us=10**20), "frame 'a': timestamp_us: expected at most 9223372036854775807"),
        (camera(width=2**31), "cameras.front.width: expected at most 2147483647"),
        (without(points="s3://KEY:se/cret@b/a.bin"), "set AWS_ACCESS_KEY_ID"),
        (camera(image="s3://b/a//b.jpg"), "S3 clients disagree"),
        (without(point_format="las"), "point_format: expected 'bin4', 'bin5', 'bin6', 'npy', 'pcd' or 'parquet'"),
        (without(cameras=[1]), "cameras: expected a mapping"),
        (camera(intrinsics=[1.0] * 8), "cameras.front.intrinsics: expected at least 9 items, got 8"),
        (camera(intrinsics=None), "cameras.front.intrinsics is missing"),
        (camera(widht=3), "unknown column 'cameras.front.widht'; did you mean 'cameras.front.width'"),
        (camera(cam_SE3_lidar=POSE[:12]), "cam_SE3_lidar: expected at least 16 items, got 12"),
        (camera(cam_SE3_lidar=None), "give cam_SE3_lidar, or all four of ego_SE3_lidar, global_SE3_lidar_ego"),
        (camera(ego_SE3_lidar=POSE), "give cam_SE3_lidar, or all four"),
        (
            camera(cam_SE3_lidar=[2.0, *POSE[1:]]),
            "frame 'a', camera 'front': wrong calibration: cam_SE3_lidar is not a rigid transform",
        ),
        (
            camera(cam_SE3_lidar=None, **dict.fromkeys(CHAIN[:3], POSE), ego_SE3_cam=[-1.0, *POSE[1:]]),
            "camera 'front': wrong calibration: ego_SE3_cam is not a rigid transform, it is mirrored",
        ),
    ],
)
def test_a_bad_record_says_what_is_wrong(record: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        index(record)


def test_infinite_calibration_is_refused() -> None:
    with pytest.raises(DataError, match=r"intrinsics\.0: expected a finite number"):
        index(camera(intrinsics=[float("nan")] * 9))


def test_repeated_ids_and_many_problems_are_listed_once() -> None:
    with pytest.raises(DataError, match=r"line 3: frame_id 'a' is already used by line 1"):
        index(RECORD, without(frame_id="b"), RECORD)
    with pytest.raises(DataError, match=r"manifest.jsonl: 9 records do not fit") as caught:
        index(*[without("scene", frame_id=str(number)) for number in range(9)])
    assert str(caught.value).count("scene is missing") == 5


def test_parquet_with_a_null_or_a_wrong_type() -> None:
    with pytest.raises(DataError, match=r"row 1: frame 'b': scene: expected text \(got null\)"):
        manifest.index(parquet([RECORD, without(frame_id="b", scene=None)]), "m.parquet", ontology())
    with pytest.raises(DataError, match="timestamp_us: expected a whole number"):
        manifest.index(parquet([without(timestamp_us=2.5)]), "m.parquet", ontology())


@pytest.mark.parametrize(
    ("content", "uri", "message"),
    [
        (b'{"a": 1', "m.jsonl", "m.jsonl, line 1 is not JSON"),
        (b"[1]", "m.jsonl", "line 1: the whole: expected a mapping .got .1.."),
        (b"PAR1", "m.parquet", "truncated or not a Parquet file"),
    ],
)
def test_a_manifest_that_is_none(content: bytes, uri: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        manifest.index(content, uri, ontology())


def test_null_means_absent_in_jsonl_as_in_parquet() -> None:
    nulls = {"labels": None, "point_format": None, "label_format": None, "cameras": None}
    record = without(**nulls)
    for content, uri in (
        (json.dumps(record).encode(), "m.jsonl"),
        (parquet([record, without(frame_id="b")]), "m.parquet"),
    ):
        frame = manifest.index(content, uri, ontology())[0]
        assert (frame.labels_uri, frame.cameras) == ("", ())
    (frame,) = index(without(cameras={"front": None}))
    assert frame.cameras == ()


def test_a_parquet_manifest_that_repeats_one_long_value_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(manifest_records, "_MAX_MANIFEST_BYTES", 1 << 20)
    monkeypatch.setattr(manifest_records, "_BATCH_BYTES", 1 << 16)
    records = [without(frame_id=str(number), scene="s" * 30_000) for number in range(100)]
    assert len(parquet(records)) < 100_000
    with pytest.raises(DataError, match="more than the 1048576 bytes of records"):
        manifest.index(parquet(records), "m.parquet", ontology())


def test_six_columns_are_not_read_as_four_and_can_be_stated() -> None:
    rng = np.random.default_rng(0)
    four = np.column_stack([rng.normal(0, 20, (256, 2)), rng.normal(-1, 0.5, 256), rng.uniform(0, 200, 256)])
    six = np.column_stack([four, np.arange(256) % 32, np.linspace(0, 0.1, 256)]).astype("<f4").tobytes()
    with pytest.raises(DataError, match=r"0.bin looks like 6 float32 columns, not 4: say which with point_format"):
        decode({SCAN: six}, labels="")
    frame = decode({SCAN: six}, labels="", point_format="bin6")
    np.testing.assert_array_equal(frame.points[:, :3], four[:, :3].astype(np.float32))
    assert frame.ring[:3].tolist() == [0, 1, 2]
    assert len(decode({SCAN: four.astype("<f4").tobytes()}, labels="").points) == 256


def decode(files: dict[str, bytes], **changes: Any) -> Keyframe:
    sensor = changes.pop("sensor", {})
    (frame,) = index(without(cameras={}, **changes), **sensor)

    def read(uri: str) -> bytes:
        if uri not in files:
            raise StorageError(f"cannot read {uri}: no such file or folder")
        return files[uri]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(storage, "read_bytes", read)
        return decode_frame(frame, ontology(**sensor))


SCAN, LABELS = "/logs/scans/0.bin", "/logs/labels/0.label"
RAW = np.array([10, 41, 0], np.uint32)


def test_decode_scales_clips_and_maps() -> None:
    frame = decode({SCAN: POINTS.tobytes(), LABELS: (RAW | (7 << 16)).tobytes()})
    np.testing.assert_array_equal(frame.points[:, :3], POINTS[:, :3])
    np.testing.assert_allclose(frame.points[:, 3], [0.0, 0.5, 1.0])
    assert frame.labels.tolist() == [0, 1, IGNORE]
    assert frame.labels.dtype == np.uint8
    assert frame.ring.shape == (0,)


@pytest.mark.parametrize(
    ("file", "stated", "kind"),
    [
        ("l.label", None, np.uint32),
        ("l.LABEL", None, np.uint32),
        ("l.bin", None, np.uint8),
        ("l.label", "uint16", np.uint16),
        ("l.txt", "uint8", np.uint8),
    ],
)
def test_label_width_follows_from_the_extension_or_is_stated(file: str, stated: str | None, kind: Any) -> None:
    changes = {"labels": file, **({"label_format": stated} if stated else {})}
    labels = {f"/logs/{file}": RAW.astype(kind).tobytes()}
    assert decode({SCAN: POINTS.tobytes(), **labels}, **changes).labels.tolist() == [0, 1, IGNORE]


def test_two_16_bit_ids_a_point_are_no_32_bit_id_unless_stated() -> None:
    pairs = np.repeat(np.array([10, 41, 0], np.uint16), 2).tobytes()
    with pytest.raises(DataError, match=r"0.label holds the same ids in the upper and the lower 16 bits.*label_format"):
        decode({SCAN: POINTS.tobytes(), LABELS: pairs})
    assert decode({SCAN: POINTS.tobytes(), LABELS: pairs}, label_format="uint32").labels.tolist() == [0, 1, IGNORE]


@pytest.mark.parametrize("kind", [np.uint32, np.int32, np.int64, np.uint64])
def test_the_instance_is_dropped_from_ids_of_32_bits_and_more(kind: Any) -> None:
    file = io.BytesIO()
    with_instances = RAW | np.array([7, 0xFFFF, 0x8000], np.uint32) << 16  # the latter two are negative as int32
    np.save(file, with_instances.view(np.int32) if kind is np.int32 else with_instances.astype(kind))
    files = {SCAN: POINTS.tobytes(), "/logs/l.npy": file.getvalue()}
    assert decode(files, labels="l.npy").labels.tolist() == [0, 1, IGNORE]


@pytest.mark.parametrize("kind", [np.int8, np.int16, np.int32, np.int64])
def test_minus_one_is_a_point_without_label(kind: Any) -> None:
    file = io.BytesIO()
    np.save(file, np.array([10, -1, 41], kind))
    files = {SCAN: POINTS.tobytes(), "/logs/l.npy": file.getvalue()}
    assert decode(files, labels="l.npy").labels.tolist() == [0, IGNORE, 1]


def test_other_negative_ids_are_refused_and_many_are_not_all_named() -> None:
    file = io.BytesIO()
    np.save(file, np.arange(-60, 0, dtype=np.int16))
    scan = np.ones((60, 4), "<f4").tobytes()
    with pytest.raises(DataError, match=r"l.npy: unknown own label ids \[-60, -59, .*-53, …\] \(59 in all\)"):
        decode({SCAN: scan, "/logs/l.npy": file.getvalue()}, labels="l.npy")


def test_labels_in_npy_and_in_a_column_of_the_scan() -> None:
    file = io.BytesIO()
    np.save(file, RAW.astype(np.int64))
    files = {SCAN: POINTS.tobytes(), "/logs/l.npy": file.getvalue()}
    assert decode(files, labels="l.npy").labels.tolist() == [0, 1, IGNORE]
    table = {**dict(zip(("x", "y", "z", "i"), POINTS.T, strict=True)), "Class": RAW}
    scan = io.BytesIO()
    pq.write_table(pa.table(table), scan)
    frame = decode({"/logs/s.parquet": scan.getvalue()}, points="s.parquet", labels="#Class")
    assert frame.labels.tolist() == [0, 1, IGNORE]
    with pytest.raises(DataError, match="no label column 'Clas'; did you mean 'class'"):
        decode({"/logs/s.parquet": scan.getvalue()}, points="s.parquet", labels="#Clas")
    with pytest.raises(DataError, match=r"column i holds float32: expected integers"):
        decode({"/logs/s.parquet": scan.getvalue()}, points="s.parquet", labels="#i")


def test_point_format_beats_the_extension() -> None:
    five = np.concatenate([POINTS, [[0], [1], [31]]], axis=1).astype(np.float32)
    frame = decode({SCAN: five.tobytes()}, point_format="bin5", labels="")
    assert frame.ring.tolist() == [0, 1, 31]
    assert frame.labels.shape == (0,)


def test_axes_turn_points_and_calibration_together() -> None:
    frame = decode({SCAN: POINTS.tobytes()}, labels="", sensor={"axes": "RFU"})
    np.testing.assert_array_equal(frame.points[0, :3], [2.0, -1.0, 3.0])
    (listed,) = index(camera(cam_SE3_lidar=SHIFTED.tolist()), axes="RFU")
    inside = np.append(frame.points[0, :3], 1.0)
    np.testing.assert_allclose(listed.cameras[0].cam_SE3_lidar @ inside, SHIFTED @ [1.0, 2.0, 3.0, 1.0])


def test_nan_points_stay_in_place() -> None:
    points = POINTS.copy()
    points[1, 0] = np.nan
    for axes in ("FLU", "RFU"):
        frame = decode({SCAN: points.tobytes(), LABELS: RAW.tobytes()}, sensor={"axes": axes})
        assert np.isnan(frame.points).any(axis=1).tolist() == [False, True, False]
        assert frame.labels.tolist() == [0, 1, IGNORE]


def test_no_intensity_gives_zeros_with_and_without_a_column() -> None:
    frame = decode({SCAN: POINTS.tobytes()}, labels="", sensor={"intensity": "none"})
    assert frame.points[:, 3].tolist() == [0.0, 0.0, 0.0]
    file = io.BytesIO()
    np.save(file, POINTS[:, :3])
    frame = decode({"/logs/s.npy": file.getvalue()}, points="s.npy", labels="", sensor={"intensity": "none"})
    assert frame.points[:, 3].tolist() == [0.0, 0.0, 0.0]
    with pytest.raises(DataError, match=r"s.npy has no intensity column, it has x, y, z: set sensor.intensity to none"):
        decode({"/logs/s.npy": file.getvalue()}, points="s.npy", labels="")


@pytest.mark.parametrize(
    ("files", "changes", "message"),
    [
        ({SCAN: POINTS.tobytes(), LABELS: b"\0" * 7}, {}, r"7 bytes, expected 12 \(3 points of uint32\)"),
        ({SCAN: POINTS.tobytes(), LABELS: b"\0" * 6}, {}, "6 bytes, expected 12"),
        ({SCAN: POINTS.tobytes(), LABELS: b"\0" * 24}, {"label_format": "uint16"}, "24 bytes, expected 6"),
        (
            {SCAN: POINTS.tobytes(), LABELS: bytes([10, 99, 0])},
            {"label_format": "uint8"},
            r"0.label: unknown own label ids \[99\]: expected ids among \[0, 10, 40, 41\].* to ignore_raw_ids",
        ),
        (
            {SCAN: np.full((3, 5), 0.5, "<f4").tobytes()},
            {"point_format": "bin5", "labels": ""},
            "ring holds 0.5, expected whole",
        ),
    ],
)
def test_bad_files_are_named(files: dict[str, bytes], changes: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        decode(files, **changes)


def test_missing_files_are_named() -> None:
    with pytest.raises(StorageError, match=r"cannot read /logs/scans/0.bin: no such file"):
        decode({})
    with pytest.raises(StorageError, match=r"cannot read /logs/labels/0.label: no such file"):
        decode({SCAN: POINTS.tobytes()})


def test_labels_of_another_length_in_npy(tmp_path: Path) -> None:
    np.save(tmp_path / "l.npy", RAW[:2])
    files = {SCAN: POINTS.tobytes(), "/logs/l.npy": (tmp_path / "l.npy").read_bytes()}
    with pytest.raises(DataError, match=r"l.npy has shape \[2\], the scan has 3 points"):
        decode(files, labels="l.npy")


@pytest.mark.parametrize(
    "stored", [np.array([10, 41, 0], ">u4"), np.array([10, 41, 0], "<f4"), np.uint32([10, 41, 0]) << 16]
)
@pytest.mark.parametrize("stated", [{}, {"label_format": "uint32"}])
def test_labels_of_which_only_the_upper_half_speaks_are_refused(stored, stated):
    with pytest.raises(DataError, match=r"the lower 16 bits of each uint32, which hold the class, are 0 everywhere"):
        decode({SCAN: POINTS.tobytes(), LABELS: stored.tobytes()}, **stated)
