"""What boto3 adds to pyarrow, and what both do when the store is busy, against a server that speaks S3."""

import urllib.request
from concurrent.futures import ThreadPoolExecutor

import pytest

from ray_lidarseg import storage
from ray_lidarseg.errors import StorageError
from ray_lidarseg.storage import object_store
from tests.storage.s3_server import Faults, s3_server, variables


@pytest.fixture(scope="module")
def server():
    pytest.importorskip("moto.server", reason="needs the moto package's S3 server")
    faults = Faults()
    with s3_server(faults) as endpoint:
        urllib.request.urlopen(urllib.request.Request(f"{endpoint}/logs", method="PUT")).close()
        yield faults, endpoint


@pytest.fixture
def faults(server, monkeypatch):
    faults, endpoint = server
    faults.__init__()
    for name, value in variables(endpoint).items():
        monkeypatch.setenv(name, value)
    return faults


def test_of_many_writers_at_once_one_wins_and_all_learn_what_is_there(faults):
    with ThreadPoolExecutor(6) as threads:
        seen = set(threads.map(lambda n: storage.write_once("s3://logs/a/layer.json", f"{n}".encode()), range(6)))
    assert len(seen) == 1
    assert seen == {storage.read_bytes("s3://logs/a/layer.json")}


def test_an_address_in_the_query_counts(server, faults, monkeypatch):
    monkeypatch.delenv("AWS_ENDPOINT_URL")
    uri = f"s3://logs/q/x.json?endpoint_override={server[1].removeprefix('http://')}&scheme=http"
    assert object_store.create(uri, b"here")
    assert not object_store.create(uri, b"again")
    assert storage.read_bytes(uri) == b"here"


def test_large_objects_go_up_in_parts_and_come_back_whole(faults, monkeypatch):
    monkeypatch.setattr(object_store, "MULTIPART_BYTES", 5 << 20)
    monkeypatch.setattr(object_store, "_PART_BYTES", 5 << 20)
    data = bytes(range(256)) * (12 << 12)
    storage.write_bytes("s3://logs/large.bin", data)
    assert storage.read_bytes("s3://logs/large.bin") == data
    head = object_store._client("").head_object(Bucket="logs", Key="large.bin")
    assert head["ETag"].strip('"').endswith("-3")


def test_a_bucket_that_is_not_there_is_no_empty_folder(faults):
    assert storage.list_files("s3://absent/x") == []
    with pytest.raises(StorageError, match=r"cannot list s3://absent/x: the bucket does not exist: create it"):
        storage.check_listable("s3://absent/x")
    storage.check_listable("s3://logs/x")


@pytest.mark.parametrize(
    "ask",
    [
        lambda: storage.check_listable("s3://logs/x"),
        lambda: storage.check_writable("s3://logs/x"),
        lambda: storage.write_once("s3://logs/x/y", b""),
    ],
)
def test_a_bucket_without_permission_says_what_to_check(faults, ask):
    faults.denied = True
    with pytest.raises(StorageError, match=r"s3://logs/x.*: access denied: check AWS_ACCESS_KEY_ID"):
        ask()


def test_a_server_that_fails_every_third_request_and_is_slow_costs_time_only(faults):
    faults.fail_every, faults.slow_every = 3, 4
    for number in range(3):
        storage.write_bytes(f"s3://logs/busy/{number}", b"%d" % number)
        assert storage.write_once(f"s3://logs/busy/{number}.json", b"x") == b"x"
    assert [storage.read_bytes(f"s3://logs/busy/{number}") for number in range(3)] == [b"0", b"1", b"2"]
    assert faults.num_failed > 1
    assert faults.num_slow > 1


def test_nobody_at_the_address(faults, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setattr(object_store, "_ATTEMPTS", 1)
    with pytest.raises(StorageError, match=r"no answer from the endpoint: check AWS_ENDPOINT_URL and the network"):
        storage.check_listable("s3://logs/x")
