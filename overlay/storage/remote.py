"""What lies on another machine: the one protocol that the Hub and object stores speak to the rest of the house.

A file elsewhere has an address instead of a path: ``hf://org/name@<commit>/file``, ``s3://bucket/folder/file``.  It stands
in `FileSeen.location`, so that everything which decides from headers need not know where a file is.  What reads bytes asks
`remote_of` for the store.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

from overlay.core.progress import Advance


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """A file as its store lists it."""

    path: str
    """Inside the repository, with ``/`` between folders."""
    size: int
    sha256: str = ""
    """Of the bytes, where the store states it: the Hub does for LFS and Xet files."""
    oid: str = ""
    """What changes when the bytes do: the git blob id, or the ETag."""
    xet_hash: str = ""
    """The Hub's name for the file in its chunk store, where it has one."""


@dataclass(frozen=True, slots=True)
class Listing:
    """Everything that a repository holds at one commit."""

    address: str
    """``hf://org/name@<commit>``, or the address of a folder in a store; without a slash at the end."""
    commit: str | None
    files: Mapping[str, RemoteFile]
    """Path to file.  No path leaves the repository."""


class Remote(Protocol):
    """A repository elsewhere, at one commit."""

    @property
    def listing(self) -> Listing:
        """What it holds."""

    def read(self, path: str, begin: int, end: int) -> Iterator[bytes]:
        """The bytes ``[begin, end)`` of a file, in pieces of at most 1 MiB.

        Every answer is checked: status 206, Content-Range, length, and an ETag that stays.  A transfer that breaks is
        continued where it stopped, a bounded number of times.

        Raises:
            EnvironmentFault: the store cannot be reached, or does not answer as asked.
            Mismatch: the file is no longer the one that was listed.
        """

    def download(self, path: str, advance: Advance) -> str:
        """The path of a whole file on this machine; it is fetched if it is not here yet, and then compared with its sha256.

        Raises:
            EnvironmentFault: it cannot be fetched, or there is no space.
            Mismatch: the bytes are not what the listing states; they are not kept.
        """

    def find(self, path: str) -> str | None:
        """The path of the file on this machine, where it is here already; asks nobody."""
