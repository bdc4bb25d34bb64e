"""What publishing does or did, as text and as a JSON document."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final, get_args

from overlay.core.findings import errors
from overlay.core.publishing import Do
from overlay.report.blocks import Block, Heading, Marked, Table
from overlay.report.text import finding_lines, in_bytes

if TYPE_CHECKING:
    from overlay.core.publishing import PublishPlan
    from overlay.running.publishing import Published

_MODES: Final = {
    "difference": "the difference only",
    "whole": "a complete checkpoint",
    "change": "a change to the base's own repository",
}


def published_lines(published: Published, *, dry_run: bool) -> Iterator[Block]:
    """The plan, what speaks against it, and what became of it."""
    plan = published.plan
    yield Heading(f"hf://{plan.repo}: {_MODES[plan.mode]}")
    if plan.operations:
        rows = [(op.do, op.item.path, in_bytes(op.item.size), _source(op.item.source)) for op in plan.operations]
        yield Table(rows, numbers=(2,), kinds=0)
    yield from (Marked("  ", "note", f": {note}") for note in plan.notes)
    yield from finding_lines(plan.findings)
    if plan.operations:
        uploaded, copied, kept = (in_bytes(plan.bytes_to(do)) for do in get_args(Do))
        yield f"uploads {uploaded}, copies {copied} on the server, leaves {kept} unchanged"
    yield from _ending(published, dry_run=dry_run)


def _ending(published: Published, *, dry_run: bool) -> Iterator[str]:
    plan = published.plan
    if errors(plan.findings):
        yield Marked("", "not ok", f": nothing was changed; {len(errors(plan.findings))} findings stand in the way")
    elif published.commit is not None:
        verb = "proposed" if plan.create_pr else "published"
        yield f"{verb} hf://{plan.repo} at {published.commit}: {published.url}"
        if plan.mode == "difference" and not plan.create_pr:
            yield f"next: overlay apply hf://{plan.repo} -o DIR"
    elif plan.empty:
        yield f"hf://{plan.repo}: nothing to do, it holds all of this"
    elif dry_run:
        made = "" if plan.parent is not None else ", in a repository that is made first"
        yield f"nothing was changed; without --dry-run this is one commit{' to propose' if plan.create_pr else ''}{made}"


def published_document(published: Published, *, dry_run: bool) -> dict[str, Any]:
    """The plan and the result as they stand in JSON documents."""
    plan = published.plan
    return {
        "repo": plan.repo,
        "plan": _plan_document(plan),
        "findings": [finding.document() for finding in plan.findings],
        "dry_run": dry_run,
        "changed": published.commit is not None,
        "commit": published.commit,
        "url": published.url,
    }


def _plan_document(plan: PublishPlan) -> dict[str, Any]:
    return {
        "mode": plan.mode,
        "parent": plan.parent,
        "create_pr": plan.create_pr,
        "private": plan.private,
        "message": plan.message,
        "operations": [operation.document() for operation in plan.operations],
        "bytes": {
            "uploaded": plan.bytes_to("upload"),
            "copied": plan.bytes_to("copy"),
            "unchanged": plan.bytes_to("keep"),
        },
        "empty": plan.empty,
        "notes": list(plan.notes),
    }


def _source(source: str) -> str:
    return f"<- {source}" if source else ""
