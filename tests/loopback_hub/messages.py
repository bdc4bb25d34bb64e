"""What goes over the wire: a request, its response, and refusals, as values.

A route turns a request into a response; a fault may stand between and give another response.  Nothing here knows sockets.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal
from urllib.parse import parse_qs, unquote, urlsplit

from tests.loopback_hub.contents import Contents, contents_of, whole

Origin = Literal["hub", "cdn"]

CDN_FILE = "/files/{kind}/{repository}/{commit}/{path}"
"""Where the CDN serves a large file; the name is there so that logs and faults can be read."""

_FILE_PATHS = tuple(
    re.compile(pattern)
    for pattern in (
        r"/api/resolve-cache/(?:models|datasets|spaces)/(?P<repository>[^/]+/[^/]+)/[^/]+/(?P<file>.+)",
        r"/files/(?:models|datasets|spaces)/(?P<repository>[^/]+/[^/]+)/[^/]+/(?P<file>.+)",
        r"/(?:datasets/|spaces/)?(?P<repository>[^/]+/[^/]+)/resolve/[^/]+/(?P<file>.+)",
        r"/api/(?:models|datasets|spaces)/(?P<repository>[^/]+/[^/]+)(?:/.*)?(?P<file>)",
    )
)


class Headers(dict[str, str]):
    """Headers by name in any case."""

    def __init__(self, items: Iterable[tuple[str, str]]) -> None:
        super().__init__((name.lower(), value) for name, value in items)

    def get(self, name: str, default: Any = None) -> Any:
        return super().get(name.lower(), default)


@dataclass(frozen=True)
class Request:
    """A request as it came in."""

    method: str
    target: str
    """Path and query, quoted as they came."""
    headers: Headers
    body: Contents = field(default_factory=lambda: contents_of(b""))
    origin: Origin = "hub"

    @property
    def path(self) -> str:
        """Quoted: a branch ``refs/pr/1`` is one segment."""
        return urlsplit(self.target).path

    @property
    def query(self) -> dict[str, str]:
        return {name: values[-1] for name, values in parse_qs(urlsplit(self.target).query, True).items()}

    @property
    def repository(self) -> str | None:
        return self._subject()[0]

    @property
    def file(self) -> str | None:
        """The path in the repository, of requests about one file."""
        return self._subject()[1]

    def _subject(self) -> tuple[str | None, str | None]:
        path = unquote(self.path)
        for pattern in _FILE_PATHS:
            if match := pattern.fullmatch(path):
                return match["repository"], match["file"] or None
        return None, None

    @property
    def stage(self) -> Literal["api", "resolve", "bytes", "upload", "commit"]:
        """What the request is for: ``resolve`` asks where a file is, ``bytes`` fetches it."""
        if self.path.startswith(("/files/", "/api/resolve-cache/")):
            return "bytes"
        if "/resolve/" in self.path:
            return "resolve"
        if self.path.startswith("/uploads/") or self.path.endswith("/info/lfs/objects/batch"):
            return "upload"
        return "commit" if "/commit/" in self.path else "api"

    @property
    def token(self) -> str | None:
        """What follows ``Bearer``; None without the header."""
        header = self.headers.get("authorization")
        return header.removeprefix("Bearer ") if header else None

    def text(self) -> str:
        return whole(self.body).decode()

    def document(self) -> Any:
        """The JSON body, an object.

        Raises:
            Refusal: 400, it is not one.
        """
        return _parsed(whole(self.body) or b"{}")

    def lines(self) -> list[Any]:
        """The objects of an NDJSON body.

        Raises:
            Refusal: 400, a line is not one.
        """
        return [_parsed(line) for line in whole(self.body).splitlines() if line.strip()]


@dataclass(frozen=True)
class Response:
    """A response; the body is sent once."""

    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    body: Iterable[bytes] = ()
    length: int | None = 0
    """Content-Length; when the body turns out to be shorter, the connection is cut after it.  None: it is sent in chunks."""

    def pieces(self) -> Iterator[bytes]:
        return iter(self.body)

    @property
    def span(self) -> tuple[int, int, int] | None:
        """First byte, last byte + 1 and size of the file, of a response that carries bytes of one."""
        if match := re.fullmatch(r"bytes (\d+)-(\d+)/(\d+)", self.headers.get("Content-Range", "")):
            return int(match[1]), int(match[2]) + 1, int(match[3])
        has_bytes = self.status == 200 and self.length is not None and "ETag" in self.headers
        return (0, self.length or 0, self.length or 0) if has_bytes else None


class Refusal(Exception):
    """The Hub's way to say no: a status, a sentence, and a code that the client knows."""

    def __init__(self, status: int, message: str, code: str = "", **headers: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.headers = {name.replace("_", "-"): value for name, value in headers.items()}

    def response(self) -> Response:
        headers = {"X-Error-Message": str(self), **({"X-Error-Code": self.code} if self.code else {}), **self.headers}
        return json_response({"error": str(self)}, self.status, headers)


def _parsed(text: bytes) -> Any:
    try:
        value = json.loads(text)
    except ValueError as error:
        raise Refusal(400, f"Unexpected body: {error}") from None
    if not isinstance(value, dict):
        raise Refusal(400, "Unexpected body: expected an object")
    return value


def json_response(value: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    return bytes_response(json.dumps(value).encode(), status, {"Content-Type": "application/json", **(headers or {})})


def bytes_response(data: bytes, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    return Response(status, headers or {}, (data,) if data else (), len(data))


def redirect(status: int, location: str, headers: Mapping[str, str] | None = None) -> Response:
    return bytes_response(b"", status, {**(headers or {}), "Location": location})


def file_response(request: Request, contents: Contents, headers: Mapping[str, str]) -> Response:
    """The file, or the one range of it that was asked for (RFC 9110, section 14); other forms get the whole file."""
    headers = {"Content-Type": "application/octet-stream", "Accept-Ranges": "bytes", **headers}
    begin, end = 0, contents.size
    match = re.fullmatch(r"bytes=(\d*)-(\d*)", request.headers.get("range") or "")
    if match is None or match[0] == "bytes=-":
        return Response(200, headers, contents.read(begin, end), end)
    if match[1]:
        begin, end = int(match[1]), min(end, int(match[2]) + 1 if match[2] else end)
    else:
        begin = max(0, end - int(match[2]))
    if begin >= contents.size or begin >= end:
        return bytes_response(b"", 416, {"Content-Range": f"bytes */{contents.size}"})
    headers["Content-Range"] = f"bytes {begin}-{end - 1}/{contents.size}"
    return Response(206, headers, contents.read(begin, end), end - begin)
