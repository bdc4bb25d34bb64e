"""A shard that is written in any order: its header says where every tensor belongs, so whoever has one puts it there.

Many threads may write at once, each to its own bytes.  The file is created with mode 0644 & ~umask, is as long as it will
be from the beginning (what nobody writes is a hole and reads as zeros), and is fsynced in the end.  Whatever goes wrong,
nothing is left of it.
"""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager

from overlay.core.checkpoint import FileSeen, TensorSource
from overlay.core.progress import Advance
from overlay.errors import Conflict, EnvironmentFault
from overlay.storage.files import fingerprint_of, hint_for_errno, open_regular
from overlay.storage.shard_writer import BLOCK, copy_bytes, write_all

See = Callable[[memoryview], object]
"""Looks at the next block of a range; what it is given is overwritten after that."""


class ShardFile:
    """A shard that is being written.  Offsets are counted from the start of the file."""

    def __init__(self, path: str, descriptor: int) -> None:
        self._path = path
        self._descriptor = descriptor

    def write_at(self, offset: int, data: bytes | memoryview) -> None:
        """Put `data` at `offset`.

        Raises:
            EnvironmentFault: the system refuses.
        """
        with _explaining(self._path):
            write_all(self._descriptor, data, offset)

    def copy_at(self, offset: int, source: TensorSource, donors: Donors, advance: Advance) -> None:
        """Put the bytes of `source` at `offset`, inside the kernel and as shared blocks where it can; holes stay holes.

        Raises:
            Conflict: the donor's shard is no longer the one that was seen.
            EnvironmentFault: the system refuses.
        """
        source = donors.here(source)
        descriptor = donors.descriptor_of(source.file)
        with _explaining(self._path):
            copy_bytes(descriptor, self._descriptor, source.begin, source.end, offset, advance)

    def read(self, begin: int, end: int, see: See) -> None:
        """Show `see` the bytes ``[begin, end)`` that were written, a block at a time, and let the disk have them.

        Raises:
            EnvironmentFault: the system refuses.
        """
        _read(self._descriptor, self._path, begin, end, see)
        if end - begin >= BLOCK:  # the disk begins to write now and not at the fsync
            with _explaining(self._path):
                os.posix_fadvise(self._descriptor, begin, end - begin, os.POSIX_FADV_DONTNEED)


@contextmanager
def new_shard(path: str, header: bytes, size: int) -> Iterator[ShardFile]:
    """Create `path`, of `size` bytes that begin with `header`; it stays only if the context ends well.

    Raises:
        EnvironmentFault: there is something at `path`, or the system refuses.
    """
    with _explaining(path):
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
    try:
        with _explaining(path):
            write_all(descriptor, header, 0)
            os.ftruncate(descriptor, size)
        yield ShardFile(path, descriptor)
        with _explaining(path):
            os.fsync(descriptor)
    except BaseException:
        os.unlink(path)
        raise
    finally:
        os.close(descriptor)


Here = Mapping[tuple[str, int, int], TensorSource]
"""Extent of a tensor elsewhere, to the same tensor in a file of this machine."""


class Donors(ExitStack):
    """The shards of donors, each opened when it is first needed, for any number of threads; a context.

    Args:
        here: tensors that were fetched.
    """

    def __init__(self, here: Here | None = None) -> None:
        super().__init__()
        self._here = here or {}
        self._lock = threading.Lock()
        self._opened: dict[str, tuple[FileSeen, int]] = {}

    def descriptor_of(self, file: FileSeen) -> int:
        """A descriptor on `file`, good until the context ends.

        Raises:
            Conflict: it is no longer the file that was seen.
            EnvironmentFault: it cannot be opened.
        """
        with self._lock:
            if file.location not in self._opened:
                with _explaining(file.name):
                    descriptor = self.enter_context(open_regular(file.location))
                _require_seen(file, descriptor)
                self._opened[file.location] = file, descriptor
            return self._opened[file.location][1]

    def here(self, source: TensorSource) -> TensorSource:
        """`source`, where it is on this machine."""
        return self._here.get(source.extent, source)

    def read_into(self, source: TensorSource, memory: memoryview) -> None:
        """Read the bytes of `source` into `memory`, which is as long.

        Raises:
            Conflict: the file is no longer the one that was seen.
            EnvironmentFault: it cannot be read.
        """
        source = self.here(source)
        descriptor = self.descriptor_of(source.file)
        at = source.begin
        while at < source.end:
            at += _some(descriptor, source.file.name, memory[at - source.begin :], at)

    def read(self, source: TensorSource, see: See) -> None:
        """Show `see` the bytes of `source`, a block at a time.

        Raises:
            Conflict: the file is no longer the one that was seen.
            EnvironmentFault: it cannot be read.
        """
        source = self.here(source)
        descriptor = self.descriptor_of(source.file)
        _read(descriptor, source.file.name, source.begin, source.end, see)

    def read_ahead(self, source: TensorSource) -> None:
        """Let the kernel begin to read `source`, into memory that it can take back.

        Raises:
            Conflict, EnvironmentFault: as `descriptor_of`.
        """
        source = self.here(source)
        descriptor, length = self.descriptor_of(source.file), source.end - source.begin
        if length:  # none would mean all of the file
            os.posix_fadvise(descriptor, source.begin, length, os.POSIX_FADV_WILLNEED)

    def require_unchanged(self) -> None:
        """Refuse what was read if a file changed meanwhile: a cut file would pass for a hole.

        Raises:
            Conflict: one of them did.
        """
        with self._lock:
            for file, descriptor in self._opened.values():
                _require_seen(file, descriptor)


def _read(descriptor: int, subject: str, begin: int, end: int, see: See) -> None:
    buffer = memoryview(bytearray(min(BLOCK, end - begin)))
    while begin < end:
        count = _some(descriptor, subject, buffer[: end - begin], begin)
        see(buffer[:count])
        begin += count


def _some(descriptor: int, subject: str, memory: memoryview, offset: int) -> int:
    """Read what comes of `memory`'s length at `offset`."""
    with _explaining(subject):
        count = os.preadv(descriptor, [memory], offset)
        if count == 0:
            raise OSError(errno.EIO, f"the file ended at byte {offset}")
    return count


def _require_seen(file: FileSeen, descriptor: int) -> None:
    # ctime moves when somebody makes a hard link; the bytes are the same then.
    if fingerprint_of(os.fstat(descriptor))[:4] != file.fingerprint[:4]:
        raise Conflict(
            "expected the shard that was planned with, found one that changed since",
            subject=file.name,
            hint="run the command again",
        )


@contextmanager
def _explaining(subject: str) -> Iterator[None]:
    """Turns the system's refusals into faults of the machine."""
    try:
        yield
    except OSError as error:
        problem, hint = f"the system says: {error.strerror}", hint_for_errno(error.errno)
        raise EnvironmentFault(problem, subject=subject, hint=hint) from None
