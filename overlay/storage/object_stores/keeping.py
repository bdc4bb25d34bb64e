"""Whole files of stores, kept in overlay's own cache folder by what they are: address, name, size and ETag.

A file is written beside its place, made durable and then given its name, so that what has the name is whole.  One whose
store says nothing that changes with its bytes is fetched again by every process.
"""

from __future__ import annotations

import fcntl
import os
import stat
import tempfile
from collections.abc import Iterable
from contextlib import suppress
from typing import Final

from overlay.core.progress import Advance
from overlay.errors import EnvironmentFault
from overlay.formats.digest import sha256_of
from overlay.storage.folders import fsync_folder, refused
from overlay.storage.proofs import cache_folder
from overlay.storage.remote import RemoteFile
from overlay.storage.shard_writer import write_all

FOLDER: Final = "stores"
_PART: Final = ".part-"
"""How the names of unfinished files begin; each kept file has a folder of its own, so that no other name gets in the way."""


def place_of(address: str, file: RemoteFile) -> str:
    """The path on this machine that belongs to a file of a store and to no other."""
    key = sha256_of("\0".join((address, file.path, str(file.size), file.oid)).encode())
    return os.path.join(cache_folder(), FOLDER, key, os.path.basename(file.path))


def is_kept(path: str, size: int) -> bool:
    """Whether a regular file of `size` bytes has this place."""
    try:
        status = os.lstat(path)
    except OSError:
        return False
    return stat.S_ISREG(status.st_mode) and status.st_size == size


def keep(path: str, size: int, pieces: Iterable[bytes], advance: Advance) -> None:
    """Write `pieces`, which are `size` bytes, to `path`, read-only and durable; nothing is left of what breaks.

    Raises:
        EnvironmentFault: the machine refuses, or has no space; what `pieces` raises goes through.
    """
    folder = os.path.dirname(path)
    try:
        os.makedirs(folder, mode=0o700, exist_ok=True)
        _remove_abandoned(folder)
        _require_space(path, size)
        descriptor, part = _new_part(path)
    except OSError as error:
        raise refused(error, path) from None
    try:
        at = 0
        for piece in pieces:
            write_all(descriptor, piece, at)
            at += len(piece)
            advance(len(piece))
        os.fchmod(descriptor, 0o444)
        os.fsync(descriptor)
        os.rename(part, path)
        fsync_folder(folder)
    except OSError as error:
        raise refused(error, path) from None
    finally:
        with suppress(OSError):
            os.unlink(part)  # there only if it did not get its name
        os.close(descriptor)


def _new_part(path: str) -> tuple[int, str]:
    """A new file beside `path`, locked as long as it is open, so that nobody takes it for abandoned."""
    while True:
        descriptor, part = tempfile.mkstemp(prefix=_PART, dir=os.path.dirname(path))
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        if os.fstat(descriptor).st_nlink:
            return descriptor, part
        os.close(descriptor)  # somebody removed it before it was locked


def _remove_abandoned(folder: str) -> None:
    """Remove what a process that was killed had begun: files that nobody holds a lock on."""
    for name in os.listdir(folder):
        if not name.startswith(_PART):
            continue
        with suppress(OSError):
            descriptor = os.open(os.path.join(folder, name), os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                os.unlink(os.path.join(folder, name))
            finally:
                os.close(descriptor)


def _require_space(path: str, size: int) -> None:
    status = os.statvfs(os.path.dirname(path))
    free = status.f_bavail * status.f_frsize
    if size > free:
        hint = "free space, or let OVERLAY_CACHE name a folder on another file system"
        raise EnvironmentFault(f"expected {size} bytes of free space, found {free}", subject=path, hint=hint)
