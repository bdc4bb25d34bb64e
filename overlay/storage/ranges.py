"""Compare and digest byte ranges of files, a block at a time.

A hole of a sparse file reads as zeros; where both sides have a hole nothing is read at all.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from typing import Final

import xxhash

from overlay.core.checkpoint import TensorSource
from overlay.errors import EnvironmentFault
from overlay.storage.files import hint_for_errno, open_regular, read_exactly
from overlay.storage.streams import read_range

_BLOCK: Final = 1 << 20

_SHORT: Final = "the file ends too early"

Advance = Callable[[int], None]


def equal_ranges(one: TensorSource, other: TensorSource, advance: Advance = lambda count: None) -> bool:
    """Whether two ranges hold the same bytes; stops at the first block that differs.

    `advance` is told of bytes as they are compared.

    Raises:
        EnvironmentFault: a file cannot be read.
    """
    size = one.end - one.begin
    if size != other.end - other.begin:
        return False
    if one.file.is_remote or other.file.is_remote:
        return _equal_streams(one, other, advance)
    try:
        with open_regular(one.file.location) as left, open_regular(other.file.location) as right:
            _require_length(left, one)
            _require_length(right, other)
            at = 0
            while at < size:
                data = min(
                    _next_data(left, one.begin + at) - one.begin, _next_data(right, other.begin + at) - other.begin
                )
                if data > at:
                    advance(min(data, size) - at)
                    at = data
                    continue
                count = min(_BLOCK, size - at)
                if os.pread(left, count, one.begin + at) != os.pread(right, count, other.begin + at):
                    return False
                advance(count)
                at += count
    except OSError as error:
        raise _unreadable(error, one, other) from None
    return True


def digest_range(source: TensorSource, advance: Advance = lambda count: None) -> bytes:
    """The xxh3-128 digest of a range.

    Raises:
        EnvironmentFault: the file cannot be read, or ends before the range does.
    """
    digest = xxhash.xxh3_128()
    if source.file.is_remote:
        for piece in read_range(source.file, source.begin, source.end):
            digest.update(piece)
            advance(len(piece))
        return digest.digest()
    try:
        with open_regular(source.file.location) as descriptor:
            at = source.begin
            while at < source.end:
                block = os.pread(descriptor, min(_BLOCK, source.end - at), at)
                if not block:
                    raise OSError(errno.EIO, _SHORT)
                digest.update(block)
                advance(len(block))
                at += len(block)
    except OSError as error:
        raise _unreadable(error, source) from None
    return digest.digest()


def _equal_streams(one: TensorSource, other: TensorSource, advance: Advance) -> bool:
    """`equal_ranges` where a side lies elsewhere; sides that a store states the same sha256 for are equal unread."""
    if one.file.stated_sha256 and one.file.stated_sha256 == other.file.stated_sha256 and one.begin == other.begin:
        advance(one.end - one.begin)
        return True
    left, right = _pieces(one), _pieces(other)
    rest, across = memoryview(b""), memoryview(b"")
    done, size = 0, one.end - one.begin
    while done < size:
        rest, across = rest or memoryview(next(left)), across or memoryview(next(right))
        count = min(len(rest), len(across))
        if rest[:count] != across[:count]:
            return False
        rest, across, done = rest[count:], across[count:], done + count
        advance(count)
    return True


def _pieces(source: TensorSource) -> Iterator[bytes]:
    """The bytes of a range, wherever it lies."""
    if source.file.is_remote:
        yield from read_range(source.file, source.begin, source.end)
        return
    try:
        with open_regular(source.file.location) as descriptor:
            _require_length(descriptor, source)
            for at in range(source.begin, source.end, _BLOCK):
                yield read_exactly(descriptor, min(_BLOCK, source.end - at), at)
    except OSError as error:
        raise _unreadable(error, source) from None


def _unreadable(error: OSError, *sources: TensorSource) -> EnvironmentFault:
    """Why a range could not be read, with the file that is to blame, where the system says which."""
    location = error.filename or next(
        (s.file.location for s in sources if _size(s.file.location) < s.end), sources[0].file.location
    )
    subject = f"{location}: {sources[0].name}"
    if error.errno in (None, errno.ENOENT) or error.strerror == _SHORT:
        problem = "expected the file that was seen, found one that was cut or removed since"
        return EnvironmentFault(problem, subject=subject, hint="run the command again")
    return EnvironmentFault(f"the system says: {error.strerror}", subject=subject, hint=hint_for_errno(error.errno))


def _size(path: str) -> int:
    try:
        return os.stat(path).st_size
    except OSError:
        return 0


def _require_length(descriptor: int, source: TensorSource) -> None:
    """Refuse a file that shrank since its header was read: what lies behind its end would pass for a hole."""
    if os.fstat(descriptor).st_size < source.end:
        raise OSError(errno.EIO, _SHORT)


def _next_data(descriptor: int, at: int) -> int:
    """The first byte from `at` on that is not in a hole; far behind the end when the rest is one."""
    try:
        return os.lseek(descriptor, at, os.SEEK_DATA)
    except OSError as error:
        if error.errno == errno.ENXIO:  # nothing but a hole up to the end
            return 1 << 62
        if error.errno == errno.EINVAL:  # this file system does not tell
            return at
        raise
