"""Compare byte ranges of files, a block at a time."""

from __future__ import annotations

import os
from typing import Final

from overlay.core.parts import TensorSource
from overlay.errors import EnvironmentFault
from overlay.storage.files import hint_for_errno, open_regular

_BLOCK: Final = 1 << 20


def equal_ranges(one: TensorSource, other: TensorSource) -> bool:
    """Whether two tensors hold the same bytes; stops at the first block that differs.

    Raises:
        EnvironmentFault: a file cannot be read.
    """
    size = one.end - one.begin
    if size != other.end - other.begin:
        return False
    try:
        with open_regular(one.file.location) as left, open_regular(other.file.location) as right:
            for at in range(0, size, _BLOCK):
                count = min(_BLOCK, size - at)
                if os.pread(left, count, one.begin + at) != os.pread(right, count, other.begin + at):
                    return False
    except OSError as error:
        problem = f"the system says: {error.strerror}"
        raise EnvironmentFault(problem, subject=one.name, hint=hint_for_errno(error.errno)) from None
    return True
