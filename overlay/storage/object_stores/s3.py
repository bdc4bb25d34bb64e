"""S3, and what speaks its protocol, through s3fs.

Endpoint, region, profile and keys are found by the client as everywhere (``AWS_ENDPOINT_URL``, ``AWS_PROFILE``, …);
``FSSPEC_S3_*`` and ``~/.config/fsspec`` give further options of s3fs.  A range is asked for with ``If-Match``, so that an
object that was written anew is refused by the store itself.

Source: https://docs.aws.amazon.com/AmazonS3/latest/API/API_GetObject.html, API_ListObjectsV2.html
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from overlay.storage.object_stores.addresses import Folder, as_reason, is_inside
from overlay.storage.object_stores.answers import MAX_OBJECTS, PIECE, Extent, Kind, Refusal, not_installed
from overlay.storage.remote import RemoteFile

_PATIENCE: Final = {"connect_timeout": 10, "read_timeout": 60, "retries": {"total_max_attempts": 1}}
"""Of the client under s3fs; `reading` does the repeating, so that attempts do not multiply."""

PAGE: Final = 1000
"""Objects that an answer lists; the protocol allows no more."""

_RANGE: Final = re.compile(r"bytes ([0-9]+)-([0-9]+)/([0-9]+)")
_DENIED: Final = ("Credential", "Token", "Profile", "Login", "SSO")
"""In the names of what botocore raises when it finds no usable keys."""

_KINDS: Final = {
    401: Kind.DENIED,
    403: Kind.DENIED,
    404: Kind.GONE,
    410: Kind.GONE,
    412: Kind.CHANGED,
    416: Kind.CHANGED,
    408: Kind.BUSY,
    409: Kind.BUSY,
    429: Kind.BUSY,
}


class S3:
    """The way to a folder of a bucket: a `Wire`."""

    def __init__(self, folder: Folder) -> None:
        try:
            import fsspec
            from fsspec.asyn import sync

            options = fsspec.config.conf.get("s3", {}).get("config_kwargs", {})
            self._system: Any = fsspec.filesystem(
                "s3", skip_instance_cache=True, use_listings_cache=False, config_kwargs={**_PATIENCE, **options}
            )
        except ImportError:
            raise not_installed("s3", folder.address) from None
        self._system.retries = 1
        self._sync = sync
        self._folder = folder

    def files(self) -> Mapping[str, RemoteFile]:
        """Every object under the folder, a thousand an answer.

        Raises:
            Refusal: the store does not say, or there are too many.
        """
        prefix = f"{self._folder.path}/" if self._folder.path else ""
        found: dict[str, RemoteFile] = {}
        more: dict[str, str] = {}
        while True:
            page = self._call("list_objects_v2", Prefix=prefix, MaxKeys=PAGE, **more)
            for entry in page.get("Contents") or ():
                name = str(entry["Key"])[len(prefix) :]
                if is_inside(name):
                    found[name] = RemoteFile(name, int(entry["Size"]), oid=_plain(entry.get("ETag")))
            if len(found) > MAX_OBJECTS:
                raise Refusal(Kind.UNABLE, f"expected at most {MAX_OBJECTS} objects under one folder, found more")
            if not page.get("IsTruncated"):
                return found
            more = {"ContinuationToken": page["NextContinuationToken"]}

    def open(self, file: RemoteFile, begin: int, end: int) -> S3Answer:
        """Ask for a range of an object.

        Raises:
            Refusal: there is no such answer.
        """
        wanted = {"Range": f"bytes={begin}-{end - 1}"}
        if file.oid:
            wanted["IfMatch"] = f'"{file.oid}"'
        answer = self._call("get_object", Key=self._folder.key(file.path), **wanted)
        match = _RANGE.fullmatch(answer.get("ContentRange") or "")
        body = S3Answer(self._sync, self._system.loop, answer["Body"])
        if match is None:
            body.close()
            status = answer.get("ResponseMetadata", {}).get("HTTPStatusCode")
            raise Refusal(Kind.UNABLE, f"expected status 206 and a Content-Range, found status {status}")
        body.extent = Extent(int(match[1]), int(match[2]) + 1, int(match[3]), _plain(answer.get("ETag")))
        return body

    def _call(self, operation: str, **arguments: Any) -> dict[str, Any]:
        try:
            answer: dict[str, Any] = self._system.call_s3(operation, Bucket=self._folder.host, **arguments)
        except Exception as error:  # s3fs, botocore and aiohttp raise what they like
            raise _refusal(error) from None
        return answer


class S3Answer:
    """The body of an object on its way: an `Answer`."""

    extent: Extent

    def __init__(self, sync: Any, loop: Any, body: Any) -> None:
        self._sync, self._loop, self._body = sync, loop, body

    def read(self) -> bytes:
        """The next piece.

        Raises:
            Refusal: the connection broke.
        """
        try:
            piece: bytes = self._sync(self._loop, self._body.read, PIECE)
        except Exception as error:  # as above
            raise Refusal(Kind.BUSY, as_reason(error)) from None
        return piece

    def close(self) -> None:
        """Nobody reads on; a body that was not read to its end takes its connection with it."""

        async def close() -> None:
            self._body.close()

        self._sync(self._loop, close)


def _plain(etag: object) -> str:
    """An ETag without its quotation marks."""
    return str(etag or "").strip('"')


def _refusal(error: Exception) -> Refusal:
    """What a library raised, as one of ours: by the status of the answer, where there was one."""
    answered = getattr(error.__cause__ or error, "response", None)
    if isinstance(answered, dict):
        status = int(answered.get("ResponseMetadata", {}).get("HTTPStatusCode") or 0)
        code = str(answered.get("Error", {}).get("Code") or "")
        kind = _KINDS.get(status, Kind.BUSY if status >= 500 else Kind.UNABLE)
        if code in ("SlowDown", "RequestTimeout", "ServiceUnavailable"):
            kind = Kind.BUSY
        return Refusal(kind, f"status {status}" if code in ("", str(status)) else f"{code} (status {status})")
    if isinstance(error, PermissionError) or any(part in type(error).__name__ for part in _DENIED):
        return Refusal(Kind.DENIED, as_reason(error))
    if isinstance(error, FileNotFoundError):
        return Refusal(Kind.GONE, as_reason(error))
    return Refusal(Kind.BUSY if not isinstance(error, ValueError) else Kind.UNABLE, as_reason(error))
