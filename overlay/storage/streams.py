"""Tensors of files elsewhere, streamed: neighbours come in one answer of the store."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from overlay.core.checkpoint import FileSeen, TensorSource
from overlay.errors import EnvironmentFault
from overlay.storage.stores import remote_of

GAP: Final = 64 * 1024
"""Bytes between two tensors that are fetched and thrown away rather than asked for a second time."""


@dataclass(frozen=True, slots=True)
class Run:
    """Tensors of one file that come in one answer: ``[begin, end)`` of it."""

    file: FileSeen
    begin: int
    end: int
    sources: tuple[TensorSource, ...]
    """In the order of the file."""


def coalesce(sources: Iterable[TensorSource], gap: int = GAP) -> list[Run]:
    """The runs that hold all of `sources`, in the order of files and offsets; a range that two tensors share comes once.

    Costs a sort of the tensors.
    """
    runs: list[Run] = []
    group: list[TensorSource] = []
    reached = 0
    for source in sorted(sources, key=lambda s: (s.file.location, s.begin, s.end)):
        if group and (source.file.location != group[0].file.location or source.begin > reached + gap):
            runs.append(_run(group))
            group = []
        reached = max(reached, source.end) if group else source.end
        group.append(source)
    return [*runs, _run(group)] if group else runs


def stream(run: Run) -> Iterator[tuple[TensorSource, memoryview]]:
    """The bytes of a run's tensors, in pieces, each with the tensor that it belongs to; empty tensors give none.

    Raises:
        EnvironmentFault, Mismatch: as `storage.remote.Remote.read`.
    """
    waiting = deque(run.sources)
    arriving: list[TensorSource] = []
    at = run.begin
    for piece in read_range(run.file, run.begin, run.end):
        view = memoryview(piece)
        stop = at + len(view)
        while waiting and waiting[0].begin < stop:
            arriving.append(waiting.popleft())
        for source in arriving:
            begin, end = max(at, source.begin), min(stop, source.end)
            if end > begin:
                yield source, view[begin - at : end - at]
        arriving = [source for source in arriving if source.end > stop]
        at = stop


def read_range(file: FileSeen, begin: int, end: int) -> Iterator[bytes]:
    """The bytes ``[begin, end)`` of a file elsewhere, in pieces of at most 1 MiB.

    Raises:
        EnvironmentFault, Mismatch: as `storage.remote.Remote.read`.
    """
    if end <= begin:
        return
    remote, path = remote_of(file)
    at = begin
    for piece in remote.read(path, begin, end):
        yield piece
        at += len(piece)
    if at != end:
        problem = f"expected bytes {begin} to {end}, found them only up to {at}"
        raise EnvironmentFault(problem, subject=file.location, hint="run the command again")


class Streams:
    """Ranges of files elsewhere, taken in an order known beforehand, so that contiguous ones come in one answer."""

    def __init__(self, sources: Sequence[TensorSource]) -> None:
        self._ends: dict[tuple[str, int, int], int] = {}
        backwards = [source for source in reversed(sources) if source.size]
        for source, following in zip(backwards, [None, *backwards], strict=False):
            joined = following is not None and _follows(source, following)
            end = self._ends[following.extent] if joined and following is not None else source.end
            self._ends[source.extent] = end
        self._file = ""
        self._at = self._end = 0
        self._pieces: Iterator[bytes] = iter(())
        self._rest = memoryview(b"")

    def blocks(self, source: TensorSource) -> Iterator[memoryview]:
        """The bytes of `source`, in pieces.

        Raises:
            EnvironmentFault, Mismatch: as `storage.remote.Remote.read`.
        """
        if not source.size:
            return
        if (self._file, self._at) != (source.file.location, source.begin) or self._at == self._end:
            self._file, self._at = source.file.location, source.begin
            self._end = self._ends.get(source.extent, source.end)
            self._pieces, self._rest = read_range(source.file, self._at, self._end), memoryview(b"")
        while self._at < source.end:
            if not self._rest:
                self._rest = memoryview(next(self._pieces))
            piece = self._rest[: source.end - self._at]
            self._rest = self._rest[len(piece) :]
            self._at += len(piece)
            yield piece


def _run(group: list[TensorSource]) -> Run:
    return Run(group[0].file, group[0].begin, max(source.end for source in group), tuple(group))


def _follows(one: TensorSource, other: TensorSource) -> bool:
    return one.file.location == other.file.location and one.end == other.begin
