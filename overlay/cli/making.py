"""``overlay init`` and ``overlay lock``."""

from __future__ import annotations

import os

import click

from overlay import api
from overlay.cli.options import place_options, places
from overlay.cli.output import chosen_output, output_options
from overlay.errors import UsageError
from overlay.formats.lock import LockLevel
from overlay.report.progress import Bars
from overlay.report.text import lock_lines
from overlay.running.locking import write_document
from overlay.running.opening import Places


@click.command()
@click.option("--base", required=True, metavar="REF", help="The checkpoint that the graft was made for.")
@click.option("--graft", required=True, metavar="REF", help="A repository of new shards, an index and sidecars.")
@click.option("-o", "--output", "file", metavar="FILE", help="Where to write the manifest; without it, stdout.")
@click.option("--name", default="", help="The manifest's name; without it, the graft's folder name.")
@click.option("--allow-root", multiple=True, metavar="DIR", help="A folder that a checkpoint's links may reach.")
@click.option("--force", is_flag=True, help="Replace an existing file.")
@output_options
def init(
    base: str,
    graft: str,
    file: str | None,
    name: str,
    allow_root: tuple[str, ...],
    force: bool,
    format_: str,
    as_json: bool,
    quiet: bool,
) -> None:
    """Write a manifest that lays a diff-only repository over its base.

    \b
    Reads:   headers, indexes and sidecars of both; whole shards only where both have one of the same name and size.
    Writes:  FILE.
    Exits:   0 done, 2 FILE exists, 3 invalid input, 4 the graft was made for another base, 5 environment.
    Example: overlay init --base GLM-5.2-NVFP4/ --graft GLM-5.2-NVFP4-MTP/ -o glm.yaml
    """
    output = chosen_output(format_, as_json, quiet)
    if file is not None and os.path.lexists(file) and not force:
        raise UsageError("expected a new file, found one that exists", subject=file, hint="use --force to replace it")
    manifest, text = api.init(base, graft, name=name, places=Places(allowed_roots=allow_root))
    if file is None and output.format == "human":
        click.echo(text, nl=False)
        return
    if file is not None:
        write_document(file, text)
    document = {"file": file, "manifest": manifest.model_dump(mode="json", by_alias=True)}
    lines = [f"wrote {file}", f"next: overlay lock {file}"]
    output.show("init", document, lines, brief=file or "")


@click.command()
@click.argument("manifest")
@click.option(
    "--level",
    type=click.Choice(["headers", "content"]),
    default="content",
    show_default=True,
    help="headers: pin sizes and header digests only, without reading weights.",
)
@click.option("--upgrade", is_flag=True, help="Replace the lock, whatever moved since it was written.")
@place_options
@output_options
def lock(
    manifest: str,
    level: LockLevel,
    upgrade: bool,
    base: str | None,
    donor: tuple[str, ...],
    allow_root: tuple[str, ...],
    format_: str,
    as_json: bool,
    quiet: bool,
) -> None:
    """Pin what a manifest means today: commits, sizes, digests, and the resulting index.

    The lock is NAME.lock.json beside the manifest.  Locking twice gives the same bytes.

    \b
    Reads:   the manifest, base and donors; at the level content every byte that the overlay uses.
    Writes:  the lock.
    Exits:   0 done, 1 something moved since the lock, 3 invalid input, 4 conflict, 5 environment.
    Example: overlay lock glm-5.2-nvfp4-mtp.yaml --level headers
    """
    output = chosen_output(format_, as_json, quiet)
    locked = api.lock(manifest, level=level, upgrade=upgrade, places=places(base, donor, allow_root), reporter=Bars())
    document = {"file": locked.path, "written": locked.written, "lock": locked.lock.model_dump(mode="json")}
    output.show("lock", document, lock_lines(locked.lock, locked.path, locked.written), brief=locked.path)
