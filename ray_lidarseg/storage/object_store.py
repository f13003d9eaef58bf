"""What pyarrow's S3 lacks, through boto3: a bucket's existence and permission, parallel multipart upload, write once.

Endpoint, region and credentials come from the same ``AWS_*`` variables; an ``endpoint_override`` in a URI's query,
which pyarrow reads, counts here, too.
"""

import io
import os
from collections.abc import Callable
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from functools import lru_cache
from typing import Any
from urllib.parse import parse_qs

from ray_lidarseg.errors import StorageError
from ray_lidarseg.storage import uris

MULTIPART_BYTES = 64 << 20
"""Larger objects go up in parallel parts. Ours: above it one dropped connection costs minutes."""

_PART_BYTES = 16 << 20
_ATTEMPTS = 8  # of a request that the server fails with 5xx or a time-out; about a minute in all
_CONNECT_S, _READ_S = 10, 60
_CREDENTIALS = "check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and the bucket's policy"
_ADVICE = {
    "403": f"access denied: {_CREDENTIALS}",
    "AccessDenied": f"access denied: {_CREDENTIALS}",
    "404": "the bucket does not exist: create it or correct the name",
    "NoSuchBucket": "the bucket does not exist: create it or correct the name",
    "InvalidAccessKeyId": "unknown access key: check AWS_ACCESS_KEY_ID",
    "SignatureDoesNotMatch": "wrong credentials: check AWS_SECRET_ACCESS_KEY and AWS_REGION",
    "503": "the endpoint is overloaded: the same command continues",
    "SlowDown": "the endpoint is overloaded: the same command continues",
}


def check_bucket(uri: str) -> None:
    """Asks whether the bucket of a URI is there and may be listed; pyarrow shows a missing one as an empty folder.

    Raises:
        StorageError: It is not there, access is denied, or nobody answers.
    """
    bucket, key = _place(uri)
    _asked(uri, "list", lambda: _client(_endpoint(uri)).list_objects_v2(Bucket=bucket, Prefix=key, MaxKeys=1))


def upload(uri: str, data: bytes) -> None:
    """Writes an object in parallel parts; it appears when all are there, and a failed upload leaves none behind.

    Raises:
        StorageError: Denied, no such bucket, or the server kept failing.
    """
    from boto3.s3.transfer import TransferConfig

    bucket, key = _place(uri)
    parts = TransferConfig(multipart_threshold=MULTIPART_BYTES, multipart_chunksize=_PART_BYTES)
    client = _client(_endpoint(uri))
    _asked(uri, "write", lambda: client.upload_fileobj(io.BytesIO(data), bucket, key, Config=parts))


def create(uri: str, data: bytes) -> bool:
    """Writes an object only where there is none (``If-None-Match: *``): of two writers one wins.

    Returns:
        Whether this call wrote it.

    Raises:
        StorageError: Denied, no such bucket, the server kept failing, or it knows no conditional writes.
    """
    from botocore.exceptions import ClientError

    bucket, key = _place(uri)

    def put() -> bool:
        try:
            _client(_endpoint(uri)).put_object(Bucket=bucket, Key=key, Body=data, IfNoneMatch="*")
        except ClientError as error:
            if _code(error) in ("PreconditionFailed", "ConditionalRequestConflict", "412", "409"):
                return False
            raise
        return True

    return _asked(uri, "write", put)


@dataclass(frozen=True)
class Found:
    """An object as it is now.

    Attributes:
        content: All of it.
        etag: What ``replace`` asks for.
        age_s: Seconds since it was written, by the server's clock.
    """

    content: bytes
    etag: str
    age_s: float


def look(uri: str) -> Found | None:
    """A small object with its version and age; None where there is none.

    Raises:
        StorageError: Denied, no such bucket, or the server kept failing.
    """
    from botocore.exceptions import ClientError

    bucket, key = _place(uri)

    def get() -> Found | None:
        try:
            answer = _client(_endpoint(uri)).get_object(Bucket=bucket, Key=key)
        except ClientError as error:
            if _code(error) in ("NoSuchKey", "404"):
                return None
            raise
        now = parsedate_to_datetime(answer["ResponseMetadata"]["HTTPHeaders"]["date"])
        return Found(answer["Body"].read(), answer["ETag"], (now - answer["LastModified"]).total_seconds())

    return _asked(uri, "read", get)


def replace(uri: str, data: bytes, etag: str) -> bool:
    """Writes an object only while it is still the version of that ``etag``; whether this call did.

    Raises:
        StorageError: See ``create``.
    """
    from botocore.exceptions import ClientError

    bucket, key = _place(uri)

    def put() -> bool:
        try:
            _client(_endpoint(uri)).put_object(Bucket=bucket, Key=key, Body=data, IfMatch=etag)
        except ClientError as error:
            if _code(error) in ("PreconditionFailed", "ConditionalRequestConflict", "NoSuchKey", "412", "409", "404"):
                return False
            raise
        return True

    return _asked(uri, "write", put)


def delete(uri: str) -> None:
    """Deletes an object; one that does not exist is fine.

    Raises:
        StorageError: Denied, or the server kept failing.
    """
    bucket, key = _place(uri)
    _asked(uri, "delete", lambda: _client(_endpoint(uri)).delete_object(Bucket=bucket, Key=key))


def _asked(uri: str, action: str, ask: Callable[[], Any]) -> Any:
    from boto3.exceptions import S3UploadFailedError
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        return ask()
    except (BotoCoreError, ClientError, S3UploadFailedError) as error:
        raise StorageError(f"cannot {action} {uri}: {_advice(error)}") from error


def _advice(error: Exception) -> str:
    from botocore.exceptions import ClientError, ConnectionError, HTTPClientError, NoCredentialsError

    if isinstance(error, NoCredentialsError):
        return f"no credentials: {_CREDENTIALS}"
    if isinstance(error, ConnectionError | HTTPClientError):
        return f"no answer from the endpoint: check AWS_ENDPOINT_URL and the network ({error})"
    cause = error if isinstance(error, ClientError) else error.__context__
    code = _code(cause) if isinstance(cause, ClientError) else ""
    return f"{_ADVICE.get(code, 'the storage reports an error')} ({error})"


def _code(error: Any) -> str:
    return str(error.response.get("Error", {}).get("Code", ""))


def _place(uri: str) -> tuple[str, str]:
    place = uris.parse(uri)
    return place.bucket, place.path


def _endpoint(uri: str) -> str:
    query = parse_qs(uris.parse(uri).options)
    override = query.get("endpoint_override", [""])[0]
    if not override or "://" in override:
        return override
    return f"{query.get('scheme', ['https'])[0]}://{override}"


def _client(endpoint: str) -> Any:
    names = ("AWS_ACCESS_KEY_ID", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_REGION", "AWS_PROFILE")
    return _client_of(endpoint, os.getpid(), tuple(os.environ.get(name, "") for name in names))


@lru_cache(maxsize=8)
def _client_of(endpoint: str, process: int, environment: tuple[str, ...]) -> Any:
    import boto3
    from botocore.config import Config

    retries = {"mode": "standard", "max_attempts": _ATTEMPTS}
    config = Config(retries=retries, connect_timeout=_CONNECT_S, read_timeout=_READ_S)
    region = os.environ.get("AWS_REGION") or None  # boto3 itself reads AWS_DEFAULT_REGION alone
    return boto3.session.Session().client("s3", endpoint_url=endpoint or None, region_name=region, config=config)
