"""Small files that this machine keeps for itself: listings and headers from elsewhere.

They are the user's alone (0600, in folders of 0700), put in place in one step, and begin with the sha256 of what follows,
so that a torn or foreign file counts as absent.  Losing one costs a request, never correctness; so nothing here fails.
"""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from hashlib import sha256
from typing import Final

from overlay.storage.files import open_regular, read_exactly
from overlay.storage.proofs import cache_folder

_DIGEST_BYTES: Final = 32


def recall_file(parts: tuple[str, ...]) -> bytes | None:
    """What was kept under the path `parts`, or None."""
    try:
        with open_regular(os.path.join(cache_folder(), *parts)) as descriptor:
            raw = read_exactly(descriptor, os.fstat(descriptor).st_size, 0)
    except OSError:
        return None
    data = raw[_DIGEST_BYTES:]
    return data if sha256(data).digest() == raw[:_DIGEST_BYTES] else None


def keep_file(parts: tuple[str, ...], data: bytes) -> None:
    """Keep `data` under the path `parts`; does nothing where the cache cannot be written."""
    folder = cache_folder()
    path = os.path.join(folder, *parts)
    temporary = f"{path}.{os.getpid()}.{os.urandom(4).hex()}"
    try:
        os.makedirs(folder, mode=0o700, exist_ok=True)
        for part in parts[:-1]:
            folder = os.path.join(folder, part)
            with suppress(FileExistsError):
                os.mkdir(folder, mode=0o700)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        with open(os.open(temporary, flags, stat.S_IRUSR | stat.S_IWUSR), "wb") as stream:
            stream.write(sha256(data).digest())
            stream.write(data)
        os.replace(temporary, path)
    except OSError:
        with suppress(OSError):
            os.unlink(temporary)
