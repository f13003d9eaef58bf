"""Archives: what a server would refuse is refused here, one broken rule after the other."""

import io
import json
import zipfile

import numpy as np
import pytest

from ray_lidarseg.datasets.nuscenes import official_set as nuscenes_set
from ray_lidarseg.datasets.semantickitti import official_set as kitti_set
from ray_lidarseg.datasets.submission_archive import (
    BENCHMARKS,
    Member,
    benchmark_of,
    check_archive,
    members_of,
    write_archive,
)
from ray_lidarseg.errors import DataError
from ray_lidarseg.sample import Keyframe

KITTI, NUSCENES = BENCHMARKS["semantickitti"], BENCHMARKS["nuscenes"]
KITTI_MEMBERS = [
    Member(f"sequences/{name}.label", "", 3) for name in ("11/predictions/000000", "12/predictions/000000")
]
NUSCENES_MEMBERS = [Member("lidarseg/test/a_lidarseg.bin", "", 3)]
ROAD = np.array([40, 40, 10], "<u4").tobytes()


def kitti(contents: dict[str, bytes]) -> io.BytesIO:
    file = io.BytesIO()
    write_archive(file, KITTI, "test", contents.items())
    return file


def nuscenes(content: bytes = b"\x01\x10\x04") -> io.BytesIO:
    file = io.BytesIO()
    write_archive(file, NUSCENES, "test", [(NUSCENES_MEMBERS[0].path, content)])
    return file


def test_every_folder_has_an_entry_before_its_files():
    file = kitti({member.path: ROAD for member in KITTI_MEMBERS})
    assert zipfile.ZipFile(file).namelist() == [
        "sequences/",
        "sequences/11/",
        "sequences/11/predictions/",
        "sequences/11/predictions/000000.label",
        "sequences/12/",
        "sequences/12/predictions/",
        "sequences/12/predictions/000000.label",
    ]
    check_archive(file, KITTI, "test", KITTI_MEMBERS)


def test_the_same_labels_make_the_same_bytes():
    contents = {member.path: ROAD for member in KITTI_MEMBERS}
    assert kitti(contents).getvalue() == kitti(contents).getvalue()


def test_an_archive_without_entries_of_folders_is_refused():
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr(KITTI_MEMBERS[0].path, ROAD)
    with pytest.raises(DataError, match=r"folder sequences/ has no entry of its own\n"):
        check_archive(file, KITTI, "test", KITTI_MEMBERS[:1])


@pytest.mark.parametrize(
    ("second", "message"),
    [
        (None, "sequences/12/predictions/000000.label is missing"),
        (ROAD[:8], "has 2 labels, the scan has 3 points"),
        (np.array([40, 0, 10], "<u4").tobytes(), r"holds ids \[0\]: expected \[10, 11,"),
        (np.array([40, 252, 8], "<u4").tobytes(), r"holds ids \[8, 252\]"),
    ],
)
def test_kitti_rules(second, message):
    contents = {KITTI_MEMBERS[0].path: ROAD} | ({KITTI_MEMBERS[1].path: second} if second else {})
    with pytest.raises(DataError, match=f"breaks the server's rules:\n  .*{message}"):
        check_archive(kitti(contents), KITTI, "test", KITTI_MEMBERS)


def test_a_stray_file_is_refused():
    contents = {member.path: ROAD for member in KITTI_MEMBERS} | {
        "sequences/11/predictions/000000.confidence.npy": b"x"
    }
    with pytest.raises(DataError, match=r"confidence\.npy belongs to no scan of the set"):
        check_archive(kitti(contents), KITTI, "test", KITTI_MEMBERS)


def test_instance_ids_in_the_high_bits_do_no_harm():
    content = (np.array([40, 40, 10]) + (7 << 16)).astype("<u4").tobytes()
    check_archive(kitti({KITTI_MEMBERS[0].path: content}), KITTI, "test", KITTI_MEMBERS[:1])


def test_nuscenes_rules():
    check_archive(nuscenes(), NUSCENES, "test", NUSCENES_MEMBERS)
    for content, message in (
        (b"\x01\x00\x04", r"holds ids \[0\]"),
        (b"\x01\x11\x04", r"ids \[17\]"),
        (b"\x01", "has 1"),
    ):
        with pytest.raises(DataError, match=message):
            check_archive(nuscenes(content), NUSCENES, "test", NUSCENES_MEMBERS)


@pytest.mark.parametrize("meta", [None, {"use_lidar": True}, {"meta": {"use_lidar": True}}, [1]])
def test_nuscenes_wants_five_booleans(meta):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for folder in ("lidarseg/", "lidarseg/test/"):
            archive.writestr(folder, b"")
        archive.writestr(NUSCENES_MEMBERS[0].path, b"\x01\x10\x04")
        if meta is not None:
            archive.writestr("test/submission.json", json.dumps(meta))
    with pytest.raises(DataError, match=r"test/submission\.json: expected true or false for each of use_camera"):
        check_archive(file, NUSCENES, "test", NUSCENES_MEMBERS)


def test_no_zip_file_is_named():
    with pytest.raises(DataError, match="no zip file"):
        check_archive(io.BytesIO(b"labels"), KITTI, "test", KITTI_MEMBERS)


def test_official_sets():
    name, scans = kitti_set("test", [])
    assert (name, len(scans), sum(scans.values()), scans["19"]) == ("test", 11, 20351, 4981)
    assert kitti_set("val", ["08"]) == ("val", {"08": 4071})
    assert nuscenes_set("val", ["scene-0103", "scene-0916"])[0] == "mini_val"
    assert len(nuscenes_set("val", ["scene-0103", "scene-0003"])[1]) == 150
    assert nuscenes_set("test", ["scene-0077"])[0] == "test"
    for official in (kitti_set, nuscenes_set):
        with pytest.raises(DataError, match="scores val or test, not 'train'"):
            official("train", [])


def test_members_are_the_frames_of_the_official_scenes():
    frames = [Keyframe(f"t{n}", "nuscenes", scene, "val", 0, "") for n, scene in enumerate(("scene-0103", "own"))]
    name, members, missing = members_of(NUSCENES, frames[:1], [5], "val", partial=False)
    assert (name, missing) == ("mini_val", ["scene-0916 has 0 scans, expected some"])
    assert members == [Member("lidarseg/mini_val/t0_lidarseg.bin", "lidarseg/val/t0_lidarseg.bin", 5)]
    assert [len(members_of(NUSCENES, frames, [5, 6], "val", partial)[1]) for partial in (False, True)] == [1, 2]


def test_predictions_that_no_server_takes():
    with pytest.raises(DataError, match="takes format label, these are ply: predict into another folder"):
        benchmark_of("semantickitti", "ply")
    with pytest.raises(DataError, match="manifest has no benchmark server we know"):
        benchmark_of("manifest", "label")
