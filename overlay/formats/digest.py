"""Digests as they are written: lower-case hex, sha256 unless another name is said."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from overlay.formats import strict_json

SHA256_HEX = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Digests:
    """What one pass over a file gives.  sha256 decides; xxh3-128 only speeds things up, since it can be forged."""

    size: int
    sha256: str
    xxh3_128: str


def sha256_of(data: bytes) -> str:
    """sha256 of `data` in hex."""
    return hashlib.sha256(data).hexdigest()


def git_hasher(size: int) -> Any:
    """What gives git's id of a file of `size` bytes once it is fed with them: sha1 over ``blob <size>\\0`` and the bytes.

    Source: gitformat-loose.
    """
    return hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False)


def digest_of_list(entries: Iterable[tuple[str, int, str]]) -> str:
    """One digest for a set of files: sha256 of the canonical list of (name, size, digest), sorted by name.

    Names and sizes are bound in, so that a swap of two equal-looking files changes the digest.
    """
    return sha256_of(strict_json.canonical([list(entry) for entry in sorted(entries)]))
