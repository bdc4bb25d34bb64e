"""How long work tells that it goes on: through a reporter that the caller passes in.  The core prints nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

Advance = Callable[[int], None]
"""Called with a number of bytes that are done."""


class Reporter(Protocol):
    """Shows that `total` bytes of work called `what` are going on."""

    def task(self, what: str, total: int) -> AbstractContextManager[Advance]:
        """A context for one piece of work."""


class Silent:
    """A reporter that shows nothing."""

    @contextmanager
    def task(self, what: str, total: int) -> Iterator[Advance]:
        """A context that ignores what it is told."""
        del what, total
        yield lambda count: None
