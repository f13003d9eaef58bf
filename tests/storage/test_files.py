import errno
import os

import pytest
from pyarrow import fs

from ray_lidarseg import storage
from ray_lidarseg.errors import StorageError
from ray_lidarseg.storage import whole_files


def test_what_is_written_is_read_by_path_and_by_uri(tmp_path):
    storage.write_bytes(f"{tmp_path}/a/b.bin", b"\0one")
    storage.write_bytes(f"file://{tmp_path}/a/b.bin", b"\0two")
    assert storage.read_bytes(f"{tmp_path}/a/b.bin") == b"\0two"
    assert storage.list_files(f"{tmp_path}/a") == [f"{tmp_path}/a/b.bin"]
    assert storage.list_folders(str(tmp_path)) == [f"{tmp_path}/a"]


def test_no_decompression_by_file_name(tmp_path):
    storage.write_bytes(f"{tmp_path}/plain.gz", b"not gzip")
    assert storage.read_bytes(f"{tmp_path}/plain.gz") == b"not gzip"


def test_absent_things(tmp_path):
    assert not storage.exists(f"{tmp_path}/no")
    assert storage.list_files(f"{tmp_path}/no") == []
    storage.remove_file(f"{tmp_path}/no")
    storage.remove_folder(f"{tmp_path}/no")
    with pytest.raises(StorageError, match="no such file"):
        storage.read_bytes(f"{tmp_path}/no")


def test_remove_folder_takes_everything_below(tmp_path):
    storage.write_bytes(f"{tmp_path}/a/b/c", b"x")
    storage.remove_folder(f"{tmp_path}/a")
    assert not storage.exists(f"{tmp_path}/a")


@pytest.mark.parametrize(
    ("uri", "joined"),
    [
        ("runs/a", "runs/a/x/y"),
        ("runs/a/", "runs/a/x/y"),
        ("/", "/x/y"),
        ("s3://b/p", "s3://b/p/x/y"),
        ("s3://b/p?scheme=http", "s3://b/p/x/y?scheme=http"),
        ("odd?name", "odd?name/x/y"),
    ],
)
def test_join(uri, joined):
    assert storage.join(uri, "x", "y").replace("//x", "/x") == joined


def test_absolute_paths_do_not_depend_on_the_working_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert storage.absolute("runs/a") == f"{tmp_path}/runs/a"
    for written in ("./runs/a", "runs/a/", f"{tmp_path}/runs/../runs/a", f"file://{tmp_path}/runs/a"):
        assert storage.absolute(written) == f"{tmp_path}/runs/a"
    assert storage.absolute("s3://bucket/a") == storage.absolute("s3://bucket/a/") == "s3://bucket/a"
    assert storage.absolute("s3://bucket/a/?scheme=http") == "s3://bucket/a?scheme=http"


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    target = f"{tmp_path}/file"
    storage.write_bytes(target, b"old")

    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageError, match=r"disk is full.*same command continues"):
        storage.write_bytes(target, b"new")
    assert storage.read_bytes(target) == b"old"
    assert os.listdir(tmp_path) == ["file"]


def test_a_folder_that_is_a_file_is_named(tmp_path):
    storage.write_bytes(f"{tmp_path}/file", b"x")
    with pytest.raises(StorageError, match=r"cannot write .*file/run.* is a file, not a folder"):
        storage.check_writable(f"{tmp_path}/file/run")


def test_permission_denied_says_so(tmp_path, monkeypatch):
    def denied(*_, **__):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr("os.makedirs", denied)
    with pytest.raises(StorageError, match="permission denied: choose a folder"):
        storage.check_writable(str(tmp_path))


def test_check_writable_leaves_nothing(tmp_path):
    storage.check_writable(f"{tmp_path}/new")
    assert os.listdir(tmp_path / "new") == []


def test_a_file_that_cannot_be_written_is_said_before_the_work(tmp_path):
    storage.check_file_writable(f"{tmp_path}/new/report.html")
    assert os.listdir(tmp_path / "new") == []
    with pytest.raises(StorageError, match=r"cannot write .*new: it is a folder; give the name of a file"):
        storage.check_file_writable(f"{tmp_path}/new")
    storage.write_bytes(f"{tmp_path}/file", b"x")
    with pytest.raises(StorageError, match="is a file, not a folder"):
        storage.check_file_writable(f"{tmp_path}/file/report.html")


def test_unknown_scheme():
    with pytest.raises(StorageError, match="expected a path, file://… or s3://"):
        storage.exists("ftp://host/file")


@pytest.mark.parametrize(
    ("message", "advice"),
    [
        ("AWS Error NO_SUCH_BUCKET during PutObject", "create it or correct the name"),
        ("AWS Error ACCESS_DENIED during PutObject", "AWS_SECRET_ACCESS_KEY"),
        ("AWS Error NETWORK_CONNECTION during HeadObject", "AWS_ENDPOINT_URL"),
        ("something else", "something else"),
    ],
)
def test_object_storage_errors_say_what_to_do(tmp_path, monkeypatch, message, advice):
    class Broken:
        def get_file_info(self, _):
            raise OSError(message)

    # fakes share a name: one that answered another test of this process would be waited for, ten minutes
    monkeypatch.setattr(whole_files, "_answered", set())
    monkeypatch.setattr(storage.files, "resolve", lambda _: (Broken(), "b/k"))
    with pytest.raises(StorageError, match=advice):
        storage.exists("s3://b/k")


def test_resolve_gives_path_inside_the_file_system(tmp_path):
    filesystem, path = storage.resolve(f"{tmp_path}/x y")
    assert isinstance(filesystem, fs.LocalFileSystem)
    assert path == f"{tmp_path}/x y"


def test_of_two_writers_one_wins_and_both_learn_what_is_there(tmp_path):
    uri = str(tmp_path / "new" / "layer.json")
    assert storage.write_once(uri, b"first") == b"first"
    assert storage.write_once(uri, b"second") == b"first"
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["layer.json"]
