"""One writer a folder: who holds it, who is dead, and what the second one is told."""

import json
import os
import subprocess
import sys
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from ray_lidarseg import storage
from ray_lidarseg.errors import StorageError
from ray_lidarseg.storage import lock
from tests.storage.s3_server import Faults, s3_server, variables


@pytest.fixture(scope="module")
def bucket():
    pytest.importorskip("moto.server", reason="needs the moto package's S3 server")
    with s3_server(Faults()) as endpoint:
        urllib.request.urlopen(urllib.request.Request(f"{endpoint}/locks", method="PUT")).close()
        yield endpoint


@pytest.fixture(params=["local", "s3"])
def folder(request, tmp_path, monkeypatch):
    if request.param == "local":
        return str(tmp_path / "out")
    for name, value in variables(request.getfixturevalue("bucket")).items():
        monkeypatch.setenv(name, value)
    return f"s3://locks/{tmp_path.name}"


def left_by(folder: str, **changes: str) -> None:
    """A lock as another process would have left it."""
    owner = {**lock._self("train"), **changes}
    storage.write_bytes(storage.join(folder, lock.LOCK_NAME), json.dumps(owner).encode())


def is_locked(folder: str) -> bool:
    return storage.exists(storage.join(folder, lock.LOCK_NAME))


def test_the_second_writer_is_told_who_the_first_is(folder):
    with lock.held(folder, "prepare"):
        message = (
            rf"is in use: `ray-lidarseg prepare`, process {os.getpid()} on \S+, works in it since 20.*another folder"
        )
        with pytest.raises(StorageError, match=message), lock.held(folder, "train"):
            pass
        assert is_locked(folder)
    assert not is_locked(folder)
    with lock.held(folder, "train"):
        assert is_locked(folder)


def test_an_error_in_the_block_gives_the_folder_back(folder):
    with pytest.raises(ZeroDivisionError), lock.held(folder, "train"):
        raise ZeroDivisionError
    assert not is_locked(folder)


def test_of_many_at_once_one_gets_it(folder):
    def attempt(number: int) -> bool:
        try:
            with lock.held(folder, "train"):
                time.sleep(0.5)
                return True
        except StorageError:
            return False

    with ThreadPoolExecutor(5) as threads:
        assert sum(threads.map(attempt, range(5))) == 1


def test_a_killed_owner_on_this_machine_is_noticed_at_once(tmp_path, capsys):
    code = "import sys, time\nfrom ray_lidarseg.storage.lock import held\nwith held(sys.argv[1], 'train'):\n print(1)\n"
    code += " sys.stdout.flush()\n time.sleep(60)"
    owner = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE)
    assert owner.stdout.readline() == b"1\n"
    with pytest.raises(StorageError, match=f"process {owner.pid} on"), lock.held(str(tmp_path), "train"):
        pass
    owner.kill()
    owner.wait()
    with lock.held(str(tmp_path), "train"):
        assert f"process {owner.pid} on" in capsys.readouterr().out


def test_another_process_that_got_the_number_of_a_dead_one_is_not_its_owner(folder):
    left_by(folder, process_start="1")
    with lock.held(folder, "train"):
        pass


def test_a_lock_of_another_host_that_is_not_renewed_is_broken(folder, monkeypatch, capsys):
    monkeypatch.setattr(lock, "_DEAD_S", 2.5)
    left_by(folder, machine="elsewhere", host="node-7")
    with lock.held(folder, "train"):
        said = capsys.readouterr().out
    assert "in use by node-7; looking whether it is alive" in said
    assert "on node-7 is gone, going on" in said
    assert not is_locked(folder)


def test_a_lock_of_another_host_that_is_renewed_is_kept(folder, monkeypatch):
    monkeypatch.setattr(lock, "_DEAD_S", 30.0)
    monkeypatch.setattr(lock, "_BEAT_S", 1.5)
    monkeypatch.setattr(lock, "_machine", lambda: "elsewhere")
    with lock.held(folder, "train"):
        monkeypatch.setattr(lock, "_machine", lambda: "here")
        time.sleep(1.2)
        with pytest.raises(StorageError, match="is in use"), lock.held(folder, "train"):
            pass


def test_a_file_that_says_nothing_is_a_lock_that_grows_old(folder, monkeypatch):
    monkeypatch.setattr(lock, "_DEAD_S", 0.0)
    for content in (b"", b"[1]", b"\xff{"):
        storage.write_bytes(storage.join(folder, lock.LOCK_NAME), content)
        with lock.held(folder, "train"):
            pass


def test_an_owner_thought_dead_stops_and_leaves_the_lock_of_the_other(folder, monkeypatch):
    monkeypatch.setattr(lock, "_BEAT_S", 0.2)

    def work_and_lose_it() -> None:
        with lock.held(folder, "train"):
            left_by(folder, host="node-7")
            time.sleep(20)

    with pytest.raises(StorageError, match="was taken over by another process"):
        work_and_lose_it()
    assert is_locked(folder)


def test_a_folder_that_cannot_be_written(tmp_path: Path):
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match="a part of the path is a file"), lock.held(f"{tmp_path}/file/x", "train"):
        pass
