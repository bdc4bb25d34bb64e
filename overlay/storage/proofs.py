"""What this machine has hashed before: fingerprint and path to digest, in a private file of the user's cache.

A digest is remembered for an inode, not for a name: if device, inode, size, mtime and ctime are what they were, no byte
was written since.  The file is a line of JSON an entry, appended; a torn or foreign line is skipped, and the last entry
for a path wins.  Losing the file costs time, never correctness.
"""

from __future__ import annotations

import os
import time
from enum import Enum
from typing import Final

import orjson

from overlay.core.checkpoint import FileSeen, Fingerprint
from overlay.formats.digest import Digests

STORE_NAME: Final = "digests.jsonl"
_RECIPE: Final = "recipe:"
"""Stands where a digest would, for a file that was made without being read; it never answers for its bytes."""
_COMPACT_ABOVE: Final = 4 * 1024 * 1024
_SETTLING_NS: Final = 20_000_000
"""Time stamps advance in steps of up to 10 ms; a file changed within a step of being hashed could change unseen."""


class Memory(Enum):
    """What is remembered of a file."""

    UNKNOWN = "never hashed here"
    CHANGED = "changed since it was hashed here"
    KNOWN = "hashed here, and untouched since"


def cache_folder() -> str:
    """The user's cache folder for this program: ``$OVERLAY_CACHE``, else under ``$XDG_CACHE_HOME`` or ``~/.cache``."""
    base = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return os.environ.get("OVERLAY_CACHE") or os.path.join(base, "overlay")


class ProofStore:
    """The digests that this machine remembers."""

    def __init__(self, folder: str | None = None) -> None:
        self._path = os.path.join(folder or cache_folder(), STORE_NAME)
        self._seen: dict[str, Fingerprint] = {}
        """Path to the inode that was last remembered there."""
        self._inodes: dict[tuple[int, ...], Fingerprint] = {}
        """Device and inode to what was last remembered of them, under whatever path."""
        self._digests: dict[Fingerprint, Digests] = {}
        self._recipes: dict[Fingerprint, str] = {}
        self._load()

    def recall(self, file: FileSeen) -> tuple[Memory, Digests | None]:
        """What is remembered of `file`; digests only when they still hold."""
        digests = self._digests.get(file.fingerprint)
        if digests is not None:
            return Memory.KNOWN, digests
        touched = self._seen.get(file.location, file.fingerprint) != file.fingerprint
        return (Memory.CHANGED if touched else Memory.UNKNOWN), None

    def paths(self) -> list[str]:
        """Every path that was remembered, by its last inode."""
        return [path for path, fingerprint in self._seen.items() if fingerprint in self._digests]

    def was_touched(self, file: FileSeen) -> bool:
        """Whether `file` may have been written to since it was remembered, although it bears another path now.

        May say so of a file that got the inode number of a deleted one; who asks must look at the bytes then.
        """
        memory, _ = self.recall(file)
        known = self._inodes.get(file.fingerprint[:2], file.fingerprint)
        return memory is Memory.CHANGED or (memory is Memory.UNKNOWN and known != file.fingerprint)

    def remember(self, file: FileSeen, digests: Digests) -> None:
        """Remember what hashing `file` gave; does nothing where the cache cannot be written."""
        self._keep(file.location, file.fingerprint, digests)
        self._append(file.location, file.fingerprint, digests)

    def remember_again(self, before: FileSeen, now: FileSeen) -> None:
        """Let what is remembered of `before` hold for `now`: the same bytes under another path, or after a link was made.

        Does nothing if more than path and ctime differ, or if nothing is remembered.
        """
        if now.fingerprint[:-1] != before.fingerprint[:-1]:
            return
        digests, recipe = self._digests.get(before.fingerprint), self._recipes.get(before.fingerprint)
        if self._seen.get(now.location) == now.fingerprint or (digests is None and recipe is None):
            return
        settle(now)
        if digests is not None:
            self.remember(now, digests)
        if recipe is not None:
            self.remember_recipe(now, recipe)

    def remember_recipe(self, file: FileSeen, recipe: str) -> None:
        """Remember what `file` was made from, where making it did not read its bytes."""
        self.remember(file, Digests(file.size, f"{_RECIPE}{recipe}", ""))

    def recipe_of(self, file: FileSeen | None) -> str:
        """What `file`, untouched since, was made from; "" where that is not remembered."""
        return self._recipes.get(file.fingerprint, "") if file is not None else ""

    def _append(self, path: str, fingerprint: Fingerprint, digests: Digests) -> None:
        try:
            os.makedirs(os.path.dirname(self._path), mode=0o700, exist_ok=True)
            flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
            descriptor = os.open(self._path, flags, 0o600)
        except OSError:
            return
        try:
            os.write(descriptor, _line(path, fingerprint, digests))
        except OSError:
            pass  # a full disk must not fail the command for the sake of a cache
        finally:
            os.close(descriptor)

    def _load(self) -> None:
        try:
            with open(self._path, "rb") as stream:
                lines = stream.read().splitlines()
        except OSError:
            return
        for line in lines:
            try:
                path, numbers, size, sha256, xxh3 = orjson.loads(line)
                self._keep(path, Fingerprint(*numbers), Digests(size, sha256, xxh3))
            except (ValueError, TypeError, AttributeError):
                continue
        if sum(map(len, lines)) > _COMPACT_ABOVE:
            self._compact()

    def _keep(self, path: str, fingerprint: Fingerprint, digests: Digests) -> None:
        self._seen[path] = self._inodes[fingerprint[:2]] = fingerprint
        if digests.sha256.startswith(_RECIPE):
            self._recipes[fingerprint] = digests.sha256.removeprefix(_RECIPE)
        else:
            self._digests[fingerprint] = digests

    def _compact(self) -> None:
        """Rewrite the file with what is known of the last inode of each path."""
        temporary = f"{self._path}.{os.getpid()}"
        try:
            with open(temporary, "xb") as stream:
                for path, fingerprint in self._seen.items():
                    if fingerprint in self._digests:
                        stream.write(_line(path, fingerprint, self._digests[fingerprint]))
                    if fingerprint in self._recipes:
                        made = Digests(fingerprint.size, f"{_RECIPE}{self._recipes[fingerprint]}", "")
                        stream.write(_line(path, fingerprint, made))
            os.chmod(temporary, 0o600)
            os.replace(temporary, self._path)
        except OSError:
            return


def _line(path: str, fingerprint: Fingerprint, digests: Digests) -> bytes:
    fields = [path, list(fingerprint), digests.size, digests.sha256, digests.xxh3_128]
    return orjson.dumps(fields, option=orjson.OPT_APPEND_NEWLINE)


def settle(file: FileSeen) -> None:
    """Wait until the clock has moved past the file's last change, so that a later change cannot hide in the same tick."""
    age = time.time_ns() - file.fingerprint.ctime_ns
    if 0 <= age < _SETTLING_NS:
        time.sleep((_SETTLING_NS - age) / 1e9)
