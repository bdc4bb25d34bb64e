"""The sha256 of a tensor: a range of a file, read a block at a time."""

from __future__ import annotations

import errno
import hashlib
import os
from typing import Final

from overlay.core.checkpoint import TensorSource
from overlay.core.progress import Advance
from overlay.errors import EnvironmentFault
from overlay.storage.files import fingerprint_of, hint_for_errno, open_regular
from overlay.storage.streams import read_range

_BLOCK: Final = 1 << 20


def sha256_of_range(source: TensorSource, advance: Advance) -> str:
    """sha256 of the bytes of `source`, in hex; one block of memory whatever their number.

    Raises:
        EnvironmentFault: the file cannot be read to the range's end, or changed since its header was read.
    """
    digest = hashlib.sha256()
    if source.file.is_remote:
        for piece in read_range(source.file, source.begin, source.end):
            digest.update(piece)
            advance(len(piece))
        return digest.hexdigest()
    try:
        with open_regular(source.file.location) as descriptor:
            at = source.begin
            while at < source.end:
                block = os.pread(descriptor, min(_BLOCK, source.end - at), at)
                if not block:
                    raise OSError(errno.EIO, f"the file ends at byte {at}")
                digest.update(block)
                advance(len(block))
                at += len(block)
            changed = fingerprint_of(os.fstat(descriptor)) != source.file.fingerprint
    except OSError as error:
        problem = f"expected to read bytes {source.begin} to {source.end}, the system says: {error.strerror}"
        raise EnvironmentFault(problem, subject=source.file.name, hint=hint_for_errno(error.errno)) from None
    if changed:
        problem = "expected a file at rest, found one that changes while it is read"
        raise EnvironmentFault(problem, subject=source.file.name, hint="wait until it is complete, then try again")
    return digest.hexdigest()
