"""Drafts: shards that a build has finished before it can put them in place, kept for the next one when it is interrupted.

They lie in a folder beside the target, each with a note of what it was made from.  The note is written last, so that a shard
without one is garbage; a shard that was touched since its note was written is made again.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

import orjson

from overlay.errors import Conflict, InvalidInput, Mismatch
from overlay.storage.files import fingerprint_of
from overlay.storage.folders import fsync_folder


class Drafts:
    """The drafts of one target."""

    def __init__(self, target: str) -> None:
        parent, name = os.path.split(target)
        self.folder = os.path.join(parent, f".{name}.overlay-build")

    def find(self, shard: str, recipe: str) -> Mapping[str, Any] | None:
        """What was noted of a finished shard that was made from `recipe`; None where there is none to take over."""
        try:
            with open(self._note(shard), "rb") as stream:
                note = orjson.loads(stream.read())
            status = os.lstat(self.path_of(shard))
            # Without ctime, which moves when a finished shard is given its place.
            kept = note["recipe"] == recipe and tuple(note["fingerprint"]) == fingerprint_of(status)[:4]
            return dict(note["made"]) if kept else None
        except (OSError, ValueError, TypeError, KeyError):
            return None

    def begin(self, shard: str) -> str:
        """The path for a shard that is going to be made; what an interrupted build left there is removed."""
        os.makedirs(self.folder, exist_ok=True)
        for path in (self._note(shard), self.path_of(shard)):
            with suppress(FileNotFoundError):
                os.unlink(path)
        return self.path_of(shard)

    def resume(self, shard: str) -> str:
        """The path for a shard that is going to be fetched; what an interrupted fetch left there stays for it."""
        os.makedirs(self.folder, exist_ok=True)
        with suppress(FileNotFoundError):
            os.unlink(self._note(shard))
        return self.path_of(shard)

    def path_of(self, shard: str) -> str:
        """Where a draft lies."""
        return os.path.join(self.folder, shard)

    def finish(self, shard: str, recipe: str, made: Mapping[str, Any]) -> None:
        """Note that a shard is whole: it was fsynced by whoever wrote it."""
        fingerprint = list(fingerprint_of(os.lstat(self.path_of(shard)))[:4])
        temporary = f"{self._note(shard)}.tmp"
        with open(temporary, "wb") as stream:
            stream.write(orjson.dumps({"recipe": recipe, "fingerprint": fingerprint, "made": made}))
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, self._note(shard))
        fsync_folder(self.folder)

    def hand_over(self, shard: str, path: str) -> None:
        """Give a finished shard its place; the draft keeps it too until `remove`."""
        os.link(self.path_of(shard), path, follow_symlinks=False)

    def remove(self) -> None:
        """Remove the drafts: they are in place, or of no use."""
        shutil.rmtree(self.folder, ignore_errors=True)

    @contextmanager
    def kept_for_another_build(self) -> Iterator[None]:
        """Keep finished shards when building fails, unless nothing but another manifest or donor can mend it."""
        try:
            yield
        except BaseException as error:
            if isinstance(error, (InvalidInput, Mismatch, Conflict)):
                self.remove()
            with suppress(OSError):
                os.rmdir(self.folder)  # if there is none
            raise

    def _note(self, shard: str) -> str:
        return os.path.join(self.folder, f"{shard}.json")
