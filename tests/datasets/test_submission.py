import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ray_lidarseg.datasets import submission
from ray_lidarseg.datasets.nuscenes import CLASSES as NUSCENES
from ray_lidarseg.datasets.semantickitti import CLASSES as SEMANTICKITTI
from ray_lidarseg.errors import DataError


def test_lidarseg_bytes_are_one_to_sixteen():
    content = submission.label_bytes(np.arange(16, dtype=np.uint8), NUSCENES, "lidarseg")
    assert list(content) == list(range(1, 17))


def test_label_files_hold_the_inverse_map_in_four_bytes():
    content = submission.label_bytes(np.array([0, 4, 8, 18], np.uint8), SEMANTICKITTI, "label")
    assert np.frombuffer(content, "<u4").tolist() == [10, 20, 40, 81]


@pytest.mark.parametrize(
    ("taxonomy", "file_format"), [(NUSCENES, "lidarseg"), (NUSCENES, "label"), (SEMANTICKITTI, "label")]
)
def test_files_read_back(taxonomy, file_format):
    labels = np.random.default_rng(0).integers(0, taxonomy.num_classes, 200).astype(np.uint8)
    content = submission.label_bytes(labels, taxonomy, file_format)
    np.testing.assert_array_equal(submission.read_labels(content, taxonomy, file_format), labels)


def test_foreign_ids_are_named():
    with pytest.raises(DataError, match=r"ids \[99\] are no predictions of semantickitti"):
        submission.read_labels(np.array([10, 99], "<u4").tobytes(), SEMANTICKITTI, "label")


def test_paths():
    path = submission.label_path("08/000123", "label", "val")
    assert path == "sequences/08/predictions/000123.label"
    assert submission.confidence_path(path) == "sequences/08/predictions/000123.confidence.npy"
    assert submission.label_path("abc", "label", "val") == "sequences/00/predictions/abc.label"
    assert submission.label_path("08/000123", "ply", "val") == "sequences/08/predictions/000123.ply"
    assert submission.label_path("abc", "lidarseg", "test") == "lidarseg/test/abc_lidarseg.bin"


@pytest.mark.parametrize(
    ("frame_id", "path"),
    [
        ("../../x", "sequences/%2E%2E/%2E%2E/predictions/x.label"),
        ("/etc/x", "sequences/%/etc/predictions/x.label"),
        ("a//b", "sequences/a/%/predictions/b.label"),
        ("predictions/b", "sequences/%70redictions/predictions/b.label"),
        ("a/", "sequences/a/predictions/%.label"),
    ],
)
def test_ids_that_climb_or_collide_stay_below_and_apart(frame_id, path):
    assert submission.label_path(frame_id, "label", "val") == path


def test_a_split_is_one_folder():
    assert submission.label_path("t", "lidarseg", "../../x") == "lidarseg/%2E%2E%2F%2E%2E%2Fx/t_lidarseg.bin"


@given(
    st.sets(
        st.lists(st.sampled_from(["a", "", "..", "predictions", "b.label", "%70redictions"]), min_size=1).map("/".join)
    )
)
def test_no_label_file_is_the_file_or_the_folder_of_another(ids):
    paths = [submission.label_path(frame_id, "label", "val") for frame_id in ids]
    paths += [submission.confidence_path(path) for path in paths]
    lidarseg = {submission.label_path(frame_id, "lidarseg", "val") for frame_id in ids}
    folders = {"/".join(path.split("/")[:depth]) for path in paths for depth in range(1, path.count("/") + 1)}
    assert len(set(paths)) == 2 * len(ids)
    assert len(lidarseg) == len(ids)
    assert not folders.intersection(paths)


def test_confidence_is_half_precision():
    values = np.load(io.BytesIO(submission.confidence_bytes(np.array([0.25, 1.0], np.float32))))
    assert values.dtype == np.float16
    assert values.tolist() == [0.25, 1.0]


def test_formats_are_checked():
    submission.check_format("lidarseg", NUSCENES)
    with pytest.raises(DataError, match="expected one of label, lidarseg, pcd, ply, las"):
        submission.check_format("xyz", NUSCENES)
    with pytest.raises(DataError, match="classes of nuscenes"):
        submission.check_format("lidarseg", SEMANTICKITTI)
