"""Progress on stderr: a bar on a terminal; in a log, a line every half minute."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

from overlay.core.progress import Advance

_LINE_EVERY_S = 30.0


class Bars:
    """A reporter that shows bytes, rate and remaining time."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stderr

    @contextmanager
    def task(self, what: str, total: int) -> Iterator[Advance]:
        """Show one piece of work of `total` bytes while the context lasts."""
        if self._stream.isatty():
            with _bar(self._stream, what, total) as advance:
                yield advance
        else:
            yield _Lines(self._stream, what, total).advance


@contextmanager
def _bar(stream: TextIO, what: str, total: int) -> Iterator[Advance]:
    # rich costs 60 ms to import: only where there is a terminal and something to show.
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(file=stream), transient=True) as progress:
        task = progress.add_task(what, total=total)
        yield lambda count: progress.advance(task, count)


class _Lines:
    """One piece of work in a log: silent when it is over soon."""

    def __init__(self, stream: TextIO, what: str, total: int) -> None:
        self._stream, self._what, self._total = stream, what, total
        self._done = 0
        self._started = self._shown = time.monotonic()

    def advance(self, count: int) -> None:
        self._done += count
        now = time.monotonic()
        if now - self._shown < _LINE_EVERY_S:
            return
        self._shown = now
        rate = self._done / (now - self._started)
        left = max(0, self._total - self._done) / rate if rate else 0
        share = f"{self._done / 1e9:.2f} of {self._total / 1e9:.2f} GB"
        print(f"{self._what}: {share}, {rate / 1e9:.2f} GB/s, {left:.0f} s left", file=self._stream, flush=True)
