"""``overlay verify`` and ``overlay schema``."""

from __future__ import annotations

import json
import sys

import click

from overlay import api
from overlay.cli.options import place_options, places
from overlay.cli.output import chosen_output, output_options
from overlay.report.blocks import Verbatim
from overlay.report.progress import Bars
from overlay.report.text import fix_lines, verdict_lines
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
@click.option("--donors", is_flag=True, help="Make every graft of a manifest again from its donors, and compare.")
@click.option("--fix", metavar="PATH", help="Write a correct index to this new file, or into this folder.")
@click.option("--adopt", multiple=True, metavar="SHARD", help="With --fix: list this stray shard as well.")
@click.option("--unlist", multiple=True, metavar="SHARD", help="With --fix: leave out this shard, all of it elsewhere.")
@place_options
@output_options
def verify(
    target: str,
    level: Level,
    jobs: int,
    donors: bool,
    fix: str | None,
    adopt: tuple[str, ...],
    unlist: tuple[str, ...],
    base: str | None,
    donor: tuple[str, ...],
    allow_root: tuple[str, ...],
    look_in: tuple[str, ...],
    format_: str,
    as_json: bool,
    quiet: bool,
) -> None:
    """Check a checkpoint, a target that overlay assembled, a manifest with its lock, a built repository, or a single shard.

    No manifest is needed: index, headers and file names are held against each other, and each finding says what the
    engines do with it.  Exit 0 means only what the level proves; the last line says which one ran.

    With --fix a correct index is written beside the checkpoint, which itself is never changed.  Order, layout and unknown
    metadata of the old index are kept.  What no index can mend is refused and named.

    With --donors, at level content, every tensor of every graft is made again from the manifest's donors, as its steps say,
    and held against the shard that was built and against the lock.

    \b
    Reads:   the index, small files and, from level headers on, every header; at level content every byte.
    Writes:  the index of --fix; the digests that it computed, in the user's cache.
    Exits:   0 no errors (with --fix: none left), 1 findings, 2 usage, 3 not a checkpoint or not mendable,
             4 conflict, 5 environment.
    Example: overlay verify serve/ --level content
             overlay verify GLM-5.2-NVFP4/ --fix fixed.index.json
             overlay verify GLM-5.2-MTP-INT4/ --level content --donors
    """
    output = chosen_output(format_, as_json, quiet)
    where = places(base, donor, allow_root, look_in)
    if donors and (level != "content" or fix is not None):
        raise click.UsageError("expected --donors with --level content, and without --fix")
    if fix is None:
        if adopt or unlist:
            raise click.UsageError("expected --fix PATH with --adopt and --unlist, found none")
        verdict = api.verify(target, level=level, jobs=jobs, donors=donors, places=where, reporter=Bars())
        output.show("verify", verdict.document(), verdict_lines(verdict), brief="ok" if verdict.ok else "not ok")
        sys.exit(0 if verdict.ok else 1)
    if level != "headers":
        raise click.UsageError(f"expected --fix at the level headers, found --level {level}")
    fixed = api.mend(target, fix, adopt=adopt, unlist=unlist, places=where, reporter=Bars())
    output.show("verify", fixed.document(), fix_lines(fixed), brief=fixed.path if fixed.written else "nothing to mend")
    sys.exit(0 if fixed.ok else 1)


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
    output.show("schema", {"schema": api.schema()}, map(Verbatim, text.splitlines()), brief=json.dumps(api.schema()))
