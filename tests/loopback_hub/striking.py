"""Which requests a fault is about, and how often it strikes."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from urllib.parse import unquote

from tests.loopback_hub.messages import Origin, Request, Response

Answer = Callable[[Request], Response]
Fault = Callable[[Request, Answer], Response]


@dataclass(frozen=True, kw_only=True)
class Where:
    """Requests for which everything given holds; names and paths are patterns of the shell."""

    method: str | None = None
    origin: Origin | None = None
    stage: str | None = None
    """``api``, ``resolve``, ``bytes``, ``upload`` or ``commit``."""
    repository: str | None = None
    file: str | None = None
    path: str | None = None
    ranged: bool | None = None
    """Whether the request has a Range header."""

    def __call__(self, request: Request) -> bool:
        return (
            self.method in (None, request.method)
            and self.origin in (None, request.origin)
            and self.stage in (None, request.stage)
            and _fits(self.repository, request.repository)
            and _fits(self.file, request.file)
            and _fits(self.path, unquote(request.path))
            and self.ranged in (None, request.headers.get("range") is not None)
        )


def _fits(pattern: str | None, value: str | None) -> bool:
    return pattern is None or (value is not None and fnmatchcase(value, pattern))


def bytes_of(file: str = "*") -> Where:
    """Requests that fetch bytes of a file, wherever they are served."""
    return Where(method="GET", stage="bytes", file=file)


LISTING = Where(method="GET", stage="api", path="*/tree/*")
"""Requests for a page of a listing."""


def when(where: Callable[[Request], bool], fault: Fault, *, times: int | None = None, skip: int = 0) -> Fault:
    """`fault` for the requests that match: the first `skip` go well, then it strikes `times` times, or always."""
    lock = threading.Lock()
    seen = 0

    def counted(request: Request, answer: Answer) -> Response:
        nonlocal seen
        if not where(request):
            return answer(request)
        with lock:
            seen += 1
            strikes = seen > skip and (times is None or seen <= skip + times)
        return fault(request, answer) if strikes else answer(request)

    return counted
