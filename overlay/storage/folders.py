"""Whole folders: make them durable, move them in one step, exchange two of them, delete them.

Nothing here looks inside a folder to decide anything, and nothing copies: a move is one system call or it did not happen.
"""

from __future__ import annotations

import ctypes
import errno
import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Final

from overlay.errors import Conflict, EnvironmentFault
from overlay.storage.files import hint_for_errno

_AT_FDCWD: Final = -100
_NOREPLACE: Final = 1
_EXCHANGE: Final = 2


def fsync_folder(path: str) -> None:
    """Make the entries of a folder durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def move(source: str, destination: str) -> None:
    """Give the folder `source` the name `destination`, which must be free.

    Raises:
        Conflict: something has that name.
        OSError: the kernel refused; nothing was changed.
    """
    _rename(source, destination, _NOREPLACE)


def exchange(one: str, other: str) -> None:
    """Let two folders change names.

    Raises:
        EnvironmentFault: the file system cannot do that in one step; nothing was changed.
        OSError: the kernel refused; nothing was changed.
    """
    _rename(one, other, _EXCHANGE)


@contextmanager
def movable(path: str) -> Iterator[None]:
    """Inside, the owner may write the folder at `path`: without that its ``..`` cannot be made to lead elsewhere.

    The mode goes back to what it was on the folder itself, whatever its name is by then.
    """
    if os.access(path, os.W_OK):
        yield
        return
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        mode = stat.S_IMODE(os.fstat(descriptor).st_mode)
        os.fchmod(descriptor, mode | stat.S_IWUSR)
        try:
            yield
        finally:
            os.fchmod(descriptor, mode)
    finally:
        os.close(descriptor)


def delete(path: str) -> None:
    """Delete a folder and what is in it, read-only folders too; what cannot be deleted stays, and so does a link."""
    if os.path.islink(path):
        return
    for folder, _, _ in os.walk(path):
        if not os.access(folder, os.W_OK):
            with suppress(OSError):
                os.chmod(folder, 0o700)
    shutil.rmtree(path, ignore_errors=True)


def refused(error: OSError, subject: str) -> EnvironmentFault:
    """What the kernel refused, as an error for people."""
    return EnvironmentFault(
        f"the system says: {error.strerror or error}", subject=str(subject), hint=hint_for_errno(error.errno)
    )


def _rename(source: str, target: str, flag: int) -> None:
    """``renameat2``, which Python does not offer (glibc 2.28 does)."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.renameat2(_AT_FDCWD, os.fsencode(source), _AT_FDCWD, os.fsencode(target), flag) == 0:
        return
    number = ctypes.get_errno()
    if number == errno.EEXIST:
        problem = "expected no such folder, found one that was made meanwhile"
        raise Conflict(problem, subject=target, hint="run the command again")
    if number in (errno.EINVAL, errno.ENOSYS):
        _rename_without_flags(source, target, flag)
        return
    raise OSError(number, os.strerror(number), target)


def _rename_without_flags(source: str, target: str, flag: int) -> None:
    """Some network file systems know only the plain rename: enough for a target that is absent or empty."""
    try:
        os.rename(source, target)
    except OSError as error:
        if flag == _EXCHANGE and error.errno in (errno.ENOTEMPTY, errno.EEXIST):
            raise EnvironmentFault(
                "this file system cannot exchange two folders in one step",
                subject=target,
                hint="apply to a new folder, then point the server at it",
            ) from None
        raise
