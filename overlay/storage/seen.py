"""Read files that were seen, here or elsewhere: headers, and small files whole."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from overlay.core.checkpoint import FileSeen
from overlay.errors import InvalidInput
from overlay.formats import header as header_format
from overlay.formats.digest import sha256_of
from overlay.formats.header import Header
from overlay.storage.files import explain_os_error, open_regular, read_exactly
from overlay.storage.stores import download, fetch_header, fetch_range

MAX_SIDECAR_BYTES: Final = 128 * 1024 * 1024
"""Larger files are no sidecars; the largest real ones are tokenizers of about 40 MB."""

_ENOUGH_TO_RECOGNISE: Final = 64

SharedHeaders = dict[tuple[str, int], Header]
"""Digest of a header's bytes and size of the file to the header: two checkpoints of one family share most of theirs."""


def read_header(file: FileSeen, shared: SharedHeaders | None = None) -> Header:
    """The header of a shard; one with the same bytes that is among `shared` is not parsed again.

    Raises:
        HeaderProblem: it breaks the format.
        OSError: it cannot be read, or is not the file that was seen.
    """
    raw, size = _raw_header(file)
    if shared is None:
        return header_format.parse_header(raw, size)
    key = sha256_of(raw), size
    if key not in shared:
        shared[key] = header_format.parse_header(raw, size)
    return shared[key]


def digest_header(file: FileSeen) -> str:
    """Digest of a shard's first 8 + N bytes, valid or not: enough to see that a header is no longer the one it was.

    Raises:
        OSError: it cannot be read.
    """
    if file.is_remote:
        return sha256_of(fetch_header(file))
    with open_regular(file.location) as descriptor:
        prefix = read_exactly(descriptor, header_format.LENGTH_BYTES, 0)
        length = min(int.from_bytes(prefix, "little"), header_format.MAX_HEADER_BYTES)
        return sha256_of(prefix + read_exactly(descriptor, length, len(prefix)))


def read_file(file: FileSeen, limit: int = MAX_SIDECAR_BYTES) -> bytes:
    """The bytes of a small file that was seen.

    Raises:
        InvalidInput: it has grown past `limit`.
        EnvironmentFault: it cannot be read.
    """
    try:
        here = download(file) if file.is_remote and file.size <= limit else file
        with open_regular(here.location) as descriptor:
            size = os.fstat(descriptor).st_size
            if size > limit:
                hint = "a file of this kind is small; fetch it again"
                raise InvalidInput(f"expected at most {limit} bytes, found {size}", subject=file.name, hint=hint)
            return read_exactly(descriptor, size + 1, 0)
    except OSError as error:
        raise explain_os_error(error, file.label) from None


def read_beginning(file: FileSeen, count: int = _ENOUGH_TO_RECOGNISE) -> bytes:
    """The first bytes of a file, by which pickles and archives are known.

    Raises:
        EnvironmentFault: it cannot be read.
    """
    if file.is_remote:
        return fetch_range(file, 0, count)
    try:
        with open_regular(file.location) as descriptor:
            return read_exactly(descriptor, count, 0)
    except OSError as error:
        raise explain_os_error(error, file.label) from None


def _raw_header(file: FileSeen) -> tuple[bytes, int]:
    """The first 8 + N bytes of a shard, and the size of the file."""
    if file.is_remote:
        raw = fetch_header(file)
        if len(raw) < header_format.LENGTH_BYTES + int.from_bytes(raw[: header_format.LENGTH_BYTES], "little"):
            header_format.read_length(raw[:_ENOUGH_TO_RECOGNISE], file.size)  # says what is wrong
        return raw, file.size
    with open_regular(file.location) as descriptor:
        size = os.fstat(descriptor).st_size
        prefix = read_exactly(descriptor, header_format.LENGTH_BYTES, 0)
        length = int.from_bytes(prefix, "little")
        if len(prefix) + length > size or length > header_format.MAX_HEADER_BYTES:
            header_format.read_length(read_exactly(descriptor, _ENOUGH_TO_RECOGNISE, 0), size)  # says what is wrong
        return prefix + read_exactly(descriptor, length, len(prefix)), size


@contextmanager
def paused_gc() -> Iterator[None]:
    """No cyclic garbage collection inside: parsed headers hold no cycles, and collecting costs 4.8 times the parsing."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
