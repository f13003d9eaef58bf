import hashlib
import os
import tempfile

import pytest
from pyarrow import fs

from ray_lidarseg.errors import DataError, StorageError
from ray_lidarseg.foundation.checkpoint_files import file_sha256, local_file, sam_file, shipped_weights
from ray_lidarseg.storage import files


def test_path_and_file_uri_are_the_file_itself(tmp_path, monkeypatch):
    path = tmp_path / "weights.pth"
    path.write_bytes(b"abc")
    assert local_file(str(path)) == local_file(f"file://{path}") == path
    monkeypatch.chdir(tmp_path)
    assert local_file("weights.pth") == path


def test_digest_follows_the_content(tmp_path):
    path = tmp_path / "weights.pth"
    path.write_bytes(b"abc")
    assert file_sha256(path) == hashlib.sha256(b"abc").hexdigest()
    path.write_bytes(b"abcd")
    assert file_sha256(path) == hashlib.sha256(b"abcd").hexdigest()


def test_digest_of_an_unchanged_file_is_read_once(tmp_path, monkeypatch):
    path = tmp_path / "weights.pth"
    path.write_bytes(b"read once")
    first = file_sha256(path)
    monkeypatch.setattr("builtins.open", None)
    assert file_sha256(path) == first


def test_missing_file_and_folder(tmp_path):
    with pytest.raises(DataError, match=r"no checkpoint file at .*absent \(found nothing\): nothing is downloaded"):
        local_file(str(tmp_path / "absent"))
    with pytest.raises(DataError, match=r"\(found a folder\)"):
        local_file(str(tmp_path))


def test_unknown_scheme():
    with pytest.raises(StorageError, match=r"cannot use 'ftp://x/y': expected a path, file://… or s3://"):
        local_file("ftp://x/y")


@pytest.fixture
def bucket(tmp_path, monkeypatch):
    """A store that is not this disk, as far as the code can tell, and an empty cache."""
    (tmp_path / "bucket").mkdir()
    (tmp_path / "cache").mkdir()
    store = fs.SubTreeFileSystem(str(tmp_path / "bucket"), fs.LocalFileSystem())
    monkeypatch.setattr(files, "resolve", lambda uri: (store, uri.removeprefix("s3://")))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "cache"))
    return tmp_path / "bucket"


def test_remote_file_is_fetched_once_and_anew_when_it_changed(bucket, tmp_path):
    (bucket / "weights.pth").write_bytes(b"first")
    first = local_file("s3://weights.pth")
    assert first.read_bytes() == b"first"
    assert first.is_relative_to(tmp_path / "cache")
    assert first.name.endswith("weights.pth")  # a loader that looks at the suffix still can
    stamp = first.stat().st_mtime_ns
    assert local_file("s3://weights.pth").stat().st_mtime_ns == stamp
    (bucket / "weights.pth").write_bytes(b"second one")
    assert local_file("s3://weights.pth").read_bytes() == b"second one"


def test_torn_copy_is_fetched_again_and_nothing_unfinished_stays(bucket):
    (bucket / "weights.pth").write_bytes(b"whole file")
    copy = local_file("s3://weights.pth")
    copy.write_bytes(b"wh")
    assert local_file("s3://weights.pth").read_bytes() == b"whole file"
    assert [path.name for path in copy.parent.iterdir()] == [copy.name]


def cache_folder(tmp_path):
    return tmp_path / "cache" / f"ray-lidarseg-checkpoints-{os.getuid()}"


def test_the_cache_is_its_owners_alone(bucket, tmp_path):
    (bucket / "weights.pth").write_bytes(b"whole file")
    local_file("s3://weights.pth")
    assert cache_folder(tmp_path).stat().st_mode & 0o777 == 0o700


def test_a_cache_that_others_may_write_to_is_refused(bucket, tmp_path):
    (bucket / "weights.pth").write_bytes(b"whole file")
    cache_folder(tmp_path).mkdir()
    cache_folder(tmp_path).chmod(0o777)
    with pytest.raises(StorageError, match=r"belongs to user \d+ with mode 777.*remove it, or set TMPDIR"):
        local_file("s3://weights.pth")


def test_a_cache_that_is_a_link_is_refused(bucket, tmp_path):
    (bucket / "weights.pth").write_bytes(b"whole file")
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    cache_folder(tmp_path).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StorageError, match="remove it, or set TMPDIR"):
        local_file("s3://weights.pth")
    assert not list((tmp_path / "elsewhere").iterdir())


def test_a_cache_of_another_user_is_refused(bucket, tmp_path, monkeypatch):
    (bucket / "weights.pth").write_bytes(b"whole file")
    owner = os.getuid()
    monkeypatch.setattr(os, "getuid", lambda: owner + 1)
    with pytest.raises(StorageError, match=f"of user {owner + 1} with mode 700, but belongs to user {owner} "):
        local_file("s3://weights.pth")


def test_full_disk_while_fetching(bucket, monkeypatch):
    (bucket / "weights.pth").write_bytes(b"whole file")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(StorageError, match=r"cannot fetch s3://weights.pth: the disk is full: free space"):
        local_file("s3://weights.pth")


def test_weights_that_are_not_installed():
    with pytest.raises(DataError, match=r"the package holds no absent.safetensors under .*reinstall it"):
        shipped_weights("absent.safetensors")


def test_a_sam_is_the_shipped_one_by_name_or_any_file(tmp_path):
    assert sam_file("miniature") == shipped_weights("sam_miniature.safetensors")
    (tmp_path / "sam.pth").write_bytes(b"x")
    assert sam_file(str(tmp_path / "sam.pth")) == tmp_path / "sam.pth"
