"""Read a range of an object: every answer is held against the listing, and what broke is continued where it stopped."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Final, TypeVar

from overlay.errors import EnvironmentFault, Mismatch, OverlayError
from overlay.storage.object_stores.answers import Answer, Kind, Refusal, Wire
from overlay.storage.remote import RemoteFile

PAUSES_S: Final = [0.5, 1.0, 2.0, 4.0]
"""Seconds before the second, third, … attempt."""

MAX_PAUSE_S: Final = 30.0
PROGRESS: Final = 8 << 20
"""Bytes after which a transfer counts as going on: the attempts are counted from there anew."""

_Given = TypeVar("_Given")


def read(wire: Wire, file: RemoteFile, begin: int, end: int, subject: str) -> Iterator[bytes]:
    """The bytes ``[begin, end)`` of a file as it was listed, in pieces.

    Raises:
        EnvironmentFault: the store cannot be reached, or does not answer as asked, five times in a row.
        Mismatch: the file is no longer the one that was listed.
    """
    if not 0 <= begin <= end <= file.size:
        raise ValueError(f"{subject}: no range of {file.size} bytes: {begin} to {end}")
    at, failures, mark = begin, 0, begin
    while at < end:
        try:
            with closing(wire.open(file, at, end)) as answer:
                _require(answer, file, at, end)
                while at < end:
                    piece = answer.read()[: end - at]
                    if not piece:
                        raise Refusal(Kind.BUSY, f"the answer ended {end - at} bytes early")
                    yield piece
                    at += len(piece)
        except Refusal as refusal:
            if at - mark >= PROGRESS:
                failures, mark = 0, at
            failures += 1
            pause_or_raise(refusal, failures, subject)


def patiently(action: Callable[[], _Given], subject: str) -> _Given:
    """What `action` gives, asked again while the store is busy.

    Raises:
        EnvironmentFault, Mismatch: as `read`.
    """
    failures = 0
    while True:
        try:
            return action()
        except Refusal as refusal:
            failures += 1
            pause_or_raise(refusal, failures, subject)


def pause_or_raise(refusal: Refusal, failures: int, subject: str) -> None:
    """Wait before the next attempt, where there is one.

    Raises:
        EnvironmentFault, Mismatch: there is none.
    """
    if refusal.kind is not Kind.BUSY or failures > len(PAUSES_S):
        raise as_error(refusal, subject, failures) from None
    pause = PAUSES_S[failures - 1]
    time.sleep(min(max(pause, refusal.wait_s or 0), MAX_PAUSE_S))


def as_error(refusal: Refusal, subject: str, attempts: int = 1) -> OverlayError:
    """A refusal as an error for people."""
    if refusal.kind in (Kind.GONE, Kind.CHANGED):
        hint = "run the command again; where a lock pins it, overlay lock --upgrade takes what is there now"
        return Mismatch(f"expected the file that was listed, found: {refusal.reason}", subject=subject, hint=hint)
    if refusal.kind is Kind.DENIED:
        hint = "check the credentials that the store's own client finds (AWS_PROFILE, FSSPEC_HTTPS_HEADERS, …)"
        if subject.startswith("s3:"):
            hint = "set AWS_PROFILE or AWS_ACCESS_KEY_ID; FSSPEC_S3_ANON=true for a public bucket"
        return EnvironmentFault(f"expected to be let in, found: {refusal.reason}", subject=subject, hint=hint)
    if refusal.kind is Kind.UNABLE:
        hint = "fetch the folder with the store's own client, and name it by its path"
        return EnvironmentFault(refusal.reason, subject=subject, hint=hint)
    times = f" ({attempts} attempts)" if attempts > 1 else ""
    hint = "check the address and the network, then run the command again"
    return EnvironmentFault(f"the store does not answer: {refusal.reason}{times}", subject=subject, hint=hint)


def _require(answer: Answer, file: RemoteFile, begin: int, end: int) -> None:
    """Hold an answer against what was listed and asked.

    Raises:
        Refusal: it is another object, or another range.
    """
    extent = answer.extent
    if file.oid and extent.oid != file.oid:
        raise Refusal(Kind.CHANGED, f"ETag {extent.oid[:80]!r} where {file.oid[:80]!r} was listed")
    if extent.size != file.size:
        raise Refusal(Kind.CHANGED, f"{extent.size} bytes where {file.size} were listed")
    if (extent.begin, extent.end) != (begin, end):
        problem = f"expected the bytes {begin} to {end} of the file, found {extent.begin} to {extent.end}"
        raise Refusal(Kind.UNABLE, problem)
