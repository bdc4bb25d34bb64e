"""``overlay status``, ``overlay history`` and ``overlay undo``."""

from __future__ import annotations

import sys

import click

from overlay import api
from overlay.cli.output import chosen_output, output_options
from overlay.report.generations import history_lines, status_lines, undo_lines
from overlay.report.progress import Bars


@click.command()
@click.argument("target", metavar="DIR")
@output_options
def status(target: str, format_: str, as_json: bool, quiet: bool) -> None:
    """Say what became of a target: clean, modified, dangling (a link leads nowhere), base moved (the base changed).

    \b
    Reads:   the receipt, small files, headers; of large files only those that were touched since they were hashed.
    Writes:  nothing but the digests that it computed, in the user's cache.
    Exits:   0 clean, 1 anything else, 3 not a target of overlay, 5 environment.
    Example: overlay status serve/
    """
    output = chosen_output(format_, as_json, quiet)
    found = api.status(target, reporter=Bars())
    output.show("status", found.document(), status_lines(found), brief=", ".join(found.states))
    sys.exit(0 if found.clean else 1)


@click.command()
@click.argument("target", metavar="DIR")
@output_options
def history(target: str, format_: str, as_json: bool, quiet: bool) -> None:
    """List the generations of a target, the current one marked.

    \b
    Reads:   the receipts of the target and of the trees kept beside it.
    Writes:  nothing.
    Exits:   0 done, 3 not a target of overlay.
    Example: overlay history serve/
    """
    output = chosen_output(format_, as_json, quiet)
    found = api.history(target)
    output.show("history", found.document(), history_lines(found), brief=str(found.current))


@click.command()
@click.argument("target", metavar="DIR")
@click.option("--to", "number", type=click.IntRange(min=1), metavar="N", help="Which generation; also a later one.")
@click.option("--force", is_flag=True, help="Put it back although it is not what its receipt says.")
@output_options
def undo(target: str, number: int | None, force: bool, format_: str, as_json: bool, quiet: bool) -> None:
    """Put the previous generation of a target back, in one step; the current one is kept and can be had back.

    \b
    Reads:   the receipts, small files and headers of the generation that comes back.
    Writes:  the target's place in its parent folder.
    Exits:   0 done, 3 not a target of overlay, 4 no such generation or a damaged one, 5 environment.
    Example: overlay undo serve/
    """
    output = chosen_output(format_, as_json, quiet)
    receipt = api.undo(target, number=number, force=force, reporter=Bars())
    document = {"target": target, "receipt": receipt.model_dump(mode="json")}
    output.show("undo", document, undo_lines(target, receipt), brief=str(receipt.generation))
