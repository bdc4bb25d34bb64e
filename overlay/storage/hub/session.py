"""The HTTP client of huggingface_hub, with its proxies and certificates, and with our watch over it.

The watch counts requests and bytes, and ends a body that drips: the client itself only bounds the silence between two
pieces.  It stands over what is asked inside `watched()`, in this thread, and over nothing that others ask.
"""

from __future__ import annotations

import functools
import logging
import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from overlay.storage.hub.patience import current_patience
from overlay.storage.hub.traffic import count

if TYPE_CHECKING:
    from huggingface_hub.utils import httpx

_LOCK = threading.Lock()
_WATCHED: ContextVar[bool] = ContextVar("overlay_watched", default=False)


def hub_session() -> httpx.Client:
    """The client that huggingface_hub shares, watched from now on."""
    from huggingface_hub.utils import get_session

    client = get_session()
    with _LOCK:
        hooks = client.event_hooks
        if _note_request not in hooks["request"]:
            client.event_hooks = {
                "request": [*hooks["request"], _note_request],
                "response": [*hooks["response"], _watch_body],
            }
        for handler in logging.getLogger("huggingface_hub").handlers:
            handler.addFilter(_is_not_ours)  # the same filter is not added twice
        # Of a disk that is full our error says the same, in one line.
        warnings.filterwarnings("ignore", message="Not enough free disk space", category=UserWarning)
    return client


@contextmanager
def watched() -> Iterator[None]:
    """What this thread asks of the Hub inside is counted and watched, and huggingface_hub logs nothing about it."""
    hub_session()
    token = _WATCHED.set(True)
    try:
        yield
    finally:
        _WATCHED.reset(token)


def _is_not_ours(record: logging.LogRecord) -> bool:
    """Drop what huggingface_hub says while we ask: its warnings hold signed URLs, and our errors say the same."""
    del record
    return not _WATCHED.get()


def _note_request(request: Any) -> None:
    del request
    if _WATCHED.get():
        count(requests=1)


def _watch_body(response: Any) -> None:
    if _WATCHED.get():
        response.stream = _body_class()(response.stream)


@functools.cache
def _body_class() -> type:
    """The class of a watched body; made late, since the HTTP library is imported late."""
    from huggingface_hub.utils import httpx

    class WatchedBody(httpx.SyncByteStream):
        """A body that is counted, and ended when it drips.  Only the time spent waiting for bytes counts."""

        def __init__(self, body: Any) -> None:
            self._body = body
            self._patience = current_patience()

        def __iter__(self) -> Iterator[bytes]:
            pieces = iter(self._body)
            waited, arrived = 0.0, 0
            while True:
                begin = time.monotonic()
                piece = next(pieces, None)
                if piece is None:
                    return
                waited += time.monotonic() - begin
                arrived += len(piece)
                count(received=len(piece))
                if waited >= self._patience.window:
                    if arrived < waited * self._patience.least_rate:
                        raise httpx.ReadTimeout(f"only {arrived} bytes in {waited:.0f} seconds")
                    waited, arrived = 0.0, 0
                yield piece

        def close(self) -> None:
            self._body.close()

    return WatchedBody
