"""``overlay status``, ``overlay undo`` and ``overlay history``."""

from __future__ import annotations

import os
import sys

import click

from overlay import api
from overlay.cli.output import chosen_output, output_options
from overlay.report.generations import history_lines, status_lines, undone_lines
from overlay.report.progress import Bars

_target = click.argument("target", metavar="DIR")


@click.command()
@_target
@output_options
def status(target: str, format_: str, as_json: bool, quiet: bool) -> None:
    """Say how a target stands against its receipt: clean, modified, dangling, base moved, or absent.

    modified: something in it is not what was placed.  dangling: a link's real file is gone.  base moved: a file that it
    links to, or was copied from, changed since.  What no digest is known of is held against its size and header only;
    overlay verify --level content reads every byte.

    \b
    Reads:   the receipt, names, links, small files, headers; of large files only those that changed since they were hashed.
    Writes:  nothing but the digests that it computed, in the user's cache.
    Exits:   0 clean, 1 anything else, 3 not a target of overlay, 5 environment.
    Example: overlay status serve/
    """
    output = chosen_output(format_, as_json, quiet)
    found = api.status(target, reporter=Bars())
    output.show("status", found.document(), status_lines(found), brief=", ".join(found.states))
    sys.exit(0 if found.clean else 1)


@click.command()
@_target
@click.option("--to", type=click.IntRange(min=1), metavar="N", help="The generation to bring back; a newer one too.")
@click.option("--force", is_flag=True, help="Bring it back even if it is damaged or its links dangle.")
@output_options
def undo(target: str, to: int | None, force: bool, format_: str, as_json: bool, quiet: bool) -> None:
    """Bring back the generation before the current one, exactly as it was; the current one is kept.

    The two change places in one step, so that the target is the one or the other at every instant.  A target that was
    removed comes back as its newest generation.

    \b
    Reads:   the receipts, and of the tree that comes back what overlay status reads.
    Writes:  names only: the target's and the history's, and a lock file beside them; never a tree's files or the base.
    Exits:   0 done, 3 not a target of overlay, 4 no such generation or a damaged one, 5 environment.
    Example: overlay undo serve/
             overlay undo serve/ --to 3
    """
    output = chosen_output(format_, as_json, quiet)
    done = api.undo(target, to=to, force=force, reporter=Bars())
    document = {
        "target": done.target,
        "generation": done.generation.number,
        "replaced": done.replaced,
        "left": list(done.left),
        "receipt": done.generation.receipt.model_dump(mode="json"),
        "findings": [finding.document() for finding in done.findings],
    }
    output.show("undo", document, undone_lines(done), brief=str(done.generation.number))


@click.command()
@_target
@output_options
def history(target: str, format_: str, as_json: bool, quiet: bool) -> None:
    """List the generations of a target: the current one, and the older trees that are kept beside it.

    apply keeps the tree that it replaces, up to three of them; a repair replaces a damaged tree and keeps nothing.

    \b
    Reads:   the receipts of the target and of the folder .NAME.overlay-generations beside it.
    Writes:  nothing.
    Exits:   0 done, 3 not a target of overlay, 5 environment.
    Example: overlay history serve/
    """
    output = chosen_output(format_, as_json, quiet)
    known = api.history(target)
    document = {
        "target": os.path.realpath(target),
        "current": next((generation.number for generation in known if generation.current), None),
        "generations": [generation.document() for generation in known],
    }
    brief = " ".join(str(generation.number) for generation in known)
    lines = history_lines(target, known, present=os.path.lexists(target))
    output.show("history", document, lines, brief=brief)
