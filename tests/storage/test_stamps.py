"""What a file was, and whether it is still that: by size and times, and by digest where only a time differs."""

import os
import threading
import urllib.request

import pytest

from ray_lidarseg import storage
from ray_lidarseg.errors import StorageError
from ray_lidarseg.storage import stamps
from ray_lidarseg.storage.stamps import changed_files, digest_of, recorded, stamps_of
from tests.storage.s3_server import Faults, s3_server, variables


@pytest.fixture(scope="module")
def bucket():
    pytest.importorskip("moto.server", reason="needs the moto package's S3 server")
    with s3_server(Faults()) as endpoint:
        urllib.request.urlopen(urllib.request.Request(f"{endpoint}/stamps", method="PUT")).close()
        yield endpoint


@pytest.fixture(params=["local", "s3"])
def folder(request, tmp_path, monkeypatch):
    if request.param == "local":
        return str(tmp_path)
    for name, value in variables(request.getfixturevalue("bucket")).items():
        monkeypatch.setenv(name, value)
    return f"s3://stamps/{tmp_path.name}"


def test_what_is_read_in_the_block_is_recorded_and_nothing_else(folder):
    for name in ("a", "b", "c"):
        storage.write_bytes(f"{folder}/{name}", name.encode() * 3)
    storage.read_bytes(f"{folder}/a")
    with recorded() as seen:
        assert storage.read_bytes(f"{folder}/b") == b"bbb"
        other = threading.Thread(target=storage.read_bytes, args=(f"{folder}/c",))
        other.start()
        other.join()
    storage.read_bytes(f"{folder}/c")
    assert list(seen) == [f"{folder}/b"]
    stamp = seen[f"{folder}/b"]
    assert (stamp.size, stamp.digest) == (3, digest_of(b"bbb"))
    assert stamps.Stamp.from_list(stamp.to_list()) == stamp
    assert stamp.times_ns == stamps_of([f"{folder}/b"])[f"{folder}/b"].times_ns


@pytest.mark.parametrize("count", [1, 3, 20])
def test_stamps_of_many_files_are_those_of_each(folder, count):
    uris = [f"{folder}/{number % 2}/{number}.bin" for number in range(count)]
    for number, uri in enumerate(uris):
        storage.write_bytes(uri, b"x" * number)
    found = stamps_of([*uris, f"{folder}/0/absent", f"{folder}/nowhere/absent"])
    assert {uri: stamp.size for uri, stamp in found.items()} == {uri: number for number, uri in enumerate(uris)}


def test_other_content_has_changed_and_the_same_written_again_has_not(folder):
    names = ("resized", "other", "again", "gone", "left")
    with recorded() as before:
        for name in names:
            storage.write_bytes(f"{folder}/{name}", b"one")
            storage.read_bytes(f"{folder}/{name}")
    old = {uri: stamps.Stamp(stamp.size, (0,), stamp.digest) for uri, stamp in before.items()}  # S3 counts seconds
    for name, content in (("resized", b"three"), ("other", b"two"), ("again", b"one")):
        storage.write_bytes(f"{folder}/{name}", content)
    storage.remove_file(f"{folder}/gone")
    assert changed_files(old) == {f"{folder}/resized", f"{folder}/other"}
    assert changed_files({}) == set()


def test_times_that_were_set_back_do_not_hide_a_change(tmp_path):
    file = tmp_path / "labels"
    file.write_bytes(b"one")
    with recorded() as before:
        storage.read_bytes(str(file))
    status = file.stat()
    file.write_bytes(b"two")
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert changed_files(before) == {str(file)}


def test_nothing_is_read_where_size_and_times_are_the_same(tmp_path, monkeypatch):
    (tmp_path / "scan").write_bytes(b"one")
    with recorded() as before:
        storage.read_bytes(str(tmp_path / "scan"))
    monkeypatch.setattr(stamps.files, "read_bytes", lambda uri: pytest.fail("it was read"))
    assert changed_files(before) == set()


def test_a_ring_of_links_is_explained(tmp_path):
    (tmp_path / "0.bin").symlink_to(tmp_path / "1.bin")
    (tmp_path / "1.bin").symlink_to(tmp_path / "0.bin")
    with pytest.raises(
        StorageError, match=r"cannot look up \S+/0.bin: the path is a ring of symbolic links: mend them"
    ):
        stamps_of([str(tmp_path / "0.bin")])
