"""How much was asked of the Hub and its storage, in this process."""

from __future__ import annotations

import threading
from dataclasses import dataclass

_LOCK = threading.Lock()


@dataclass(frozen=True, slots=True)
class Traffic:
    """What went over the wire."""

    requests: int = 0
    """Every hop of a redirect counts; what hf_xet asks of the chunk store does not, since it does not tell."""
    bytes: int = 0
    """Of bodies that were received."""

    def __sub__(self, earlier: Traffic) -> Traffic:
        """What was added since `earlier`."""
        return Traffic(self.requests - earlier.requests, self.bytes - earlier.bytes)


_total = Traffic()
_remarks: list[str] = []


def traffic() -> Traffic:
    """What this process has asked for and received so far."""
    return _total


def remark(text: str) -> None:
    """Note what a person should know of an answer that was had without the Hub."""
    with _LOCK:
        if text not in _remarks:
            _remarks.append(text)


def remarks() -> tuple[str, ...]:
    """What was noted in this process."""
    return tuple(_remarks)


def count(*, requests: int = 0, received: int = 0) -> None:
    """Add to the total; any thread may."""
    global _total
    with _LOCK:
        _total = Traffic(_total.requests + requests, _total.bytes + received)
