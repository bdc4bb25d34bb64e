"""``overlay publish``."""

from __future__ import annotations

import sys

import click

from overlay import api
from overlay.cli.options import place_options, places
from overlay.cli.output import chosen_output, output_options
from overlay.core.findings import errors
from overlay.report.progress import Bars
from overlay.report.publishing import published_document, published_lines


@click.command()
@click.argument("source", metavar="DIR|MANIFEST")
@click.argument("repo", metavar="[hf://ORG/NAME]", default="")
@click.option("--full", is_flag=True, help="A complete repository: the base's shards are copied on the server.")
@click.option("--create-pr", is_flag=True, help="Propose the commit as a pull request.")
@click.option("--dry-run", is_flag=True, help="Ask the Hub, show operations and bytes; change nothing.")
@click.option("--private", is_flag=True, help="Make the repository private, when it is made.")
@click.option("--message", default="", help="Of the commit.")
@click.option("--allow", multiple=True, metavar="CODE", help="Go on in spite of this finding: SEC002, SEC012, SEC014.")
@place_options
@output_options
def publish(
    source: str,
    repo: str,
    full: bool,
    create_pr: bool,
    dry_run: bool,
    private: bool,
    message: str,
    allow: tuple[str, ...],
    base: str | None,
    donor: tuple[str, ...],
    allow_root: tuple[str, ...],
    look_in: tuple[str, ...],
    format_: str,
    as_json: bool,
    quiet: bool,
) -> None:
    """Publish the difference to a base on the Hub, in one commit.

    DIR is a repository that overlay build or overlay init --derived wrote, with its lock; MANIFEST is the one in it.  The
    manifest, the lock, the shards of the grafts, the index of the result, the small files that differ, and a model card
    are uploaded; what the repository holds already is left out, and nothing is ever deleted.  Where the repository is the
    base's own, the shards, the index and the small files are put into it.  The token is that of HF_TOKEN or hf auth login.

    Before anything is changed, everything that speaks against it is told: shards that are not what was locked, a lock that
    is missing or stale, a base whose files moved, paths of this machine, secrets, files that nobody named, and licences.

    \b
    Reads:   DIR; listings and cards of the base, the donors and the repository; with an index that is not there yet, the
             headers of the base.
    Writes:  one commit on the Hub, which fails when the repository moved meanwhile; nothing on this machine.
    Exits:   0 done, or nothing to do, 1 findings, 2 usage, 3 invalid input, 4 conflict, 5 environment.
    Example: overlay publish GLM-5.2-NVFP4-MTP/ hf://org/GLM-5.2-NVFP4-MTP --dry-run
             overlay publish GLM-5.2-NVFP4-MTP/ hf://org/GLM-5.2-NVFP4-whole --full
    """
    output = chosen_output(format_, as_json, quiet)
    how = api.Publication(full=full, create_pr=create_pr, private=private, message=message, allow=frozenset(allow))
    where = places(base, donor, allow_root, look_in)
    bars = output.format == "human" and sys.stderr.isatty()
    done = api.publish(source, repo, how=how, dry_run=dry_run, bars=bars, places=where, reporter=Bars())
    lines = published_lines(done, dry_run=dry_run)
    output.show("publish", published_document(done, dry_run=dry_run), lines, brief=done.url or done.commit or "")
    sys.exit(1 if errors(done.plan.findings) else 0)
