"""The headers of many shards elsewhere, a few requests at a time, and each of them once on this machine.

A header is its shard's first 8 + N bytes.  The first request takes as much as the header probably has; a second one, the
rest.  What a shard says of its length is not believed beyond the format's limit.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from overlay.formats.digest import SHA256_HEX, sha256_of
from overlay.formats.header import LENGTH_BYTES, HeaderProblem, parse_header, read_length
from overlay.storage.files import explain_os_error, open_regular, read_exactly
from overlay.storage.parallel import in_parallel
from overlay.storage.private_cache import keep_file, recall_file
from overlay.storage.remote import Remote, RemoteFile

THREADS: Final = 8
"""As many as huggingface_hub uses for downloads."""

USUAL_BYTES: Final = 64 * 1024
"""The first request where nothing is known: most headers of language models are shorter."""

_ENOUGH_TO_RECOGNISE: Final = 64


def read_headers(repository: Remote, names: Sequence[str], guesses: Mapping[str, int]) -> dict[str, bytes]:
    """Name to the first 8 + N bytes of the shard, as they are.

    Where no such thing can be (a length over the format's limit, or past the end of the file), the first bytes come back,
    64 at most, for the reader of headers to say what is wrong.  A valid header is kept by the sha256 that the store states
    of its file, or by the file's address where it states none, so that it is asked for once.  Each Hub is believed about
    its own files alone.

    Args:
        repository: what holds the shards.
        names: their paths in it.
        guesses: path to the probable 8 + N, in bytes.

    Raises:
        EnvironmentFault, Mismatch: as `storage.remote.Remote.read`, of the first shard that fails.
    """

    def fetch(name: str) -> bytes:
        return _header(repository, repository.listing.files[name], guesses.get(name, USUAL_BYTES))

    return in_parallel(fetch, list(dict.fromkeys(names)), THREADS)


def _header(repository: Remote, file: RemoteFile, guess: int) -> bytes:
    found = repository.find(file.path)
    if found is not None:
        return _take(file, lambda begin, end: _read_here(found, begin, end), 0)
    key = _key(repository.listing.address, file)
    kept = recall_file(key)
    if kept is not None:
        return kept
    raw = _take(file, lambda begin, end: b"".join(repository.read(file.path, begin, end)), guess)
    try:
        parse_header(raw, file.size)
    except HeaderProblem:
        return raw  # kept, a header that was spoilt on its way would be spoilt for ever
    keep_file(key, raw)
    return raw


def _take(file: RemoteFile, read: Callable[[int, int], bytes], guess: int) -> bytes:
    """The first 8 + N bytes, by at most two calls of `read`."""
    raw = read(0, min(max(guess, _ENOUGH_TO_RECOGNISE), file.size))
    try:
        end = LENGTH_BYTES + read_length(raw[:_ENOUGH_TO_RECOGNISE], file.size)
    except HeaderProblem:
        return raw[:_ENOUGH_TO_RECOGNISE]
    return raw[:end] if end <= len(raw) else raw + read(len(raw), end)


def _read_here(path: str, begin: int, end: int) -> bytes:
    try:
        with open_regular(os.path.realpath(path, strict=True)) as descriptor:
            return read_exactly(descriptor, end - begin, begin)
    except OSError as error:
        raise explain_os_error(error, path) from None


def _key(address: str, file: RemoteFile) -> tuple[str, ...]:
    name = file.sha256
    if not SHA256_HEX.fullmatch(name):
        name = sha256_of(f"{address}/{file.path}\0{file.oid}\0{file.size}".encode("utf-8", "surrogateescape"))
    elif endpoint := os.environ.get("HF_ENDPOINT", ""):
        # Another Hub may state the sha256 of a file that it does not have.
        name = sha256_of(f"{endpoint}\0{name}".encode("utf-8", "surrogateescape"))
    return "headers", name[:2], name
