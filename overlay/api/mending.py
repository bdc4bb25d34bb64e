"""Mending: the verb that writes the index that a checkpoint should have, `mend`."""

from __future__ import annotations

from collections.abc import Sequence

from overlay.core.progress import Reporter, Silent
from overlay.errors import UsageError
from overlay.running.locating import Places, locate, place_of_document
from overlay.running.mending import Fixed, fix_index
from overlay.running.verifying import tell_apart


def mend(
    reference: str,
    path: str,
    *,
    adopt: Sequence[str] = (),
    unlist: Sequence[str] = (),
    places: Places | None = None,
    reporter: Reporter | None = None,
) -> Fixed:
    """Write the index that the checkpoint should have to the new file `path`; the checkpoint is only read."""
    where, report = places or Places(), reporter or Silent()
    kind, checkpoint = tell_apart(place_of_document(reference, where))
    if kind not in ("checkpoint", "repository"):
        problem = f"expected a checkpoint, which has an index, found a {kind}"
        raise UsageError(problem, subject=reference, hint="name the folder of the checkpoint")
    directory = locate(reference if kind == "repository" else checkpoint, ".", where)
    return fix_index(reference, directory, path, where, report, adopt=adopt, unlist=unlist)
