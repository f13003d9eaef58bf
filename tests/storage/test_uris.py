import os
import urllib.request
from pathlib import Path

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from ray_lidarseg import storage
from ray_lidarseg.errors import LidarSegError, StorageError
from ray_lidarseg.storage import object_store, uris
from ray_lidarseg.storage.uris import Place, parse

ODD = st.text(st.sampled_from("ab0?#%2. +&=:@\\'\"é~;"), min_size=1, max_size=8)


@pytest.mark.parametrize(
    ("uri", "place"),
    [
        ("/data/what?/a#b/50%20.bin", Place("", "/data/what?/a#b/50%20.bin")),
        ("file:///data/a%20b/c d", Place("", "/data/a b/c d")),
        ("file://localhost/data/%3F%23%25", Place("", "/data/?#%")),
        ("s3://logs", Place("logs", "")),
        ("s3://logs/day#1/", Place("logs", "day#1")),
        ("s3://logs/50%20/a b?c", Place("logs", "50%20/a b?c")),
        ("s3://logs/a?scheme=http&endpoint_override=h:9", Place("logs", "a", "scheme=http&endpoint_override=h:9")),
        ("s3://logs/what?/a?region=eu", Place("logs", "what?/a", "region=eu")),
        ("s3://logs/a?region=eu/b", Place("logs", "a?region=eu/b")),
    ],
)
def test_what_a_uri_means(uri: str, place: Place) -> None:
    assert parse(uri) == place


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("gs://logs/a", "expected a path, file://… or s3://BUCKET/…"),
        ("S3://logs/a", "expected a path, file://… or s3://BUCKET/…"),
        ("file://data/a", "expected file:///ABSOLUTE/PATH"),
        ("file:///a?b", "[?] as %3F"),
        ("file:///a#b", "# as %23"),
        ("file:///50%", "% as %25"),
        ("file:///%FF", "not UTF-8"),
        ("a\0b", "NUL"),
        ("a\udcff", "not UTF-8: rename it"),
        ("s3:/logs/a", "expected s3:// with two slashes"),
        ("file:/a", "expected file:// with two slashes"),
        ("S3:/logs/a", "expected S3:// with two slashes"),
        ("s3:///a", "'' is no name of a bucket"),
        ("s3://logs/a//b", "empty part"),
        ("s3://logs//a", "empty part"),
        ("s3://logs/a/../b", "S3 clients disagree"),
        ("s3://logs/./b", "S3 clients disagree"),
        ("s3://logs/a\nb", "control character"),
        ("s3://logs/" + "é" * 513, "longer than the 1024 bytes"),
    ],
)
def test_what_no_storage_keeps_is_refused(uri: str, message: str) -> None:
    with pytest.raises(StorageError, match=message):
        parse(uri)


@pytest.mark.parametrize(
    "uri",
    ["s3://AKIA:se/cr+et@logs/a", "s3://AKIA:se/cr+et@logs", "s3://AKIA@logs/a", "s3://AKIA:se/cr+et/logs"],
)
def test_credentials_in_a_uri_are_refused_and_not_shown(uri: str) -> None:
    for use in (storage.read_bytes, storage.absolute, lambda uri: storage.join(uri, "b"), storage.name_of):
        with pytest.raises(StorageError, match="set AWS_ACCESS_KEY_ID") as caught:
            use(uri)
        assert "cr+et" not in str(caught.value)
        assert "AKIA" not in str(caught.value)


def test_no_message_of_ours_shows_credentials() -> None:
    text = "cannot use 's3://AKIA:se/cr+et@logs/a' and s3://logs/b?secret_key=abc&region=eu, file /a@b"
    assert str(LidarSegError(text)) == "cannot use 's3://…@logs/a' and s3://logs/b?secret_key=…&region=eu, file /a@b"


@pytest.mark.parametrize(
    ("uri", "parts"),
    [
        ("s3://logs/a/b.bin?scheme=http", ("logs", "a", "b.bin")),
        ("/a/b?c/d.bin", ("a", "b?c", "d.bin")),
        ("file:///a/b%20c.bin", ("a", "b c.bin")),
    ],
)
def test_parts_and_name(uri: str, parts: tuple[str, ...]) -> None:
    assert uris.parts_of(uri) == parts
    assert uris.name_of(uri) == parts[-1]


@pytest.mark.parametrize(
    ("manifest", "path", "found"),
    [
        ("/logs/m.jsonl", "a?/b.bin", "/logs/a?/b.bin"),
        ("/logs/m.jsonl", "../b.bin", "/logs/../b.bin"),
        ("/logs/m.jsonl", "s3://x/b.bin", "s3://x/b.bin"),
        ("file:///my%20logs/m.jsonl", "b%20.bin", "/my logs/b%20.bin"),
        ("s3://logs/d/m.jsonl", "a#b.bin", "s3://logs/d/a#b.bin"),
        ("s3://logs/d/m.jsonl?scheme=http", "../b.bin", "s3://logs/b.bin?scheme=http"),
        ("s3://logs/m.jsonl", "/mnt/b.bin", "/mnt/b.bin"),
    ],
)
def test_paths_beside_a_manifest(manifest: str, path: str, found: str) -> None:
    assert uris.beside(manifest, path) == found


def test_a_slash_too_few_is_no_folder_beside_a_manifest() -> None:
    with pytest.raises(StorageError, match="expected s3:// with two slashes"):
        uris.beside("/logs/m.jsonl", "s3:/logs/b.bin")
    assert parse("./s3:/a").path.endswith("/s3:/a")


@pytest.mark.parametrize(
    ("uri", "folder"),
    [
        ("/a?/b.bin", "/a?"),
        ("file:///a%20/b.bin", "/a "),
        ("s3://logs/a#/b.bin", "s3://logs/a#"),
        ("s3://logs/b.bin?scheme=http", "s3://logs/?scheme=http"),
    ],
)
def test_the_folder_of_a_file(uri: str, folder: str) -> None:
    assert uris.folder_of(uri) == folder


def test_a_path_does_not_climb_out_of_a_bucket() -> None:
    with pytest.raises(StorageError, match="climbs out of the bucket"):
        uris.beside("s3://logs/d/m.jsonl", "../../b.bin")


def test_a_name_that_looks_like_an_option_is_refused() -> None:
    with pytest.raises(StorageError, match="looks like an option"):
        storage.join("s3://logs/a", "b?region=eu")


@given(st.lists(ODD, min_size=2, max_size=4, unique=True))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_folders_of_any_name_hold_their_own_files(tmp_path: Path, names: list[str]) -> None:
    assume(not {".", "..", "~"}.intersection(names))
    for number, name in enumerate(names):
        for folder in (f"{tmp_path}/{name}", storage.join(f"file://{tmp_path}", name)):
            storage.write_bytes(storage.join(folder, name), b"%d" % number)
            assert storage.list_files(folder) == [storage.join(folder, name)]
            assert storage.read_bytes(storage.list_files(folder)[0]) == b"%d" % number
    assert all((tmp_path / name / name).read_bytes() == b"%d" % number for number, name in enumerate(names))


@pytest.fixture(scope="module")
def endpoint():
    server_module = pytest.importorskip("moto.server", reason="needs the moto package's S3 server")
    server = server_module.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    urllib.request.urlopen(urllib.request.Request(f"http://{host}:{port}/keys", method="PUT")).close()
    keys = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_REGION": "us-east-1"}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {**keys, "AWS_ENDPOINT_URL": f"http://{host}:{port}"}.items():
            patch.setenv(name, value)
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        yield f"http://{host}:{port}"
    server.stop()


@given(name=ODD, number=st.integers(0, 9))
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_both_clients_mean_the_key_that_was_typed(endpoint: str, name: str, number: int) -> None:
    assume(name not in (".", ".."))
    data, client = b"%d" % number, object_store._client("")
    storage.remove_folder("s3://keys/d")
    assert object_store.create(storage.join("s3://keys/d", name), data)  # boto3
    assert storage.read_bytes(f"s3://keys/d/{name}") == data  # arrow
    storage.write_bytes(f"s3://keys/d/{name}.2", data)
    keys = {entry["Key"] for entry in client.list_objects_v2(Bucket="keys", Prefix="d/")["Contents"]}
    assert keys == {f"d/{name}", f"d/{name}.2"}
    assert set(storage.list_files("s3://keys/d")) == {f"s3://keys/d/{name}", f"s3://keys/d/{name}.2"}


def test_names_that_are_not_utf_8_and_names_too_long_are_said_so(tmp_path: Path) -> None:
    with open(os.fsencode(tmp_path) + b"/\xff.bin", "wb"):
        pass
    with pytest.raises(StorageError, match="not UTF-8: rename it"):
        storage.list_files(str(tmp_path))
    with pytest.raises(StorageError, match="longer than this file system allows"):
        storage.read_bytes(f"{tmp_path}/{'a' * 300}")


@pytest.fixture
def linked(tmp_path: Path) -> Path:
    """A link ``data/link`` to ``data/real/sub``, with ``scans/0.bin`` beside both."""
    for folder in ("data/real/sub", "data/real/scans", "data/scans"):
        (tmp_path / folder).mkdir(parents=True)
    for folder in ("real/", ""):
        (tmp_path / f"data/{folder}scans/0.bin").write_text(folder)
    (tmp_path / "data/link").symlink_to("real/sub")
    return tmp_path / "data"


@pytest.mark.parametrize("scheme", ["", "file://"])
def test_two_dots_behind_a_link_lead_where_open_goes(linked: Path, scheme: str) -> None:
    named = uris.beside(f"{scheme}{linked}/link/manifest.jsonl", "../scans/0.bin")
    assert storage.read_bytes(named) == (linked / "link/../scans/0.bin").read_bytes() == b"real/"
    assert storage.absolute(f"{linked}/link/../new//") == f"{os.path.realpath(linked)}/real/new"
    assert storage.absolute(f"{linked}/link/../..") == os.path.realpath(linked)


def test_two_dots_elsewhere_keep_the_links_as_they_were_typed(linked: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (linked.parent / "alias").symlink_to("data")
    assert storage.absolute(f"{linked.parent}/alias/real/../scans") == f"{linked.parent}/alias/scans"
    assert storage.absolute(f"{linked}/real/../link/0.bin") == f"{linked}/link/0.bin"
    assert storage.absolute("/../a/../b/..") == "/"
    monkeypatch.chdir(linked / "link")
    assert storage.absolute("../scans/0.bin") == f"{os.path.realpath(linked)}/real/scans/0.bin"
