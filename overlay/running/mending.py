"""Mending: write the index that a checkpoint should have, somewhere else.

The checkpoint itself is only read.  A copy over its index would, in a Hub cache or a folder of links, go through a link
and change the file of every other user.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

from overlay.core.checking import check, check_parameters
from overlay.core.checkpoint import Checkpoint
from overlay.core.findings import Finding, errors
from overlay.core.mending import Mended, mend, require_none_forgotten
from overlay.core.progress import Reporter
from overlay.errors import Conflict, UsageError
from overlay.formats.index import parse_index
from overlay.formats.names import INDEX_NAME, SINGLE_NAME
from overlay.running.gathering import forgotten, gather
from overlay.running.locating import Places, open_checkpoint
from overlay.running.verifying import Verdict, check_config, check_gaps, verify_directory
from overlay.storage.documents import write_document

_MANIFEST_SUFFIXES = (".yaml", ".yml")


@dataclass(frozen=True, slots=True, kw_only=True)
class Fixed:
    """What mending an index came to."""

    verdict: Verdict
    """What was found before."""
    mended: Mended
    path: str
    """Where the new index lies."""
    written: bool
    """False when the index that is there is the one that the headers call for."""
    left: tuple[Finding, ...]
    """What would still be found with the new index in place of the old one."""

    @property
    def ok(self) -> bool:
        """Whether there would be no error any more."""
        return not errors(self.left)

    @property
    def strays(self) -> list[str]:
        """Shards that the new index does not name either."""
        return [finding.file for finding in self.left if finding.code == "IDX010"]

    def document(self) -> dict[str, Any]:
        """The verdict with what was mended, as it stands in JSON documents."""
        left = [finding.document() for finding in self.left]
        fix = {"path": self.path, "written": self.written, **self.mended.document(), "left": left}
        return {**self.verdict.document(), "ok": self.ok, "fix": fix}


def fix_index(
    label: str,
    directory: str,
    path: str,
    places: Places,
    reporter: Reporter,
    *,
    adopt: Iterable[str] = (),
    unlist: Iterable[str] = (),
) -> Fixed:
    """Write the index that the checkpoint in `directory` should have to `path`.

    Args:
        label: how the user named the checkpoint.
        directory: where it is.
        path: a file that is not there yet, or a folder to put ``model.safetensors.index.json`` in.
        places: where its links may lead.
        reporter: told what is being read.
        adopt: strays whose tensors are mapped as well.
        unlist: listed shards that are left out, each tensor of them being in another one.

    Raises:
        UsageError: `path` is no place for an index, or a name in `adopt` or `unlist` is not such a shard.
        Conflict: there is something at `path`, it lies in the checkpoint, or an unlisted shard is needed.
        InvalidInput: there is no checkpoint, something is wrong that no index can mend, or a stray would be left out that
            belongs to the checkpoint by what the old index says.
        EnvironmentFault: it cannot be read or written.
    """
    goal = _destination(path, directory)
    verdict = verify_directory(label, directory, "headers", places, reporter)
    seen = open_checkpoint(label, directory, places)
    unlisted = frozenset(unlist)
    wanted = gather(seen, list(dict.fromkeys(adopt)), unlisted)
    mended = mend(wanted, unlisted)
    written = _is_needed(seen, mended)
    if written:
        require_none_forgotten(label, forgotten(wanted))
        write_document(goal, mended.index)
    return Fixed(verdict=verdict, mended=mended, path=goal, written=written, left=_left(seen, wanted, mended, unlisted))


def _destination(path: str, directory: str) -> str:
    """The file to write: not there yet, in a folder that is, and outside of the checkpoint."""
    if path.endswith(_MANIFEST_SUFFIXES):
        problem = "expected a place for an index, found a manifest's name"
        hint = f"--fix {os.path.splitext(path)[0]}.index.json; an index is written, a manifest cannot carry it"
        raise UsageError(problem, subject=path, hint=hint)
    goal = os.path.join(path, INDEX_NAME) if os.path.isdir(path) or path.endswith("/") else path
    folder = os.path.dirname(os.path.abspath(goal))
    if not os.path.isdir(folder):
        raise UsageError("expected an existing folder to write it in", subject=goal, hint=f"mkdir -p {folder}")
    real = os.path.realpath(folder)
    if real == directory or real.startswith(directory.rstrip("/") + "/"):
        problem = f"expected a place outside of the checkpoint, which is never written, found one in {directory}"
        raise Conflict(problem, subject=goal, hint=f"--fix fixed.{INDEX_NAME}")
    if os.path.lexists(goal):
        raise Conflict("expected a new file, found one", subject=goal, hint="name another, or remove this one first")
    return goal


def _is_needed(seen: Checkpoint, mended: Mended) -> bool:
    """Whether the new index says something that the checkpoint does not say by itself."""
    if seen.index is not None:
        return mended.index != seen.index.raw
    return seen.index_file is not None or [*seen.shards] != [SINGLE_NAME] or mended.shards > 1


def _left(seen: Checkpoint, wanted: Checkpoint, mended: Mended, unlisted: frozenset[str]) -> tuple[Finding, ...]:
    """What is found in the checkpoint when the new index takes the place of the old one."""
    if not _is_needed(seen, mended):
        return _findings(seen)
    shards = {name: shard for name, shard in wanted.shards.items() if name not in unlisted}
    outside = {name: shard.file for name, shard in wanted.shards.items() if name in unlisted}
    kept = tuple(f for f in wanted.findings if f.file != INDEX_NAME and f.file not in unlisted)
    index = parse_index(mended.index)
    after = replace(wanted, index=index, shards=shards, strays={**wanted.strays, **outside}, findings=kept)
    return _findings(after)


def _findings(checkpoint: Checkpoint) -> tuple[Finding, ...]:
    aside = [*check_parameters(checkpoint), *check_config(checkpoint), *check_gaps(checkpoint)]
    return tuple(sorted([*check(checkpoint), *aside]))
