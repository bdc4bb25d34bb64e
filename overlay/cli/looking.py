"""``overlay verify`` and ``overlay schema``."""

from __future__ import annotations

import json
import sys

import click

from overlay import api
from overlay.cli.options import allow_root_option
from overlay.cli.output import chosen_output, output_options
from overlay.report.progress import Bars
from overlay.report.text import verdict_lines
from overlay.running.locating import Places
from overlay.running.proving import LEVELS, Level


@click.command()
@click.argument("target")
@click.option(
    "--level",
    type=click.Choice(LEVELS),
    default="headers",
    show_default=True,
    help="structure: names, links, sizes, index, small files; headers: every header too; content: every byte.",
)
@click.option("--jobs", type=click.IntRange(min=0), default=0, help="Threads that hash; 0: one a processor.")
@allow_root_option
@output_options
def verify(
    target: str,
    level: Level,
    jobs: int,
    allow_root: tuple[str, ...],
    format_: str,
    as_json: bool,
    quiet: bool,
) -> None:
    """Check a checkpoint, a target that overlay assembled, or a manifest with its lock.

    Exit 0 means only what the level proves; the last line says which one ran.

    \b
    Reads:   the index, small files and, from level headers on, every header; at level content every byte.
    Writes:  nothing but the digests that it computed, in the user's cache.
    Exits:   0 no errors, 1 findings, 3 not a checkpoint, 4 conflict, 5 environment.
    Example: overlay verify serve/ --level content
    """
    output = chosen_output(format_, as_json, quiet)
    verdict = api.verify(target, level=level, jobs=jobs, places=Places(allowed_roots=allow_root), reporter=Bars())
    output.show("verify", verdict.document(), verdict_lines(verdict), brief="ok" if verdict.ok else "not ok")
    sys.exit(0 if verdict.ok else 1)


@click.command()
@output_options
def schema(format_: str, as_json: bool, quiet: bool) -> None:
    """Print the JSON Schema of the manifest, for editors that complete YAML.

    With --json it stands under the key schema of a document like every other.

    \b
    Reads:   nothing.
    Writes:  nothing.
    Exits:   0.
    Example: overlay schema > overlay.schema.json
    """
    output = chosen_output(format_, as_json, quiet)
    text = json.dumps(api.schema(), indent=2)
    output.show("schema", {"schema": api.schema()}, text.splitlines(), brief=json.dumps(api.schema()))
