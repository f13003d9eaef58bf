import dataclasses
import multiprocessing
import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyarrow import fs

from ray_lidarseg.datasets import parquet_files, prepared_frames
from ray_lidarseg.datasets.catalog import drop_rows, read_catalog, write_catalog
from ray_lidarseg.datasets.prepared_frames import OpenShards, PreparedFrames
from ray_lidarseg.datasets.shards import content_digest, list_shards, write_shard
from ray_lidarseg.errors import DataError
from ray_lidarseg.sample import CameraImage, Keyframe

LOCAL = fs.LocalFileSystem()


def keyframe(number: int, camera: bool = False) -> Keyframe:
    rng = np.random.default_rng(number)
    image = CameraImage("CAM_FRONT", f"{number}.jpg", np.eye(3) * 2, np.arange(16.0).reshape(4, 4), 7, 96, 54)
    is_labelled = number % 3 > 0
    return Keyframe(
        frame_id=f"frame-{number:03d}",
        dataset="nuscenes",
        scene=f"scene-{number // 4}",
        split="train" if number < 9 else "val",
        timestamp_us=number * 1000,
        points_uri=f"{number}.bin",
        labels_uri=f"{number}.label" if is_labelled else "",
        points=rng.normal(size=(number + 1, 4)).astype(np.float32),
        labels=rng.integers(0, 16, number + 1).astype(np.uint8) if is_labelled else np.zeros(0, np.uint8),
        ring=np.arange(number + 1, dtype=np.uint8),
        cameras=(image,) if camera else (),
        alias=f"token-{number}",
    )


@pytest.fixture
def folder(tmp_path: Path) -> str:
    for start in range(0, 12, 5):
        write_shard(LOCAL, str(tmp_path), [keyframe(i, camera=i % 2 > 0) for i in range(start, min(start + 5, 12))])
    write_catalog(LOCAL, str(tmp_path))
    return str(tmp_path)


def frames_of(folder: str) -> PreparedFrames:
    return PreparedFrames(LOCAL, folder, read_catalog(LOCAL, folder))


def test_every_frame_comes_back_bit_for_bit(folder: str) -> None:
    frames = frames_of(folder)
    assert len(frames) == 12
    for number in range(12):
        back, wrote = frames[number], keyframe(number, camera=number % 2 > 0)
        assert (back.frame_id, back.scene, back.split) == (wrote.frame_id, wrote.scene, wrote.split)
        np.testing.assert_array_equal(back.points, wrote.points)
        np.testing.assert_array_equal(back.labels, wrote.labels)
        np.testing.assert_array_equal(back.ring, wrote.ring)
        assert [camera.uri for camera in back.cameras] == [camera.uri for camera in wrote.cameras]


def test_a_scan_is_the_frame_without_what_no_step_reads(folder: str) -> None:
    frames = frames_of(folder)
    for number in range(12):
        whole = frames[number]
        for with_cameras in (False, True):
            scan = frames.scan(number, with_cameras)
            np.testing.assert_array_equal(scan.points, whole.points)
            np.testing.assert_array_equal(scan.labels, whole.labels)
            assert (scan.points.dtype, scan.labels.dtype) == (np.float32, np.uint8)
            for name in ("frame_id", "dataset", "scene", "split", "timestamp_us", "alias"):
                assert getattr(scan, name) == getattr(whole, name)
            assert (scan.points_uri, scan.labels_uri, len(scan.ring)) == ("", "", 0)
            assert len(scan.cameras) == (len(whole.cameras) if with_cameras else 0)
            for camera, other in zip(scan.cameras, whole.cameras, strict=with_cameras):
                assert (camera.name, camera.uri, camera.width_px) == (other.name, other.uri, other.width_px)
                np.testing.assert_array_equal(camera.cam_SE3_lidar, other.cam_SE3_lidar)


def test_a_scan_leaves_the_image_in_the_shard(tmp_path: Path) -> None:
    camera = dataclasses.replace(keyframe(1, camera=True).cameras[0], image=b"jpeg")
    write_shard(LOCAL, str(tmp_path), [dataclasses.replace(keyframe(1), cameras=(camera,))])
    write_catalog(LOCAL, str(tmp_path))
    frames = frames_of(str(tmp_path))
    assert frames[0].cameras[0].image == b"jpeg"
    assert frames.scan(0, with_cameras=True).cameras[0].image == b""


def test_threads_that_read_the_same_shards_get_their_own_frames(folder: str) -> None:
    frames = frames_of(folder)
    with ThreadPoolExecutor(4) as threads:
        sizes = list(threads.map(lambda number: len(frames.scan(number % 12).points), range(96)))
    assert sizes == [number % 12 + 1 for number in range(96)]


def test_the_catalog_says_what_is_where(folder: str) -> None:
    catalog = read_catalog(LOCAL, folder)
    assert catalog.frame_id == tuple(f"frame-{i:03d}" for i in range(12))
    assert catalog.num_points.tolist() == list(range(1, 13))
    assert catalog.is_labelled.tolist() == [i % 3 > 0 for i in range(12)]
    assert catalog.row.tolist() == [0, 1, 2, 3, 4, 0, 1, 2, 3, 4, 0, 1]
    assert len(set(catalog.shard)) == 3
    assert catalog.of_split("val").frame_id == ("frame-009", "frame-010", "frame-011")


def test_one_row_group_a_frame_and_no_column_may_be_null(folder: str) -> None:
    file = pq.ParquetFile(f"{folder}/{read_catalog(LOCAL, folder).shard[0]}")
    assert file.num_row_groups == 5
    assert [field.name for field in file.schema_arrow if field.nullable] == []
    assert sum(column.null_count for column in file.read().columns) == 0


def test_the_same_frames_make_the_same_file(tmp_path: Path) -> None:
    first = write_shard(LOCAL, str(tmp_path), [keyframe(1), keyframe(2)])
    before = (tmp_path / first).read_bytes()
    assert write_shard(LOCAL, str(tmp_path), [keyframe(1), keyframe(2)]) == first
    assert (tmp_path / first).read_bytes() == before
    assert write_shard(LOCAL, str(tmp_path), [keyframe(2)]) != first
    assert len(list(tmp_path.iterdir())) == 2


def test_a_frame_in_two_shards_is_listed_once(tmp_path: Path) -> None:
    write_shard(LOCAL, str(tmp_path), [keyframe(1), keyframe(2)])
    write_shard(LOCAL, str(tmp_path), [keyframe(2), keyframe(3)])
    assert write_catalog(LOCAL, str(tmp_path)).frame_id == ("frame-001", "frame-002", "frame-003")


def test_selecting_keeps_the_order_asked_for(folder: str) -> None:
    catalog = read_catalog(LOCAL, folder).select(["frame-007", "frame-002"])
    assert [frame.frame_id for frame in map(PreparedFrames(LOCAL, folder, catalog).__getitem__, range(2))] == [
        "frame-007",
        "frame-002",
    ]
    with pytest.raises(DataError, match=r"1 frames are not among the 2 prepared ones, for example \['frame-999'\]"):
        catalog.select(["frame-999"])


def test_frames_move_into_validation(folder: str) -> None:
    catalog = read_catalog(LOCAL, folder).with_validation(["frame-001"])
    assert catalog.of_split("val").frame_id == ("frame-001", "frame-009", "frame-010", "frame-011")
    assert len(catalog.of_split("train")) == 8


def test_few_files_stay_open(folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prepared_frames, "_OPEN_FILES", 2)
    frames = frames_of(folder)
    assert [frames[i].frame_id for i in (0, 6, 11, 1)] == ["frame-000", "frame-006", "frame-011", "frame-001"]
    assert len(frames._shards._files) == 2


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_an_opened_reader_works_in_child_processes(folder: str, method: str) -> None:
    frames = frames_of(folder)
    expected = [frames[i].points.tolist() for i in range(12)]
    with multiprocessing.get_context(method).Pool(1) as pool:
        children = pool.map(frames.__getitem__, range(12))
    assert [frame.points.tolist() for frame in children] == expected


def test_pickling_leaves_open_files_behind(folder: str) -> None:
    frames = frames_of(folder)
    assert frames[0].frame_id == "frame-000"
    assert pickle.loads(pickle.dumps(frames))[3].frame_id == "frame-003"


def test_a_torn_shard_is_named_with_the_remedy(folder: str) -> None:
    frames = frames_of(folder)
    file = Path(folder, frames.catalog.shard[0])
    file.write_bytes(file.read_bytes()[:-20])
    with pytest.raises(DataError, match=rf"frame frame-000 in {folder}/{file.name} .*delete it and run"):
        frames[0]
    with pytest.raises(DataError, match=r"is not a whole Parquet file .*run `ray-lidarseg prepare` again"):
        write_catalog(LOCAL, folder)


def test_a_missing_shard_is_named(folder: str) -> None:
    frames = frames_of(folder)
    Path(folder, frames.catalog.shard[0]).unlink()
    with pytest.raises(DataError, match=r"frame frame-000 .*is missing: run `ray-lidarseg prepare`"):
        frames[0]


def test_a_catalog_of_other_shards_is_noticed(folder: str) -> None:
    frames = frames_of(folder)
    other = write_shard(LOCAL, folder, [keyframe(20)])
    Path(folder, other).replace(Path(folder, frames.catalog.shard[0]))
    with pytest.raises(DataError, match=r"holds frame frame-020 where catalog.parquet promises frame-000"):
        frames[0]
    with pytest.raises(DataError, match=r"frame frame-001 in .* cannot be read"):
        frames[1]


def test_another_schema_version_is_refused(folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet_files, "SCHEMA_VERSION", 99)
    with pytest.raises(DataError, match=r"catalog.parquet has schema version 1, this release reads 99: write it again"):
        read_catalog(LOCAL, folder)


def test_a_parquet_file_of_someone_else_is_refused(tmp_path: Path) -> None:
    pq.write_table(pa.table({"a": [1]}), tmp_path / "catalog.parquet")
    with pytest.raises(DataError, match="has schema version none"):
        read_catalog(LOCAL, str(tmp_path))


def test_a_folder_that_was_never_prepared(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"catalog.parquet is missing: run `ray-lidarseg prepare` to the end first"):
        read_catalog(LOCAL, str(tmp_path))
    with pytest.raises(DataError, match="holds no prepared frames"):
        write_catalog(LOCAL, str(tmp_path))


def test_the_catalog_knows_what_public_lists_call_a_frame(folder: str) -> None:
    catalog = read_catalog(LOCAL, folder)
    assert catalog.alias == tuple(f"token-{number}" for number in range(12))
    assert catalog.select(["frame-003"]).alias == ("token-3",)


def test_a_folder_of_an_earlier_release_has_no_such_names(folder: str) -> None:
    for file in Path(folder).glob("*.parquet"):
        table = pq.read_table(file).drop_columns(["alias"])
        pq.write_table(table, file, row_group_size=1 if file.name.startswith("shard") else len(table))
    assert read_catalog(LOCAL, folder).alias == ("",) * 12
    assert write_catalog(LOCAL, folder).alias == ("",) * 12
    assert frames_of(folder)[3].alias == ""


def test_no_flipped_bit_of_a_shard_is_read_as_if_nothing_were(folder: str) -> None:
    file = Path(folder, list_shards(LOCAL, folder)[0])
    data, silent, noticed = file.read_bytes(), 0, 0
    right = [OpenShards(LOCAL, folder).row(file.name, row) for row in range(5)]
    for position in np.random.default_rng(0).choice(8 * len(data), 600, replace=False):
        flipped = bytearray(data)
        flipped[position // 8] ^= 1 << (position % 8)
        file.write_bytes(flipped)
        try:
            opened = OpenShards(LOCAL, folder)
            silent += [opened.row(file.name, row) for row in range(5)] != right
        except DataError:
            noticed += 1
    assert (silent, noticed > 300) == (0, True)  # the rest hits bytes that nothing is read from


def test_a_large_footer_is_checked_and_one_without_digest_is_read(tmp_path: Path) -> None:
    table = pa.table({f"a_column_with_a_long_name_{number}": [number] for number in range(900)})
    data = parquet_files.parquet_bytes(table, 1)
    length = int.from_bytes(data[-8:-4], "little") + 8
    assert length > 1 << 16
    mark = len(parquet_files._FOOTER_MARK) + 32
    for name, content, is_good in (
        ("ours", data, True),
        ("flipped", data[:-5000] + bytes([data[-5000] ^ 4]) + data[-4999:], False),
        ("older", data[: -length - mark] + data[-length:], True),
    ):
        (tmp_path / name).write_bytes(content)
        if is_good:
            assert parquet_files.open_parquet(LOCAL, str(tmp_path / name)).read().to_pylist() == table.to_pylist()
        else:
            with pytest.raises(DataError, match="digest of its footer differs: bits have flipped"):
                parquet_files.open_parquet(LOCAL, str(tmp_path / name))


def test_the_catalog_knows_the_content_of_a_frame_and_not_its_name() -> None:
    frame, other = keyframe(4, camera=True), keyframe(4, camera=True)
    assert content_digest(frame) == content_digest(other)
    labels = frame.labels.copy()
    labels[0] ^= 1
    for changed in (
        dataclasses.replace(frame, labels=labels),
        dataclasses.replace(frame, points=frame.points * 2),
        dataclasses.replace(frame, labels=np.zeros(0, np.uint8)),
        dataclasses.replace(frame, cameras=(dataclasses.replace(frame.cameras[0], image=b"x"),)),
    ):
        assert content_digest(changed) != content_digest(frame)
    assert content_digest(dataclasses.replace(frame, frame_id="x", scene="y")) == content_digest(frame)


def test_the_catalog_holds_the_digests(folder: str) -> None:
    catalog = read_catalog(LOCAL, folder)
    assert catalog.digest == tuple(content_digest(frames_of(folder)[index]) for index in range(12))


def test_rows_that_are_dropped_are_gone_and_the_others_stay_as_they_are(folder: str) -> None:
    frames = frames_of(folder)
    place = {
        name: (frames.catalog.shard[i], int(frames.catalog.row[i])) for i, name in enumerate(frames.catalog.frame_id)
    }
    before = {frame.frame_id: frame for frame in (frames[index] for index in range(12))}
    gone = ["frame-000", "frame-003", *(f"frame-{number:03d}" for number in range(5, 10))]  # two, and a whole shard
    drop_rows(LOCAL, folder, [place[name] for name in gone])
    assert not Path(folder, "catalog.parquet").exists()
    assert len(list_shards(LOCAL, folder)) == 2
    catalog = write_catalog(LOCAL, folder)
    assert catalog.frame_id == tuple(sorted(before.keys() - set(gone)))
    rest = PreparedFrames(LOCAL, folder, catalog)
    for index, name in enumerate(catalog.frame_id):
        assert rest[index].points.tobytes() == before[name].points.tobytes()
        assert catalog.digest[index] == content_digest(before[name])
    drop_rows(LOCAL, folder, [])
    assert len(read_catalog(LOCAL, folder)) == len(catalog)
