"""Comparing: the verbs that look at two checkpoints, `diff` and `audit`."""

from __future__ import annotations

import os

from overlay.core.progress import Reporter, Silent
from overlay.core.view import View
from overlay.errors import Conflict, UsageError
from overlay.running.auditing import Question, audit_checkpoint
from overlay.running.diffing import diff_checkpoints
from overlay.running.locating import Places
from overlay.storage.documents import write_document


def diff(
    old: str,
    new: str,
    *,
    content: bool = False,
    jobs: int = 0,
    places: Places | None = None,
    reporter: Reporter | None = None,
) -> View:
    """How the checkpoint `new` differs from `old`; bytes are only compared with `content`."""
    where = places or Places()
    return diff_checkpoints(old, new, where, content=content, jobs=jobs, reporter=reporter or Silent())


def audit(question: Question, *, reporter: Reporter | None = None) -> View:
    """What a checkpoint adds to its base, which claims hold, and what in it can do harm."""
    return audit_checkpoint(question, reporter or Silent())


def write_page(view: View, path: str) -> None:
    """Write the page that shows a difference or an audit; it replaces a page of that name in one step.

    Raises:
        UsageError: the name is none of a page, so that a slip of the hand could replace a shard.
        Conflict: it lies in one of the checkpoints.
    """
    if not path.endswith((".html", ".htm")):
        raise UsageError("expected a name that ends in .html", subject=path, hint="--html report.html")
    folder = os.path.realpath(os.path.dirname(path) or ".")
    for side in (view.difference.old, view.difference.new):
        if side.root and os.path.commonpath([folder, side.root]) == side.root:
            problem = f"expected a place outside of the checkpoints, found one inside {side.label}"
            raise Conflict(problem, subject=path, hint="name a file elsewhere")
    from overlay.report.html import render_page  # Jinja2 takes 50 ms that no other verb need wait for

    write_document(path, render_page(view).encode())
