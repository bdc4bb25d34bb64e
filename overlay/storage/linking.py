"""Place a large file in a stage without copying it, unless a copy was asked for by name.

``auto`` is a reflink where the file system can, else a symlink to the real file.  A copy never happens in its place:
a base is hundreds of gigabytes.
"""

from __future__ import annotations

import errno
import fcntl
import os
from typing import Final, Literal, assert_never

from overlay.core.checkpoint import FileSeen, Fingerprint
from overlay.core.progress import Advance
from overlay.errors import Conflict, EnvironmentFault
from overlay.formats.receipt import How
from overlay.storage.files import fingerprint_of, hint_for_errno, open_regular
from overlay.storage.shard_writer import copy_bytes

LinkMode = Literal["auto", "reflink", "symlink", "hardlink", "copy"]
LINK_MODES: Final[tuple[LinkMode, ...]] = ("auto", "reflink", "symlink", "hardlink", "copy")

_FICLONE: Final = 0x40049409
_LOST: Final = frozenset({errno.EIO, errno.ENOSPC, errno.EDQUOT})
"""What fsync says when bytes that were written did not reach the disk."""
_CANNOT_CLONE: Final = frozenset({errno.EOPNOTSUPP, errno.EXDEV, errno.EINVAL, errno.ENOTTY, errno.ENOSYS, errno.EPERM})


def place(file: FileSeen, destination: str, mode: LinkMode, advance: Advance) -> How:
    """Make `destination` (which does not exist) hold the bytes of `file`, and say how that was done.

    Raises:
        Conflict: the file is no longer the one that was seen.
        EnvironmentFault: the file system cannot do what `mode` asks for.
    """
    try:
        match mode:
            case "auto":
                how: How = "reflink" if _reflink(file, destination) else _symlink(file, destination)
            case "reflink":
                if not _reflink(file, destination):
                    raise OSError(errno.EOPNOTSUPP, "the file system cannot share blocks between these files")
                how = "reflink"
            case "symlink":
                how = _symlink(file, destination)
            case "hardlink":
                os.link(file.location, destination, follow_symlinks=False)
                how = "hardlink"
            case "copy":
                _copy(file, destination, advance)
                how = "copy"
            case _:
                assert_never(mode)
    except OSError as error:
        raise EnvironmentFault(
            f"expected to {mode} {file.location}, the system says: {error.strerror}",
            subject=file.name,
            hint=_hint(error),
        ) from None
    _require_unchanged(file, os.stat(file.location, follow_symlinks=False))
    return how


def flush(file: FileSeen) -> None:
    """Ask that the bytes behind a link be on the disk: the Hub client never did.  Costs nothing for a clean file.

    Raises:
        OSError: the disk could not take them, so that what was read of the file may be gone after a restart.
    """
    try:
        with open_regular(file.location) as descriptor:
            os.fsync(descriptor)
    except OSError as error:
        if error.errno in _LOST:
            raise  # any other refusal, of a read-only file system above all, means that there is nothing to flush


def _symlink(file: FileSeen, destination: str) -> How:
    os.symlink(file.location, destination)
    return "symlink"


def _reflink(file: FileSeen, destination: str) -> bool:
    """Share the blocks of `file`; False where the file system cannot, with nothing left behind."""
    with open_regular(file.location) as source:
        target = os.open(destination, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
        try:
            fcntl.ioctl(target, _FICLONE, source)
            os.fsync(target)
        except OSError as error:
            os.unlink(destination)
            if error.errno in _CANNOT_CLONE:
                return False
            raise
        finally:
            os.close(target)
    return True


def _copy(file: FileSeen, destination: str, advance: Advance) -> None:
    with open_regular(file.location) as source:
        target = os.open(destination, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
        try:
            os.ftruncate(target, file.size)
            copy_bytes(source, target, 0, file.size, 0, advance)
            os.fsync(target)
        finally:
            os.close(target)


def _require_unchanged(file: FileSeen, status: os.stat_result) -> None:
    """The source must still be what was seen.  A new hard link moves ctime, so that ctime alone proves nothing here."""
    if _without_ctime(fingerprint_of(status)) != _without_ctime(file.fingerprint):
        raise Conflict(
            "expected the file that was planned with, found one that changed since",
            subject=file.name,
            hint="run the command again",
        )


def _without_ctime(fingerprint: Fingerprint) -> tuple[int, ...]:
    return tuple(fingerprint[:-1])


def _hint(error: OSError) -> str:
    if error.errno in (errno.EOPNOTSUPP, errno.EXDEV, errno.EPERM, errno.EMLINK):
        return "use --link symlink, or --link copy where a full copy is wanted"
    return hint_for_errno(error.errno)
