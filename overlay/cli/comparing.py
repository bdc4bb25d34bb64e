"""``overlay diff`` and ``overlay audit``."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from typing import Any

import click

from overlay import api
from overlay.cli.options import allow_root_option, places
from overlay.cli.output import FORMATS, chosen_output
from overlay.core.view import View
from overlay.report.blocks import Block
from overlay.report.comparison import comparison_document, comparison_lines, comparison_markdown, verdict
from overlay.report.progress import Bars
from overlay.running.auditing import Question


def _comparison_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options that both verbs have."""
    for option in (
        click.option("-q", "--quiet", is_flag=True, help="Print only a summary."),
        click.option("--json", "as_json", is_flag=True, help="Print one JSON document; same as --format json."),
        click.option(
            "--format",
            "format_",
            type=click.Choice((*FORMATS, "markdown")),
            default="auto",
            show_default=True,
            help="Form of the output.",
        ),
        click.option("--html", metavar="FILE", help="Also write a page that shows it all; one file, no network."),
        allow_root_option,
        click.option("--jobs", type=click.IntRange(min=0), default=0, help="Threads that compare; 0: one a processor."),
        click.option("--tensors", is_flag=True, help="Also list every tensor that changed."),
        click.option("--content", is_flag=True, help="Compare the bytes of tensors that headers cannot tell apart."),
    ):
        command = option(command)
    return command


@click.command()
@click.argument("old")
@click.argument("new")
@_comparison_options
def diff(
    old: str, new: str, content: bool, jobs: int, allow_root: tuple[str, ...], html: str | None, **how: Any
) -> None:
    """Show how the checkpoint NEW differs from OLD: tensors, rolled up by layer and module, and sidecars by meaning.

    Tensors of equal name, dtype and shape count as the same unless --content compares their bytes; files that are one
    file, or that the Hub's cache calls by one digest, need no reading.

    \b
    Reads:   every header, the sidecars that differ; with --content both sides of each tensor that may differ.
    Writes:  nothing, or the page that --html names.
    Exits:   0 no difference, 1 differences, 3 not a checkpoint, 5 environment.
    Example: overlay diff GLM-5.2-NVFP4/ serve/
    """
    where = places(None, (), allow_root)
    view = api.diff(old, new, content=content, jobs=jobs, places=where, reporter=Bars())
    _show(view, html, **how)
    sys.exit(1 if view.differs else 0)


@click.command()
@click.argument("target")
@click.option("--against", metavar="BASE", help="The base; of a target that overlay assembled, its own.")
@click.option("--claim", multiple=True, metavar="TEXT", help='A statement to prove, such as "790 BF16 + 1 F32".')
@click.option("--donor", multiple=True, metavar="REPO=PATH", help="A local copy of a repository that claims speak of.")
@_comparison_options
def audit(
    target: str,
    against: str | None,
    claim: tuple[str, ...],
    donor: tuple[str, ...],
    content: bool,
    jobs: int,
    allow_root: tuple[str, ...],
    html: str | None,
    **how: Any,
) -> None:
    """Show what a checkpoint adds to its base, which claims of its card hold, and what in it can do harm.

    TARGET may be a diff-only repository: what it lacks is taken from the base.  Claims are found in its README.md and
    given by --claim; each holds, fails, or stays open with the reason.

    \b
    Reads:   every header and small file of both; with --content the bytes that may differ, and the donors'.
    Writes:  nothing, or the page that --html names.
    Exits:   0 done, 1 an error among the findings or a claim of the card or --claim that fails, 3 not a checkpoint,
             5 environment.
    Example: overlay audit GLM-5.2-NVFP4-MTP/ --against GLM-5.2-NVFP4/ --html audit.html
    """
    where = places(None, donor, allow_root)
    question = Question(target=target, against=against, claims=claim, content=content, jobs=jobs, places=where)
    view = api.audit(question, reporter=Bars())
    _show(view, html, **how)
    sys.exit(0 if view.sound else 1)


def _show(view: View, html: str | None, *, tensors: bool, format_: str, as_json: bool, quiet: bool) -> None:
    if html is not None:
        api.write_page(view, html)
    markdown = format_ == "markdown"
    output = chosen_output("human" if markdown else format_, as_json, quiet)
    blocks: Iterable[Block] = (comparison_markdown if markdown else comparison_lines)(view, tensors=tensors)
    document = comparison_document(view, tensors=tensors) if output.format == "json" else {}
    output.show(view.kind, document, blocks, brief=verdict(view))
