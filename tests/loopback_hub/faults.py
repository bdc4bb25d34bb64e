"""What can go wrong between a client and a Hub, as values that stand between a request and its answer.

A fault is called with a request and the function that would answer it; what it returns is sent.  `when` says which requests
it is about, and how often::

    hub.faults.append(when(bytes_of("model-*.safetensors"), cut(after=1000), times=1))
    hub.faults.append(when(Where(stage="api", path="*/tree/*"), server_error(), times=3))

The first fault of a list is outermost.  Faults of the body leave answers alone that carry no bytes of a file.
"""

from __future__ import annotations

import gzip
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from fnmatch import fnmatchcase
from typing import Any

from tests.loopback_hub.messages import Headers, Refusal, Request, Response, bytes_response, json_response, redirect
from tests.loopback_hub.striking import LISTING as LISTING
from tests.loopback_hub.striking import Answer as Answer
from tests.loopback_hub.striking import Fault as Fault
from tests.loopback_hub.striking import Where as Where
from tests.loopback_hub.striking import bytes_of as bytes_of
from tests.loopback_hub.striking import when as when

# Bodies that are not what they should be.


def flip_bit(at: int = 0) -> Fault:
    """One bit of the file's byte `at` is another one; size and headers are right."""

    def damage(response: Response) -> Response:
        assert response.span is not None
        return replace(response, body=_flipped(response.pieces(), at - response.span[0]))

    return _on_bytes(damage)


def _flipped(pieces: Iterator[bytes], at: int) -> Iterator[bytes]:
    for piece in pieces:
        if 0 <= at < len(piece):
            piece = piece[:at] + bytes([piece[at] ^ 1]) + piece[at + 1 :]
        at -= len(piece)
        yield piece


def cut(after: int) -> Fault:
    """The connection breaks when `after` bytes of the body have been sent."""
    return _on_bytes(lambda response: replace(response, body=_first(response.pieces(), after)))


def short_body(by: int = 1) -> Fault:
    """The last bytes of the body are missing, and Content-Length agrees."""

    def damage(response: Response) -> Response:
        length = max(0, (response.length or 0) - by)
        return replace(response, body=_first(response.pieces(), length), length=length)

    return _on_bytes(damage)


def long_body(by: int = 1) -> Fault:
    """More bytes follow than the file has, and Content-Length agrees."""

    def damage(response: Response) -> Response:
        return replace(response, body=_longer(response.pieces(), by), length=(response.length or 0) + by)

    return _on_bytes(damage)


def _first(pieces: Iterator[bytes], size: int) -> Iterator[bytes]:
    for piece in pieces:
        if size <= 0:
            return
        yield piece[:size]
        size -= len(piece)


def _longer(pieces: Iterator[bytes], by: int) -> Iterator[bytes]:
    yield from pieces
    yield b"\0" * by


def drip(rate: float, piece: int = 1) -> Fault:
    """The body comes slowly: `rate` bytes a second, `piece` at a time."""
    return _on_bytes(lambda response: replace(response, body=_slowly(response.pieces(), rate, piece)))


def _slowly(pieces: Iterator[bytes], rate: float, size: int) -> Iterator[bytes]:
    for piece in pieces:
        for at in range(0, len(piece), size):
            time.sleep(size / rate)
            yield piece[at : at + size]


def stall(after: int, seconds: float = 3600.0) -> Fault:
    """Nothing comes for a long time after the first `after` bytes; the connection stays open."""
    return _on_bytes(lambda response: replace(response, body=_stalled(response.pieces(), after, seconds)))


def _stalled(pieces: Iterator[bytes], after: int, seconds: float) -> Iterator[bytes]:
    sent = 0
    for piece in pieces:
        if sent <= after < sent + len(piece):
            yield piece[: after - sent]
            time.sleep(seconds)
            yield piece[after - sent :]
        else:
            yield piece
        sent += len(piece)


def gzipped() -> Fault:
    """Compressed and without Content-Length, for clients that accept it: how the Hub serves text."""

    def fault(request: Request, answer: Answer) -> Response:
        response = answer(request)
        accepts = "gzip" in (request.headers.get("accept-encoding") or "")
        if response.span is None or response.status != 200 or not accepts:
            return response
        body = gzip.compress(b"".join(response.pieces()))
        headers = {**response.headers, "Content-Encoding": "gzip"}
        return replace(response, body=(body,), length=None, headers=headers)

    return fault


# Answers about ranges that are not what was asked.


def ignore_range() -> Fault:
    """The whole file with status 200, whatever range was asked for."""

    def fault(request: Request, answer: Answer) -> Response:
        headers = Headers((name, value) for name, value in request.headers.items() if name != "range")
        return answer(replace(request, headers=headers))

    return fault


def wrong_content_range(shift: int = 1) -> Fault:
    """Content-Range names other bytes than those that come."""

    def damage(response: Response) -> Response:
        if response.status != 206:
            return response
        assert response.span is not None
        begin, end, size = response.span
        stated = f"bytes {begin + shift}-{end - 1 + shift}/{size}"
        return replace(response, headers={**response.headers, "Content-Range": stated})

    return _on_bytes(damage)


def other_range(shift: int) -> Fault:
    """Other bytes of the file than were asked for, honestly labelled."""

    def fault(request: Request, answer: Answer) -> Response:
        asked = request.headers.get("range") or ""
        if not asked.startswith("bytes=") or asked.startswith("bytes=-"):
            return answer(request)
        begin, _, last = asked.removeprefix("bytes=").partition("-")
        shifted = f"bytes={int(begin) + shift}-{int(last) + shift if last else ''}"
        return answer(replace(request, headers=Headers([*request.headers.items(), ("range", shifted)])))

    return fault


def etag(value: str) -> Fault:
    """The file has another ETag, wherever one is stated."""
    return headers(**{"ETag": f'"{value}"', "X-Linked-Etag": f'"{value}"'})


def headers(**changed: str | None) -> Fault:
    """Headers that are already there get another value, or vanish for None; ``_`` stands for ``-``."""
    named = {name.replace("_", "-").lower(): value for name, value in changed.items()}

    def fault(request: Request, answer: Answer) -> Response:
        response = answer(request)
        kept = {name: named.get(name.lower(), value) for name, value in response.headers.items()}
        return replace(response, headers={name: value for name, value in kept.items() if value is not None})

    return fault


# Answers that are none.


def html_page(text: str = "<html>Please log in</html>\n") -> Fault:
    """A page with status 200, as a captive portal gives it."""
    return lambda request, answer: bytes_response(text.encode(), 200, {"Content-Type": "text/html"})


def refused(status: int, message: str = "refused", code: str = "", **extra: str) -> Fault:
    """An error of the Hub with a status, a sentence, a code and more headers (``_`` stands for ``-``)."""
    return lambda request, answer: Refusal(status, message, code, **extra).response()


def gated(status: int = 403) -> Fault:
    return refused(status, "Access to model is restricted and you are not in the authorized list.", "GatedRepo")


def server_error(status: int = 503) -> Fault:
    return refused(status, "Service unavailable")


def rate_limited(seconds: int = 0, *, retry_after: bool = False) -> Fault:
    """429, with the time to wait in the Retry-After header, or in RateLimit as the Hub has it.

    The second is draft-ietf-httpapi-ratelimit-headers-09.
    """
    if retry_after:
        return refused(429, "Too many requests", Retry_After=str(seconds))
    return refused(
        429,
        "Too many requests",
        ratelimit=f'"api";r=0;t={seconds}',
        **{"ratelimit-policy": '"fixed window";"api";q=500;w=300'},
    )


def dropped() -> Fault:
    """The connection is closed without a word; the request has no effect."""

    def fault(request: Request, answer: Answer) -> Response:
        raise ConnectionResetError

    return fault


def dropped_after() -> Fault:
    """The request has its effect, and the connection is closed without a word."""

    def fault(request: Request, answer: Answer) -> Response:
        answer(request)
        raise ConnectionResetError

    return fault


def delayed(seconds: float) -> Fault:
    """The answer comes late."""

    def fault(request: Request, answer: Answer) -> Response:
        time.sleep(seconds)
        return answer(request)

    return fault


def redirected(location: str, status: int = 302) -> Fault:
    """Sent elsewhere; the path and query that were asked for are put behind `location`."""
    return lambda request, answer: redirect(status, location + request.target)


# A world that moves.


def before(action: Callable[[], object]) -> Fault:
    """Something happens, then the request is answered."""

    def fault(request: Request, answer: Answer) -> Response:
        action()
        return answer(request)

    return fault


def afterwards(action: Callable[[], object]) -> Fault:
    """The request is answered out of the world as it is; then something happens, before the answer leaves."""

    def fault(request: Request, answer: Answer) -> Response:
        response = answer(request)
        action()
        return response

    return fault


# Listings that lie.


def edited(edit: Callable[[Any], Any]) -> Fault:
    """The JSON of an answer with status 200 is another one."""

    def fault(request: Request, answer: Answer) -> Response:
        response = answer(request)
        if response.status != 200:
            return response
        kept = {name: value for name, value in response.headers.items() if name != "Content-Type"}
        return json_response(edit(json.loads(b"".join(response.pieces()))), headers=kept)

    return fault


def listed_as(path: str, name: str) -> Fault:
    """The file at `path` is listed under another name: ``../x``, ``/etc/x``, one that is there already."""
    return edited(lambda rows: [{**row, "path": name} if row["path"] == path else row for row in rows])


def listed_twice(path: str) -> Fault:
    """The file at `path` is listed twice."""
    return edited(lambda rows: [twin for row in rows for twin in ([row, row] if row["path"] == path else [row])])


def without_digest(path: str = "*") -> Fault:
    """Large files are listed without their sha256."""

    def edit(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return [
            {key: value for key, value in row.items() if key not in ("lfs", "xetHash")}
            if fnmatchcase(row["path"], path)
            else row
            for row in rows
        ]

    return edited(edit)


def listed_with(path: str, **changed: Any) -> Fault:
    """Keys of the entry of `path` have other values: ``size=-1``."""
    return edited(lambda rows: [{**row, **changed} if row["path"] == path else row for row in rows])


def _on_bytes(damage: Callable[[Response], Response]) -> Fault:
    def fault(request: Request, answer: Answer) -> Response:
        response = answer(request)
        return response if response.span is None or request.method == "HEAD" else damage(response)

    return fault
