"""Byte ranges out of the Hub's chunk store, by its own client: chunks come in parallel, and equal ones once.

What that client does not do is done here (hf_xet 1.8): a range past the end comes back short without an error, and a
failed stream spoils its group, so that each attempt gets a new one.  A stream that stands still is left behind.

What nobody does: hold the bytes of a range against a digest.  hf_xet hands out a chunk whose stored bytes were changed, as
HTTP hands out a wrong bit; the Hub states digests of whole files alone.
"""

from __future__ import annotations

import functools
import os
import queue
import threading
import time
from collections.abc import Callable, Generator
from contextlib import closing, suppress
from typing import Any, Final

from overlay.errors import EnvironmentFault
from overlay.storage.hub.environment import api_url, endpoint, hub_headers, without_token
from overlay.storage.hub.faults import Place, clean
from overlay.storage.hub.patience import Patience, Transient, current_patience
from overlay.storage.hub.ranges import MAX_PIECE
from overlay.storage.hub.requesting import get_json
from overlay.storage.hub.traffic import count
from overlay.storage.remote import RemoteFile

WORTH_IT: Final = 4 << 20
"""Bytes from which the chunk store is faster than a range over HTTP: it costs a look-up of chunks first."""

_QUEUED: Final = 8
_MARGIN_SECONDS: Final = 60


class ChunkStore:
    """The chunk store as one repository's reader sees it; the token for it is asked for when it is needed."""

    def __init__(self, repo: str, commit: str) -> None:
        self._repo = repo
        self._commit = commit
        self._pass: dict[str, Any] = {}
        self._lock = threading.Lock()

    def read(self, file: RemoteFile, begin: int, end: int) -> Generator[bytes]:
        """One attempt at the bytes ``[begin, end)``, in pieces of at most 1 MiB.

        Raises:
            Transient: they did not all come.
            EnvironmentFault: the Hub gives no access to the store.
        """
        import hf_xet

        place = Place(self._repo, self._commit, file.path)
        group = self._open_group(place)
        try:
            stream = group.download_stream(hf_xet.XetFileInfo(file.xet_hash, file.size), begin, end)
        except Exception as error:  # hf_xet raises errors of many kinds
            raise _broken(str(error), place) from None
        left = end - begin
        with closing(_pump(stream, group.abort, place, current_patience())) as pieces:
            for piece in pieces:
                left -= len(piece)
                if left < 0:
                    raise _broken("more bytes than were asked for", place)
                count(received=len(piece))
                for at in range(0, len(piece), MAX_PIECE):
                    yield piece[at : at + MAX_PIECE]
        if left:
            raise _broken(f"the end, {left} bytes early", place)

    def _open_group(self, place: Place) -> Any:
        access = self._access(place)
        headers = hub_headers()
        try:
            return _session(os.getpid()).new_download_stream_group(
                endpoint=access["casUrl"],
                token=access["accessToken"],
                token_expiry_unix_secs=access["exp"],
                token_refresh_url=api_url(self._repo, f"/xet-read-token/{self._commit}"),
                token_refresh_headers=headers,
                custom_headers=without_token(headers),
            )
        except Exception as error:  # as above
            raise _broken(str(error), place) from None

    def _access(self, place: Place) -> dict[str, Any]:
        """Address of the store and a short-lived token for it: ``{"casUrl", "accessToken", "exp"}``."""
        with self._lock:
            if self._pass.get("exp", 0) < time.time() + _MARGIN_SECONDS:
                self._pass = _read_access(
                    get_json(api_url(self._repo, f"/xet-read-token/{self._commit}"), place)[0], place
                )
            return self._pass


@functools.cache
def _session(process: int) -> Any:
    """The runtime of the store's client; a fork needs its own."""
    import hf_xet

    del process
    return hf_xet.XetSession()


def _read_access(document: Any, place: Place) -> dict[str, Any]:
    expected = {"casUrl": str, "accessToken": str, "exp": int}
    if not isinstance(document, dict) or any(type(document.get(key)) is not kind for key, kind in expected.items()):
        problem = "expected the address of the chunk store, found something else"
        raise EnvironmentFault(problem, subject=str(place), hint="HF_HUB_DISABLE_XET=1 reads without it")
    if endpoint().startswith("https:") and not document["casUrl"].startswith("https:"):
        problem = f"expected the chunk store at an https address, found {clean(document['casUrl'])!r}"
        raise EnvironmentFault(problem, subject=str(place), hint="HF_HUB_DISABLE_XET=1 reads without it")
    return {key: document[key] for key in expected}


def _broken(said: str, place: Place) -> Transient:
    hint = "check the connection, then run the command again; HF_HUB_DISABLE_XET=1 reads over HTTP alone"
    problem = f"expected the bytes from the chunk store, found: {clean(said)}"
    return Transient(EnvironmentFault(problem, subject=str(place), hint=hint))


def _pump(stream: Any, abort: Callable[[], object], place: Place, patience: Patience) -> Generator[bytes]:
    """The pieces of a stream that blocks outside of Python: another thread waits, so that this one need not for ever.

    At the end, `abort` ends what is still under way; the stream's own `cancel` cannot, while a thread waits for a piece.

    Raises:
        Transient: the stream breaks, stands still or drips.
    """
    hand = _Hand()
    threading.Thread(target=hand.take_all, args=(stream,), daemon=True, name="xet-stream").start()
    waited, arrived = 0.0, 0
    try:
        while True:
            begin = time.monotonic()
            piece = hand.give(max(patience.window - waited, 0.01))
            waited += time.monotonic() - begin
            if piece is None:
                return
            if isinstance(piece, Exception):
                raise _broken(str(piece), place)
            arrived += len(piece)
            if waited >= patience.window:
                if arrived < waited * patience.least_rate:
                    raise _broken(f"only {arrived} bytes in {waited:.0f} seconds", place)
                waited, arrived = 0.0, 0
            if piece:
                yield piece
    finally:
        hand.dropped.set()
        with suppress(Exception):  # the group is not needed any more, whatever it says
            abort()


class _Hand:
    """Hands pieces from one thread to another, a few ahead, until the other one drops it."""

    def __init__(self) -> None:
        self.dropped = threading.Event()
        self._pieces: queue.Queue[bytes | Exception | None] = queue.Queue(_QUEUED)

    def give(self, seconds: float) -> bytes | Exception | None:
        """The next piece, b"" when none came in time, an error of the stream, or None at its end."""
        try:
            return self._pieces.get(timeout=seconds)
        except queue.Empty:
            return b""

    def take_all(self, stream: Any) -> None:
        """Take every piece of `stream`."""
        try:
            for piece in stream:
                if not self._take(bytes(piece)):
                    return
            self._take(None)
        except Exception as error:  # it goes to the reader
            self._take(error)

    def _take(self, item: bytes | Exception | None) -> bool:
        while not self.dropped.is_set():
            try:
                self._pieces.put(item, timeout=1)
            except queue.Full:
                continue
            return True
        return False
