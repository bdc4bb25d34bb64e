"""Fetch the tensors of a new shard from elsewhere, straight to their places in it, and go on where a killed run stopped.

Theory of operation.  The file is as long as it will be from the beginning.  Tensors arrive run by run (`storage.streams`),
each written to its own place and hashed on the way.  Beside the file lies a journal: a line a tensor, appended when the
tensor's bytes have reached the disk.  The next run believes a line only after it has hashed the tensor again, and fetches
the rest.  In the end the whole file is read once: for its own digests, and to see that the disk holds what came.
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Final

import orjson
import xxhash

from overlay.core.checkpoint import TensorSource
from overlay.core.progress import Advance
from overlay.errors import EnvironmentFault, Mismatch
from overlay.formats.digest import Digests
from overlay.storage.files import hint_for_errno, open_regular
from overlay.storage.shard_writer import BLOCK, WrittenShard, write_all
from overlay.storage.streams import Run, coalesce, stream

CONNECTIONS: Final = 4
"""Runs that are fetched at once."""

_JOURNALLED: Final = 64 * BLOCK
"""Bytes after which a run's finished tensors are flushed and noted: what a killed run may have to fetch again."""


def fetch_shard(
    path: str, header: bytes, sources: Sequence[TensorSource], recipe: str, advance: Advance
) -> WrittenShard:
    """Make the shard `path` of `header` and `sources`, which follow each other in its order; some of them lie elsewhere.

    Args:
        path: the file to make, or to go on with; ``PATH.journal`` lies beside it until the shard is whole.
        header: the first bytes.
        sources: the tensors, in the order of the header.
        recipe: digest of what the shard is made from; what another recipe left at `path` is thrown away.
        advance: told of bytes of the shard as they are done, those of an earlier run included.

    Memory is bounded by the blocks in flight; costs one read of the finished file beside the transfer.

    Raises:
        EnvironmentFault: a store cannot be reached, or the disk refuses; what came so far is kept for the next call.
        Mismatch: a file is no longer the one that was listed, or the disk does not hold what was written.
    """
    places = _places(header, sources)
    size = len(header) + sum(source.size for source in sources)
    with _explaining(path), _open(path, header, size, recipe) as shard:
        kept = shard.verify(places)
        advance(sum(places[name].source.size for name in kept))
        missing = [place for name, place in places.items() if name not in kept]
        _fetch(shard, missing, advance)
        os.fsync(shard.descriptor)
        written = _reread(shard, header, places)
    with suppress(FileNotFoundError):
        os.unlink(_journal(path))
    return written


@dataclass(frozen=True, slots=True)
class _Place:
    """A tensor and where it belongs in the new file."""

    source: TensorSource
    offset: int


@dataclass(slots=True)
class _Shard:
    """The file while it is made."""

    path: str
    descriptor: int
    journal: int
    noted: dict[str, str]
    """Tensor to the xxh3-128 of its bytes, as far as the journal says or they came by now."""
    lock: threading.Lock = field(default_factory=threading.Lock)
    stop: threading.Event = field(default_factory=threading.Event)

    def verify(self, places: Mapping[str, _Place]) -> set[str]:
        """The noted tensors whose bytes are in the file; what is noted of others is forgotten."""
        kept = {name for name in self.noted.keys() & places.keys() if self.digest(places[name]) == self.noted[name]}
        self.noted = {name: self.noted[name] for name in kept}
        return kept

    def digest(self, place: _Place) -> str:
        """Of a tensor as the file has it."""
        found = xxhash.xxh3_128()
        for block in _blocks(self.descriptor, place.offset, place.source.size):
            found.update(block)
        return found.hexdigest()

    def note(self, finished: Mapping[str, str]) -> None:
        """Write down that tensors are on the disk."""
        os.fdatasync(self.descriptor)
        lines = b"".join(orjson.dumps([name, digest]) + b"\n" for name, digest in finished.items())
        with self.lock:
            self.noted.update(finished)
            os.write(self.journal, lines)
            os.fdatasync(self.journal)


def _places(header: bytes, sources: Iterable[TensorSource]) -> dict[str, _Place]:
    places, at = {}, len(header)
    for source in sources:
        places[source.name] = _Place(source, at)
        at += source.size
    return places


@contextmanager
def _open(path: str, header: bytes, size: int, recipe: str) -> Iterator[_Shard]:
    """The file at `path` as an earlier run left it, or a new one."""
    noted = _read_journal(_journal(path), recipe, path, size)
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
    if noted is None:
        for old in (_journal(path), path):
            with suppress(FileNotFoundError):
                os.unlink(old)
    descriptor = os.open(path, flags, 0o644)
    try:
        write_all(descriptor, header, 0)
        os.ftruncate(descriptor, size)
        journal = os.open(_journal(path), flags | os.O_APPEND, 0o600)
        try:
            # A line of its own: what a killed run had half written is then a line that nobody can read.
            os.write(journal, b"\n" if noted is not None else orjson.dumps({"recipe": recipe}) + b"\n")
            yield _Shard(path, descriptor, journal, noted or {})
        finally:
            os.close(journal)
    finally:
        os.close(descriptor)


def _read_journal(path: str, recipe: str, shard: str, size: int) -> dict[str, str] | None:
    """What the journal says of tensors; None where there is none for this recipe, or no file that it speaks of."""
    try:
        with open(path, "rb") as stream_:
            first, *lines = stream_.read().split(b"\n")
        if orjson.loads(first) != {"recipe": recipe} or os.lstat(shard).st_size != size:
            return None
    except (OSError, ValueError):
        return None
    noted = {}
    for line in lines:
        with suppress(ValueError, TypeError):
            name, digest = orjson.loads(line)
            noted[str(name)] = str(digest)
    return noted


def _fetch(shard: _Shard, missing: Sequence[_Place], advance: Advance) -> None:
    """Bring what is missing, several runs at once."""
    offsets = {(place.source.file.location, place.source.begin, place.source.name): place.offset for place in missing}
    runs = coalesce(place.source for place in missing)
    with ThreadPoolExecutor(CONNECTIONS) as pool:
        guarded = _guarded(advance, shard.lock)
        waiting = [pool.submit(_bring, shard, run, offsets, guarded) for run in runs]
        try:
            done, _ = wait(waiting, return_when=FIRST_EXCEPTION)
            for future in done:
                future.result()
        finally:
            shard.stop.set()
            for future in waiting:
                future.cancel()


def _bring(shard: _Shard, run: Run, offsets: Mapping[tuple[str, int, str], int], advance: Advance) -> None:
    """Write the tensors of one run to their places; note them as they are whole."""
    digests = {source.name: xxhash.xxh3_128() for source in run.sources}
    arrived = dict.fromkeys(digests, 0)
    finished: dict[str, str] = {
        source.name: digests[source.name].hexdigest() for source in run.sources if source.size == 0
    }
    waiting = 0
    try:
        for source, block in _pieces(run):
            if shard.stop.is_set():
                return
            at = arrived[source.name]
            write_all(shard.descriptor, block, offsets[source.file.location, source.begin, source.name] + at)
            digests[source.name].update(block)
            arrived[source.name] = at + len(block)
            waiting += len(block)
            advance(len(block))
            if arrived[source.name] == source.size:
                finished[source.name] = digests[source.name].hexdigest()
            if waiting >= _JOURNALLED and finished:
                shard.note(finished)
                finished, waiting = {}, 0
    finally:
        if finished:
            shard.note(finished)


def _pieces(run: Run) -> Iterator[tuple[TensorSource, memoryview]]:
    """The bytes of a run; files of the same donor that are here already are read here."""
    if run.file.is_remote:
        yield from stream(run)
        return
    with open_regular(run.file.location) as descriptor:
        for source in run.sources:
            for block in _blocks(descriptor, source.begin, source.size):
                yield source, block


def _blocks(descriptor: int, begin: int, count: int) -> Iterator[memoryview]:
    buffer = memoryview(bytearray(min(BLOCK, count)))
    at, end = begin, begin + count
    while at < end:
        got = os.preadv(descriptor, [buffer[: end - at]], at)
        if not got:
            return  # a file that ends early has other digests
        yield buffer[:got]
        at += got


def _reread(shard: _Shard, header: bytes, places: Mapping[str, _Place]) -> WrittenShard:
    """The digests of the finished file; each tensor must be what came.

    Raises:
        Mismatch: one is not.
    """
    sha, xxh = hashlib.sha256(header), xxhash.xxh3_128(header)
    size = len(header)
    for name, place in places.items():
        tensor = xxhash.xxh3_128()
        for block in _blocks(shard.descriptor, place.offset, place.source.size):
            for digest in (sha, xxh, tensor):
                digest.update(block)
            size += len(block)
        if tensor.hexdigest() != shard.noted[name]:
            problem = f"expected xxh3-128 {shard.noted[name]}, as it came, found {tensor.hexdigest()} on the disk"
            raise Mismatch(problem, subject=f"{shard.path}: {name}", hint="check the disk, then run the command again")
    return WrittenShard(Digests(size, sha.hexdigest(), xxh.hexdigest()), {name: shard.noted[name] for name in places})


def _journal(path: str) -> str:
    return f"{path}.journal"


def _guarded(advance: Advance, lock: threading.Lock) -> Advance:
    def report(count: int) -> None:
        with lock:
            advance(count)

    return report


@contextmanager
def _explaining(path: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        problem, hint = f"the system says: {error.strerror}", hint_for_errno(error.errno)
        raise EnvironmentFault(problem, subject=path, hint=hint) from None
