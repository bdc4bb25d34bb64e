"""Byte ranges of one repository's files over HTTP, each answer held against what was asked and what was listed.

A server that ignores ``Range`` sends the whole file with status 200; an intercepting network sends a page of its own.
Neither is read: nothing but the wanted bytes, under the headers that say so, counts as an answer.
"""

from __future__ import annotations

import re
from collections.abc import Generator, Iterator
from contextlib import closing
from typing import TYPE_CHECKING, Final

from overlay.errors import EnvironmentFault, Mismatch
from overlay.storage.hub.environment import file_url
from overlay.storage.hub.faults import Place
from overlay.storage.hub.patience import Transient, Tries
from overlay.storage.hub.requesting import Answer, Expired, answered, unexpected_answer
from overlay.storage.remote import RemoteFile

if TYPE_CHECKING:
    from huggingface_hub.utils import httpx

MAX_PIECE: Final = 1 << 20
_CONTENT_RANGE: Final = re.compile(r"bytes ([0-9]{1,19})-([0-9]{1,19})/([0-9]{1,19}|\*)")
_MOVED: Final = "the file was changed after it was listed; run the command again, and lock again if it was locked"


class Ranges:
    """Reads ranges of the files of one repository at one commit.

    Where a file was found is remembered, so that its next range costs one request instead of two; when that address has
    expired, the Hub is asked again.
    """

    def __init__(self, repo: str, commit: str) -> None:
        self._repo = repo
        self._commit = commit
        self._urls: dict[str, str] = {}
        self._etags: dict[tuple[str, str], str] = {}

    def read(self, file: RemoteFile, begin: int, end: int) -> Iterator[bytes]:
        """The bytes ``[begin, end)``, in pieces of at most 1 MiB; a broken transfer is continued where it stopped.

        Raises:
            EnvironmentFault: they cannot be had, or drip.
            Mismatch: the file is not the one that was listed.
        """
        tries = Tries()
        while begin < end:
            try:
                with closing(self._attempt(file, begin, end)) as pieces:
                    for piece in pieces:
                        begin += len(piece)
                        tries.gained(len(piece))
                        yield piece
            except Expired:
                self._urls.pop(file.path, None)  # an attempt at once, by the Hub; that one cannot expire
            except Transient as failure:
                self._urls.pop(file.path, None)
                tries.pause(failure)

    def _attempt(self, file: RemoteFile, begin: int, end: int) -> Generator[bytes]:
        place = Place(self._repo, self._commit, file.path)
        known = self._urls.get(file.path)
        url = known or file_url(self._repo, self._commit, file.path)
        headers = {"range": f"bytes={begin}-{end - 1}", "accept-encoding": "identity"}
        with answered(url, place, headers, early=known is not None) as answer:
            _require_listed_file(answer, file, self._commit, place)
            _require_range(answer.response, file, begin, end, place)
            self._require_same_etag(answer, file, place)
            self._urls[file.path] = answer.url
            left = end - begin
            for piece in answer.response.iter_raw():
                left -= len(piece)
                if left < 0:
                    raise unexpected_answer(answer.response, f"{end - begin} bytes", place)
                for at in range(0, len(piece), MAX_PIECE):
                    yield piece[at : at + MAX_PIECE]
            if left:
                problem = f"expected {end - begin} bytes, found the end after {end - begin - left}"
                hint = "check the connection, then run the command again"
                raise Transient(EnvironmentFault(problem, subject=str(place), hint=hint))

    def _require_same_etag(self, answer: Answer, file: RemoteFile, place: Place) -> None:
        """A file whose ETag changes between two ranges is two files.  Each host has its own way of making ETags."""
        etag = _etag(answer.response.headers.get("etag", ""))
        if not etag:
            return
        known = self._etags.setdefault((file.path, answer.response.request.url.host), etag)
        if etag != known:
            problem = f"expected a file that stays the same, found ETag {etag[:80]!r} after {known[:80]!r}"
            raise Mismatch(problem, subject=str(place), hint=_MOVED)


def _require_listed_file(answer: Answer, file: RemoteFile, commit: str, place: Place) -> None:
    """Hold what the Hub says of the file on the way against its listing."""
    told = answer.told
    for what, found, expected in (
        ("commit", told.get("x-repo-commit", ""), commit),
        ("sha256", _etag(told.get("x-linked-etag", "")), file.sha256),
        ("size", told.get("x-linked-size", ""), str(file.size)),
    ):
        if found and expected and found != expected:
            problem = f"expected {what} {expected}, as it is listed, found {found[:80]!r}"
            raise Mismatch(problem, subject=str(place), hint=_MOVED)


def _require_range(response: httpx.Response, file: RemoteFile, begin: int, end: int, place: Place) -> None:
    """RFC 9110 15.3.7: a part of a file comes with status 206 and the ``Content-Range`` that was asked for."""
    headers = response.headers
    length = headers.get("content-length")
    whole = begin == 0 and end == file.size
    if headers.get("content-encoding", "identity") != "identity":
        raise unexpected_answer(response, "the bytes as they are", place)
    if response.status_code == 200 and whole and length == str(file.size):
        return
    expected = f"status 206 with bytes {begin}-{end - 1}"
    if response.status_code != 206:
        raise unexpected_answer(response, expected, place)
    match = _CONTENT_RANGE.fullmatch(headers.get("content-range", ""))
    if match is None:
        raise unexpected_answer(response, expected, place)
    if match[3] not in ("*", str(file.size)):
        problem = f"expected a file of {file.size} bytes, as it is listed, found {match[3]}"
        raise Mismatch(problem, subject=str(place), hint=_MOVED)
    if (int(match[1]), int(match[2])) != (begin, end - 1):
        found = f"bytes {match[1]}-{match[2]}"
        problem = f"expected bytes {begin}-{end - 1}, found {found}"
        raise EnvironmentFault(problem, subject=str(place), hint="a proxy may stand between; try without it")
    if length is not None and length != str(end - begin):
        raise unexpected_answer(response, f"{end - begin} bytes", place)


def _etag(text: str) -> str:
    """An ETag without its quotes; "" for a weak one, which does not promise equal bytes (RFC 9110 8.8.1)."""
    return "" if text.startswith("W/") else text.strip('"')
