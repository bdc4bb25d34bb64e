"""Regular files, opened with suspicion.

Checkpoints come from strangers: a name may be a FIFO that blocks for ever, a device, or a link.  Everything here resolves
first, opens without blocking and without following, and looks at what it really opened.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from overlay.core.checkpoint import Fingerprint
from overlay.errors import EnvironmentFault, InvalidInput

_SAFE: Final = os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC


def fingerprint_of(status: os.stat_result) -> Fingerprint:
    """The fingerprint in a stat result."""
    return Fingerprint(status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)


def describe_kind(mode: int) -> str:
    """What a mode says that an entry is, in words."""
    kinds = {
        stat.S_IFDIR: "a directory",
        stat.S_IFIFO: "a FIFO",
        stat.S_IFSOCK: "a socket",
        stat.S_IFCHR: "a device",
        stat.S_IFBLK: "a device",
        stat.S_IFLNK: "a link",
    }
    return kinds.get(stat.S_IFMT(mode), "a regular file")


@contextmanager
def open_regular(path: str) -> Iterator[int]:
    """A file descriptor on the regular file at `path`, itself not a link.

    Raises:
        OSError: with ``EINVAL`` when it is no regular file, else what the kernel said.
    """
    descriptor = os.open(path, _SAFE)
    try:
        mode = os.fstat(descriptor).st_mode
        if not stat.S_ISREG(mode):
            raise OSError(errno.EINVAL, f"expected a regular file, found {describe_kind(mode)}", path)
        yield descriptor
    finally:
        os.close(descriptor)


def fsync_folder(path: str) -> None:
    """Make the entries of a folder durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_exactly(descriptor: int, count: int, offset: int) -> bytes:
    """Up to `count` bytes at `offset`; fewer only at the end of the file."""
    pieces = []
    while count > 0:
        piece = os.pread(descriptor, count, offset)
        if not piece:
            break
        pieces.append(piece)
        offset += len(piece)
        count -= len(piece)
    return b"".join(pieces)


def read_document(path: str, limit: int, what: str) -> bytes:
    """The whole of a document that the user named; links are followed.

    Raises:
        InvalidInput: it is not there, not a regular file, or larger than `limit` bytes.
        EnvironmentFault: it cannot be read.
    """
    subject = f"{path} ({what})"
    try:
        with open_regular(os.path.realpath(path, strict=True)) as descriptor:
            size = os.fstat(descriptor).st_size
            if size > limit:
                hint = f"check that this is a {what}"
                raise InvalidInput(f"expected at most {limit} bytes, found {size}", subject=subject, hint=hint)
            return read_exactly(descriptor, size + 1, 0)
    except OSError as error:
        raise explain_os_error(error, subject) from None


def explain_os_error(error: OSError, subject: str) -> InvalidInput | EnvironmentFault:
    """An operating system's refusal as one of ours: what is not there is bad input, the rest is the machine."""
    if error.errno in (errno.ENOENT, errno.ENOTDIR):
        problem = "expected a file, found nothing there (or a dangling link)"
        return InvalidInput(problem, subject=subject, hint="check the name, or fetch the file")
    instead = "name the file itself, or put a regular file there"
    if error.errno == errno.ELOOP:
        return InvalidInput("expected a file, found a loop of links", subject=subject, hint=instead)
    if error.errno == errno.EISDIR:
        return InvalidInput("expected a file, found a directory", subject=subject, hint=instead)
    if error.errno in (errno.EINVAL, errno.ENXIO):
        return InvalidInput(str(error.strerror), subject=subject, hint=instead)
    return EnvironmentFault(f"the system says: {error.strerror}", subject=subject, hint=hint_for_errno(error.errno))


def hint_for_errno(number: int | None) -> str:
    """The next thing to try after a fault of the machine."""
    hints = {
        errno.EACCES: "check the owner and mode of the file and its folders",
        errno.EPERM: "the file system or its owner forbids this; try another --link mode or target",
        errno.ENOSPC: "free space or choose a target on another file system",
        errno.EDQUOT: "the quota is used up; choose a target on another file system",
        errno.EROFS: "the file system is read-only; choose another target",
        errno.EXDEV: "base and target lie on different file systems; use --link symlink",
        errno.EMFILE: "raise the limit of open files (ulimit -n)",
        errno.ELOOP: "a link stands where a file is expected; remove it",
        errno.EIO: "the device reports an error; check the disk",
    }
    return hints.get(number or 0, "check the path and the machine, then run the command again")
