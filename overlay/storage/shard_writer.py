"""Write a shard: a header that we made, then byte ranges of other files, streamed.

No tensor library is involved and memory stays constant: one block.  Holes of a sparse source stay holes.  The file is
created with mode 0644 & ~umask and fsynced; it becomes visible when its folder is renamed, or by the caller's rename.
(``safetensors.serialize_file`` 0.8.0 cannot stream, writes mode 0600 and does not fsync.)
"""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Final

import xxhash

from overlay.core.checkpoint import FileSeen, TensorSource
from overlay.core.parts import Run
from overlay.core.progress import Advance
from overlay.errors import Conflict, EnvironmentFault
from overlay.formats.digest import Digests
from overlay.storage.files import fingerprint_of, hint_for_errno, open_regular
from overlay.storage.streams import Streams

BLOCK: Final = 1 << 20
_SHARED_BLOCK: Final = 4096
_COPIED_AT_ONCE: Final = 64 * BLOCK
_ZEROS: Final = bytes(BLOCK)


@dataclass(frozen=True, slots=True)
class WrittenShard:
    """What was written, as it was hashed on the way."""

    digests: Digests
    tensors: dict[str, str]
    """Tensor to the xxh3-128 of its bytes."""


def digest_shard(header: bytes, sources: Iterable[TensorSource], advance: Advance) -> WrittenShard:
    """What `write_shard` would write, without writing it.

    Raises:
        Conflict, EnvironmentFault: as `write_shard`.
    """
    return _stream(None, header, sources, advance)


def write_shard(path: str, header: bytes, sources: Iterable[TensorSource], advance: Advance) -> WrittenShard:
    """Create `path` from `header` and the bytes of `sources`, which follow each other in the order of the header.

    Raises:
        Conflict: a donor's shard is no longer the one that was seen.
        EnvironmentFault: reading or writing failed; nothing is left at `path`.
    """
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    target = os.open(path, flags, 0o644)
    try:
        written = _stream(target, header, sources, advance)
        os.ftruncate(target, written.digests.size)  # a hole at the end of the data is part of the file
        os.fsync(target)
    except BaseException as error:
        os.unlink(path)
        if isinstance(error, OSError):
            raise EnvironmentFault(
                f"the system says: {error.strerror}", subject=path, hint=hint_for_errno(error.errno)
            ) from None
        raise
    finally:
        os.close(target)
    return written


def digest_trimmed(header: bytes, file: FileSeen, runs: Iterable[Run], advance: Advance) -> Digests:
    """What `write_trimmed` would write, read and digested.

    Raises:
        Conflict, EnvironmentFault: as `write_shard`.
    """
    sources = (TensorSource("", "", (), file, run.begin, run.end) for run in runs)
    return _stream(None, header, sources, advance).digests


def write_trimmed(path: str, header: bytes, file: FileSeen, runs: Iterable[Run], advance: Advance) -> None:
    """Create `path` from `header` and the `runs` of `file`, copied inside the kernel, as shared blocks where it can.

    Raises:
        Conflict: the file is no longer the one that was seen.
        OSError: reading or writing failed; nothing is left at `path`.
    """
    target = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
    try:
        with _Sources() as opened:
            source = opened.descriptor_of(file)
            write_all(target, header, 0)
            at = len(header)
            advance(at)
            for run in runs:
                copy_bytes(source, target, run.begin, run.end, at, advance)
                at += run.end - run.begin
            opened.finish()
        os.ftruncate(target, at)  # a hole at the end of the data is part of the file
        os.fsync(target)
    except BaseException:
        os.unlink(path)
        raise
    finally:
        os.close(target)


def copy_bytes(source: int, target: int, begin: int, end: int, at: int, advance: Advance) -> None:
    """Copy ``[begin, end)`` of `source` to `at` of `target` inside the kernel; holes are skipped."""
    while begin < end:
        data = _next_data(source, begin, end)
        advance(data - begin)
        at += data - begin
        begin = data
        stop = min(end, _next_hole(source, begin, end))
        while begin < stop:
            count = _copy_some(source, target, _stride(begin, at, stop), begin, at)
            if count == 0:
                raise OSError(errno.EIO, "the source ended early")
            if count >= BLOCK:  # the disk begins to write now and not at the fsync, while the next piece is copied
                os.posix_fadvise(target, at, count, os.POSIX_FADV_DONTNEED)
            begin += count
            at += count
            advance(count)


def _stride(begin: int, at: int, stop: int) -> int:
    """How much to copy in one call: whole blocks where source and target agree modulo a block, so that they are shared.

    The bytes before the first and after the last whole block are copied by calls of their own.
    """
    if (begin - at) % _SHARED_BLOCK:
        return min(stop - begin, _COPIED_AT_ONCE)
    if begin % _SHARED_BLOCK:
        return min(stop - begin, _SHARED_BLOCK - begin % _SHARED_BLOCK)
    whole = (stop - begin) // _SHARED_BLOCK * _SHARED_BLOCK
    return min(whole, _COPIED_AT_ONCE) or stop - begin


def write_all(descriptor: int, data: bytes | memoryview, offset: int) -> None:
    """Write all of `data` at `offset`; a short write is continued."""
    view = memoryview(data)
    while view:
        count = os.pwrite(descriptor, view, offset)
        offset += count
        view = view[count:]


def _stream(target: int | None, header: bytes, sources: Iterable[TensorSource], advance: Advance) -> WrittenShard:
    """One pass over the sources, a block at a time: hash the file and each tensor, and write where there is a target."""
    file_sha, file_xxh = hashlib.sha256(header), xxhash.xxh3_128(header)
    if target is not None:
        write_all(target, header, 0)
    at = len(header)
    tensors: dict[str, str] = {}
    wanted = tuple(sources)
    with _Sources(wanted) as opened:
        for source in wanted:
            tensor_xxh = xxhash.xxh3_128()
            for count, block in opened.blocks(source):
                if target is not None and block is not None:
                    write_all(target, block, at)
                seen = _ZEROS[:count] if block is None else block
                for digest in (file_sha, file_xxh, tensor_xxh):
                    digest.update(seen)
                at += count
                advance(count)
            tensors[source.name] = tensor_xxh.hexdigest()
        opened.finish()
    return WrittenShard(Digests(at, file_sha.hexdigest(), file_xxh.hexdigest()), tensors)


def _next_block(descriptor: int, position: int, end: int, buffer: memoryview) -> tuple[int, memoryview | None]:
    """The next bytes of a range: their count, and the bytes themselves or None for a hole."""
    wanted = min(end - position, BLOCK)
    data = _next_data(descriptor, position, position + wanted)
    if data > position:
        return data - position, None
    wanted = min(wanted, max(1, _next_hole(descriptor, position, end) - position))  # a hole begins a block of its own
    count = os.preadv(descriptor, [buffer[:wanted]], position)
    if count == 0:
        raise OSError(errno.EIO, f"the donor's shard ended at byte {position}")
    return count, buffer[:count]


class _Sources(ExitStack):
    """The donor's shards: each opened when its turn comes, and closed when the next one's does."""

    def __init__(self, sources: Sequence[TensorSource] = ()) -> None:
        super().__init__()
        self._file: FileSeen | None = None
        self._descriptor = -1
        self._buffer = memoryview(bytearray(BLOCK))
        self._streams = Streams([source for source in sources if source.file.is_remote])

    def blocks(self, source: TensorSource) -> Iterator[tuple[int, memoryview | None]]:
        """The bytes of `source` in pieces: their count, and the bytes themselves or None for a hole.

        Raises:
            Conflict: a file is no longer the one that was seen.
            EnvironmentFault, Mismatch: one elsewhere cannot be had, or is no longer the one that was listed.
        """
        if source.file.is_remote:
            yield from ((len(block), block) for block in self._streams.blocks(source))
            return
        descriptor = self.descriptor_of(source.file)
        position = source.begin
        while position < source.end:
            count, block = _next_block(descriptor, position, source.end, self._buffer)
            yield count, block
            position += count

    def descriptor_of(self, file: FileSeen) -> int:
        """A descriptor on `file`.

        Raises:
            Conflict: it, or the one before, is no longer the file that was seen.
        """
        if self._file is None or file.location != self._file.location:
            self.finish()
            self._descriptor = self.enter_context(open_regular(file.location))
            self._file = file
            self._require_seen(file)
        return self._descriptor

    def finish(self) -> None:
        """Close what is open; what was read of it must be what was seen to the end, or a cut file would pass for a hole.

        Raises:
            Conflict: it changed meanwhile.
        """
        if self._file is not None:
            self._require_seen(self._file)
        self.close()
        self._file = None

    def _require_seen(self, file: FileSeen) -> None:
        # ctime moves when somebody makes a hard link; the bytes are the same then.
        if fingerprint_of(os.fstat(self._descriptor))[:4] != file.fingerprint[:4]:
            raise Conflict(
                "expected the shard that was planned with, found one that changed since",
                subject=file.name,
                hint="run the command again",
            )


def _next_data(descriptor: int, begin: int, end: int) -> int:
    """The first offset in ``[begin, end]`` that is not in a hole; `begin` where the file system does not tell."""
    try:
        return min(end, os.lseek(descriptor, begin, os.SEEK_DATA))
    except OSError as error:
        return end if error.errno == errno.ENXIO else begin


def _next_hole(descriptor: int, begin: int, end: int) -> int:
    try:
        return os.lseek(descriptor, begin, os.SEEK_HOLE)
    except OSError:
        return end


def _copy_some(source: int, target: int, count: int, begin: int, at: int) -> int:
    try:
        return os.copy_file_range(source, target, count, begin, at)
    except OSError as error:
        if error.errno not in (errno.EXDEV, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL):
            raise
        block = os.pread(source, min(count, BLOCK), begin)
        write_all(target, block, at)
        return len(block)
