"""The one parser of URIs: a plain local path, ``file://`` or ``s3://``, to the place it means.

========== ============================================================================================================
plain path as typed: ``?``, ``#``, ``%`` and blanks are ordinary characters; made absolute, ``~`` is the home folder,
           ``..`` is what ``open`` takes it for
file://    an absolute path, percent-encoded as URIs are: ``file:///a%20b`` is ``/a b``; a blank may stay a blank
s3://      ``s3://BUCKET/KEY``, the key as typed, as the S3 tools take it: ``day#1``, ``50%20`` and ``a b`` are three
           keys. Only an ending like ``?endpoint_override=HOST&scheme=http`` (or ``region=``) is no part of the key
========== ============================================================================================================

Keys that two clients take for two objects are refused before anything is read or written: those with an empty part,
with ``.`` or ``..`` as a part (both clients send them, the HTTP libraries below fold them) or with control characters.
"""

import os
import posixpath
import re
from dataclasses import dataclass
from urllib.parse import quote, unquote_to_bytes

from ray_lidarseg.errors import StorageError

_FILE, _S3 = "file://", "s3://"
_OPTIONS = re.compile(r"(?s)(.*)\?((?:(?:endpoint_override=[^&?#]*|(?:region|scheme)=[\w-]*)(?:&|$))+)$")
_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,254}")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_ONE_SLASH = re.compile(r"(?i)(s3|file|gs|gcs|https?|hdfs|abfss?|az):/(?!/)")
_BAD_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")
_SHOWN = 300
_MAX_KEY_BYTES = 1024  # S3's own limit


@dataclass(frozen=True)
class Place:
    """Where a URI points.

    Attributes:
        bucket: Of an ``s3://`` URI; ``""``: a local path.
        path: Absolute local path, or key without slashes at its ends.
        options: What followed the ``?`` of an ``s3://`` URI, ``""`` without one.
    """

    bucket: str
    path: str
    options: str = ""

    @property
    def is_local(self) -> bool:
        """Whether it lies on a file system of this machine."""
        return not self.bucket


def parse(uri: str) -> Place:
    """The place a URI means; no storage is asked, but the disk where a ``..`` may be behind a symbolic link.

    Raises:
        StorageError: An unknown scheme, credentials inside, or a name that no storage keeps as it is.
    """
    scheme, mark, rest = uri.partition("://")
    if not _is_text(uri):
        raise StorageError(f"cannot use {_shown(uri)}: the name is not UTF-8: rename it")
    if "\0" in uri:
        raise StorageError(f"cannot use {_shown(uri)}: a name cannot hold the character NUL")
    _refuse_one_slash(uri)
    if not mark:
        return Place("", _absolute(uri))
    if scheme == "file":
        return Place("", _absolute(_unescaped(uri, rest)))
    if scheme == "s3":
        return _of_s3(uri, rest)
    raise StorageError(f"cannot use {_shown(uri)}: expected a path, file://… or s3://BUCKET/…")


def _refuse_one_slash(uri: str) -> None:
    """``s3:/logs`` would be a folder ``s3:`` of this machine."""
    if found := _ONE_SLASH.match(uri):
        raise StorageError(
            f"cannot use {_shown(uri)}: expected {found[1]}:// with two slashes (a folder: ./{found[1]}:)"
        )


def is_local(uri: str) -> bool:
    """Whether the URI lies on a file system of this machine (or one mounted there)."""
    return "://" not in uri or uri.startswith(_FILE)


def name_of(uri: str) -> str:
    """The last part of the path a URI means, such as ``0001.bin``."""
    return parse(uri).path.rpartition("/")[2]


def parts_of(uri: str) -> tuple[str, ...]:
    """The parts of the path a URI means, a bucket first."""
    place = parse(uri)
    return tuple(part for part in (place.bucket, *place.path.split("/")) if part)


def absolute(uri: str) -> str:
    """The one way to write a place, whatever the working directory (Ray workers run in another one)."""
    place = parse(uri)
    if place.is_local:
        return place.path
    base, options = _split_options(uri)
    return f"{base.rstrip('/')}?{options}" if options else base.rstrip("/")


def folder_of(uri: str) -> str:
    """The URI of the folder that something lies in, absolute."""
    place = parse(uri)
    if place.is_local:
        return os.path.dirname(place.path)
    return join(_root(place), posixpath.dirname(place.path))


def beside(uri: str, path: str) -> str:
    """The URI of a path as a file at ``uri`` means it: relative to the file's folder, absolute, or a URI itself.

    Raises:
        StorageError: See ``parse``; or the path climbs out of the bucket.
    """
    _refuse_one_slash(path)
    if "://" in path or path.startswith("/"):
        parse(path)
        return path
    if "://" not in uri:
        folder, slash, _ = uri.rpartition("/")
        parse(path)
        return f"{folder}{slash}{path}"
    place = parse(uri)
    if place.is_local:
        return parse(os.path.join(os.path.dirname(place.path), path)).path
    key = posixpath.normpath(posixpath.join("/", posixpath.dirname(place.path), path))
    if posixpath.normpath(posixpath.join(posixpath.dirname(place.path), path)).startswith(".."):
        raise StorageError(f"cannot use {_shown(path)} of {_shown(uri)}: it climbs out of the bucket")
    return join(_root(place), key)


def join(uri: str, *parts: str) -> str:
    """The URI of something inside the folder ``uri``; the options of an ``s3://`` URI stay at its end.

    Raises:
        StorageError: The name cannot be told from options, or no storage keeps it as it is.
    """
    names = [part.strip("/") for part in parts]
    base, options = uri, ""
    if uri.startswith(_FILE):
        names = [quote(name) for name in names]
    elif uri.startswith(_S3):
        base, options = _split_options(uri)
    joined = "/".join([base.rstrip("/") or base, *names])
    if uri.startswith(_S3) and _OPTIONS.match(joined):
        raise StorageError(f"cannot use {_shown(joined)}: its end looks like an option of the URI: rename it")
    joined = f"{joined}?{options}" if options else joined
    if uri.startswith(_S3):
        parse(joined)
    return joined


def _root(place: Place) -> str:
    return f"{_S3}{place.bucket}?{place.options}" if place.options else f"{_S3}{place.bucket}"


def _of_s3(uri: str, rest: str) -> Place:
    authority = rest.partition("/")[0]
    if "@" in authority or ":" in authority:
        shown = f"s3://…@{rest.rpartition('@')[2]:.200}" if "@" in rest else "s3://…"
        raise StorageError(
            f"cannot use {shown}: credentials inside a URI end up in files and logs; set AWS_ACCESS_KEY_ID and "
            "AWS_SECRET_ACCESS_KEY in the environment and write s3://BUCKET/…"
        )
    base, options = _split_options(rest)
    bucket, _, key = base.partition("/")
    key = key.removesuffix("/")
    if not _BUCKET.fullmatch(bucket):
        raise StorageError(f"cannot use {_shown(uri)}: {_shown(bucket)} is no name of a bucket: expected s3://BUCKET/…")
    if key and not _is_kept_by_every_client(key):
        raise StorageError(
            f"cannot use {_shown(uri)}: the key has an empty part (//), a part '.' or '..', or a control character: "
            "S3 clients disagree about which object it is; rename it"
        )
    if len(key.encode()) > _MAX_KEY_BYTES:
        raise StorageError(f"cannot use {_shown(uri)}: its key is longer than the {_MAX_KEY_BYTES} bytes S3 allows")
    return Place(bucket, key, options)


def _split_options(text: str) -> tuple[str, str]:
    found = _OPTIONS.match(text)
    return (found[1], found[2]) if found else (text, "")


def _is_kept_by_every_client(key: str) -> bool:
    return not (_CONTROL.search(key) or {"", ".", ".."}.intersection(key.split("/")))


def _unescaped(uri: str, rest: str) -> str:
    path = rest.removeprefix("localhost")
    if not path.startswith("/") or "?" in path or "#" in path or _BAD_ESCAPE.search(path):
        raise StorageError(
            f"cannot use {_shown(uri)}: expected file:///ABSOLUTE/PATH with ? as %3F, # as %23 and % as %25; a "
            "plain path needs no such writing"
        )
    name = os.fsdecode(unquote_to_bytes(path))
    if not _is_text(name) or "\0" in name:
        raise StorageError(f"cannot use {_shown(uri)}: the name is not UTF-8: rename it")
    return name


def _absolute(path: str) -> str:
    """The path without ``..``, which behind a symbolic link leads to the folder of what the link points to."""
    expanded = os.path.expanduser(path)
    folded = os.path.abspath(expanded)
    if ".." not in expanded.split("/"):
        return folded
    to_last, _, rest = f"{os.path.join(os.getcwd(), expanded)}/".rpartition("/../")
    parent = os.path.realpath(f"{to_last}/..")
    if parent == os.path.realpath(os.path.abspath(f"{to_last}/..")):
        return folded  # links stay as typed where they may: shards and indexes know their files by that name
    return os.path.abspath(os.path.join(parent, rest.strip("/")))


def _shown(uri: str) -> str:
    """As messages show it: a long one by its beginning."""
    beginning = uri[:_SHOWN]
    text = repr(beginning) if _is_text(beginning) else ascii(beginning)
    return text if len(uri) <= _SHOWN else f"{text}…"


def _is_text(name: str) -> bool:
    """Whether it can be written as UTF-8: names of other encodings come as lone surrogates."""
    return not any("\ud800" <= letter <= "\udfff" for letter in name)
