import errno
import os
import threading
from pathlib import Path

import pytest
from pyarrow import fs

from ray_lidarseg import storage
from ray_lidarseg.errors import StorageError
from ray_lidarseg.storage import whole_files
from ray_lidarseg.storage.whole_files import (
    create_whole,
    fetch_whole,
    files_in,
    outlasting,
    remove_unfinished,
    write_whole,
)

LOCAL = fs.LocalFileSystem()


def test_files_are_created_and_replaced_with_their_folders(tmp_path: Path) -> None:
    path = f"{tmp_path}/a/b/file.gz"
    for content in (b"first, and longer", b"second"):
        write_whole(LOCAL, path, content)
        assert Path(path).read_bytes() == content
    assert files_in(LOCAL, f"{tmp_path}/a/b") == [path]
    assert files_in(LOCAL, f"{tmp_path}/a") == files_in(LOCAL, f"{tmp_path}/none") == []


@pytest.mark.parametrize("broken", ["fsync", "replace"])
def test_a_failed_write_leaves_the_old_file_alone(tmp_path: Path, monkeypatch, broken: str) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "disk full")

    path = f"{tmp_path}/file"
    write_whole(LOCAL, path, b"old")
    monkeypatch.setattr(whole_files.os, broken, full)
    with pytest.raises(OSError, match="disk full"):
        write_whole(LOCAL, path, b"new")
    assert Path(path).read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["file"]


def test_readers_see_one_whole_file_or_the_other(tmp_path: Path) -> None:
    path, versions = tmp_path / "file", (b"a" * 500_000, b"b" * 700_000)
    write_whole(LOCAL, str(path), versions[0])
    writer = threading.Thread(target=lambda: [write_whole(LOCAL, str(path), versions[i % 2]) for i in range(40)])
    writer.start()
    while writer.is_alive():
        assert path.read_bytes() in versions
    writer.join()


def test_what_a_killed_writer_left_is_removed_and_nothing_else(tmp_path: Path, monkeypatch) -> None:
    write_whole(LOCAL, f"{tmp_path}/done", b"done")
    monkeypatch.setattr(whole_files.os, "replace", lambda *_: None)
    monkeypatch.setattr(whole_files.os, "remove", lambda _: None)  # a kill runs no clean-up
    write_whole(LOCAL, f"{tmp_path}/lost", b"lost")
    monkeypatch.undo()
    assert len(os.listdir(tmp_path)) == 2
    assert remove_unfinished(LOCAL, str(tmp_path)) == 1
    assert os.listdir(tmp_path) == ["done"]


def test_only_what_writers_of_the_named_files_left_is_removed(tmp_path: Path) -> None:
    for name in (".unfinished-a-b.bin-0123abcd", ".unfinished-c.bin-0123abcd", "a-b.bin"):
        (tmp_path / name).write_bytes(b"half")
    assert remove_unfinished(LOCAL, str(tmp_path), {"a-b.bin", "d.bin"}) == 1
    assert sorted(os.listdir(tmp_path)) == [".unfinished-c.bin-0123abcd", "a-b.bin"]


def test_a_fetched_file_is_whole_or_not_there(tmp_path: Path, monkeypatch) -> None:
    store = fs.SubTreeFileSystem(str(tmp_path), LOCAL)
    (tmp_path / "big").write_bytes(bytes(range(256)) * 9000)  # more than two chunks
    fetch_whole(store, "big", f"{tmp_path}/copies/big")
    assert (tmp_path / "copies/big").read_bytes() == (tmp_path / "big").read_bytes()
    monkeypatch.setattr(whole_files.os, "fsync", lambda _: (_ for _ in ()).throw(OSError(errno.ENOSPC, "disk full")))
    with pytest.raises(OSError, match="disk full"):
        fetch_whole(store, "big", f"{tmp_path}/other/big")
    assert os.listdir(tmp_path / "other") == []


def test_object_storage_gets_the_bytes_as_they_are(tmp_path: Path) -> None:
    """A sub-tree is not a local disk to this writer: it takes the path that buckets take."""
    write_whole(fs.SubTreeFileSystem(str(tmp_path), LOCAL), "plain.gz", b"not gzip")
    assert (tmp_path / "plain.gz").read_bytes() == b"not gzip"


class Store:
    """Fails with each of the messages, then answers."""

    def __init__(self, *messages: str):
        self.messages, self.asked = list(messages), 0

    def __call__(self) -> str:
        self.asked += 1
        if self.messages:
            raise OSError(self.messages.pop(0))
        return "answer"


@pytest.fixture
def waits(monkeypatch) -> list[float]:
    waits: list[float] = []
    monkeypatch.setattr(whole_files.time, "sleep", waits.append)
    monkeypatch.setattr(whole_files, "_answered", set())
    return waits


def test_a_store_that_answered_once_may_be_silent_for_minutes(waits, capsys) -> None:
    outlasting("the store", Store(), OSError)
    assert outlasting("the store", Store(*["AWS Error NETWORK_CONNECTION during PutObject"] * 20), OSError) == "answer"
    assert sum(waits) == 0.2 + 0.5 + 1 + 2 + 4 + 15 * 8
    assert capsys.readouterr().out == "the store does not answer any more: waiting up to 10 min\n"
    with pytest.raises(OSError, match="NETWORK_CONNECTION"):
        outlasting("the store", Store(*["NETWORK_CONNECTION"] * 100), OSError)


def test_a_store_that_never_answered_is_misspelt_and_one_that_denies_does_not_change_its_mind(waits) -> None:
    for message in ("NETWORK_CONNECTION", "ACCESS_DENIED"):
        store = Store(message)
        with pytest.raises(OSError, match=message):
            outlasting("the store", store, OSError)
        assert store.asked == 1
        outlasting("the store", Store(), OSError)
    assert waits == []


def test_while_a_store_is_silent_for_the_first_time_it_is_said(waits, monkeypatch, capsys) -> None:
    said = threading.Event()
    stderr = whole_files.sys.stderr
    monkeypatch.setattr(whole_files, "_SILENCE_S", 0.0)
    monkeypatch.setattr(stderr, "flush", lambda flush=stderr.flush: (flush(), said.set()))
    assert outlasting("the store", lambda: said.wait(60), OSError)
    assert "the store has not answered yet" in capsys.readouterr().err
    outlasting("the store", Store(), OSError)
    assert capsys.readouterr().err == ""


def test_a_busy_store_is_asked_again_for_seconds(waits) -> None:
    assert outlasting("the store", Store("Slow Down", "503 unavailable"), OSError) == "answer"
    assert waits == [0.2, 0.5]
    with pytest.raises(OSError, match="Slow"):
        outlasting("the store", Store(*["Slow Down"] * 9), OSError)


@pytest.mark.parametrize("write", [lambda path: write_whole(LOCAL, path, b"x"), lambda path: create_whole(path, b"x")])
def test_a_pipe_stays_a_pipe(write, tmp_path):
    path = tmp_path / "pipe"
    os.mkfifo(path)
    with pytest.raises(OSError, match="No such device or address"):
        write(str(path))
    assert path.is_fifo()
    with pytest.raises(StorageError, match="is a device, a pipe or a socket, expected a file"):
        storage.write_bytes(str(path), b"x")


def filled(path: str, data: bytes) -> None:
    storage.write_file(path, lambda file: file.write(data))


@pytest.mark.parametrize("target", ["there.txt", "not/yet/there.txt"])
@pytest.mark.parametrize("write", [storage.write_bytes, storage.write_once, filled])
def test_a_link_stays_and_what_it_points_to_is_written(write, target, tmp_path):
    (tmp_path / "link.txt").symlink_to(target)
    if write is not storage.write_once and target == "there.txt":
        (tmp_path / target).write_text("old")
    write(str(tmp_path / "link.txt"), b"new")
    assert (tmp_path / "link.txt").readlink() == Path(target)
    assert (tmp_path / target).read_bytes() == b"new"
    assert not list(tmp_path.rglob(".unfinished*"))
