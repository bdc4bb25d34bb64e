"""What a store is asked, and what it may say.  `s3`, `web` and `general` speak this; `reading` judges it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

from overlay.errors import EnvironmentFault
from overlay.storage.object_stores.addresses import PACKAGES
from overlay.storage.remote import RemoteFile

MAX_OBJECTS = 100_000
"""Objects under one folder; the largest checkpoints have a few thousand files."""

PIECE = 1 << 20
"""Bytes that are handed on at once, at most."""


class Kind(Enum):
    """Why a store did not give what it was asked for."""

    GONE = "there is nothing of that name"
    CHANGED = "it is no longer what was listed"
    DENIED = "it may not be read"
    BUSY = "it may go better the next time"
    UNABLE = "it never will"


class Refusal(Exception):
    """A store's answer that is not the one that was asked for, in our words."""

    def __init__(self, kind: Kind, reason: str, wait_s: float | None = None) -> None:
        self.kind = kind
        self.reason = reason
        self.wait_s = wait_s
        """Seconds after which the store wants to be asked again."""
        super().__init__(reason)


@dataclass(frozen=True, slots=True)
class Extent:
    """Which bytes an answer says that it holds: ``[begin, end)`` of an object of `size` bytes called `oid`."""

    begin: int
    end: int
    size: int
    oid: str


class Answer(Protocol):
    """Bytes on their way."""

    @property
    def extent(self) -> Extent:
        """What the store says that they are."""

    def read(self) -> bytes:
        """The next piece, of at most `PIECE` bytes; none at the end.

        Raises:
            Refusal: the connection broke.
        """

    def close(self) -> None:
        """Nobody reads on."""


class Wire(Protocol):
    """The way to one folder."""

    def files(self) -> Mapping[str, RemoteFile]:
        """What the folder holds, by path.

        Raises:
            Refusal: the store does not say.
        """

    def open(self, file: RemoteFile, begin: int, end: int) -> Answer:
        """Ask for the bytes ``[begin, end)``, at least one, of the object that was listed, and no other.

        Raises:
            Refusal: there is no such answer.
        """


def not_installed(scheme: str, subject: str) -> EnvironmentFault:
    """The libraries for a scheme are missing."""
    package = PACKAGES[scheme]
    inside = package in ("s3fs", "aiohttp")
    hint = "pip install 'checkpoint-overlay[remote]'" + ("" if inside else f" {package}")
    return EnvironmentFault(f"expected the packages fsspec and {package}, found no", subject=subject, hint=hint)
