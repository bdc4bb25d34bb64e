"""How long to wait for the Hub, and how often to ask again.

What passes by itself (a busy server, a broken connection) is tried again, with growing pauses and an end: after `tries`
failures in a row, or `total` seconds without progress.  A transfer that drips counts as one that stands still.
"""

from __future__ import annotations

import os
import random
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from email.utils import parsedate_to_datetime

from overlay.errors import OverlayError


@dataclass(frozen=True, slots=True)
class Patience:
    """The limits; times in seconds."""

    tries: int = 5
    """Attempts in a row that bring nothing."""
    first_wait: float = 1.0
    """Doubled after each failure, up to `longest_wait`."""
    longest_wait: float = 20.0
    longest_asked: float = 310.0
    """A server may ask for a pause of this length: the Hub counts requests in windows of five minutes."""
    total: float = 620.0
    connect: float = 10.0
    silence: float = 15.0
    """Without a single byte."""
    window: float = 30.0
    """In which a body must arrive at `least_rate` at least."""
    least_rate: float = 1024.0
    """Bytes a second."""
    progress: int = 1 << 20
    """Bytes that make an attempt one that brought something."""


PATIENCE = Patience()
"""What `current_patience` starts from; tests shorten it."""


def current_patience() -> Patience:
    """The limits, with the silence that the user allows by ``HF_HUB_DOWNLOAD_TIMEOUT``, in seconds."""
    try:
        seconds = float(os.environ.get("HF_HUB_DOWNLOAD_TIMEOUT", ""))
    except ValueError:
        return PATIENCE
    return replace(PATIENCE, silence=seconds, window=seconds) if 0 < seconds < float("inf") else PATIENCE


class Transient(Exception):
    """A failure that may pass; `fault` is what to say when it does not.

    Attributes:
        asked: seconds that the server asks to wait, or None.
        unreachable: nobody answered at all; that is tried fewer times, since being offline rarely passes in seconds.
    """

    def __init__(self, fault: OverlayError, *, asked: float | None = None, unreachable: bool = False) -> None:
        super().__init__(fault.line)
        self.fault = fault
        self.asked = asked
        self.unreachable = unreachable


class Tries:
    """Counts the attempts at one thing, and pauses between them."""

    def __init__(self) -> None:
        self._patience = current_patience()
        self._begin()

    def _begin(self) -> None:
        self._left = float(self._patience.tries)
        self._wait = self._patience.first_wait
        self._since = time.monotonic()
        self._gained = 0

    def gained(self, count: int) -> None:
        """Note `count` bytes that arrived; enough of them make the next failure a first one."""
        self._gained += count
        if self._gained >= self._patience.progress:
            self._begin()

    def pause(self, failure: Transient) -> None:
        """Wait before the next attempt.

        Raises:
            OverlayError: the fault of `failure`, caused by it, when there is to be no other attempt.
        """
        self._left -= 2 if failure.unreachable else 1
        wait = self._wait * (0.5 + random.random() / 2) if failure.asked is None else failure.asked  # noqa: S311
        late = time.monotonic() + wait - self._since > self._patience.total
        if self._left <= 0 or late or wait > self._patience.longest_asked:
            raise failure.fault from failure
        self._wait = min(2 * self._wait, self._patience.longest_wait)
        time.sleep(wait)


_RATE_LIMIT = re.compile(r";\s*r\s*=\s*0+\s*(?:;[^,]*?)?;\s*t\s*=\s*([0-9]{1,9})")


def asked_wait(headers: Mapping[str, str]) -> float | None:
    """The pause that a server asks for, in seconds: ``Retry-After`` (RFC 9110 10.2.3), or an empty ``RateLimit`` window.

    The Hub sends ``ratelimit: "api";r=0;t=55``: 0 requests remain for 55 seconds (draft-ietf-httpapi-ratelimit-headers-09).
    """
    after = headers.get("retry-after", "").strip()
    if after.isascii() and after.isdigit():
        return float(after[:9])
    limit = _RATE_LIMIT.search(headers.get("ratelimit", ""))
    if limit:
        return float(limit[1])
    try:
        return max(0.0, parsedate_to_datetime(after).timestamp() - time.time())
    except (ValueError, TypeError, OverflowError):
        return None
