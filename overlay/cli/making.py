"""``overlay init`` and ``overlay lock``."""

from __future__ import annotations

import os

import click

from overlay import api
from overlay.cli.options import place_options, places
from overlay.cli.output import Output, chosen_output, output_options
from overlay.errors import UsageError
from overlay.formats.lock import LockLevel
from overlay.report.progress import Bars
from overlay.report.text import in_bytes, lock_lines
from overlay.running.locating import Places
from overlay.storage.documents import write_document


@click.command()
@click.option("--base", required=True, metavar="REF", help="The checkpoint that the graft was made for.")
@click.option("--graft", metavar="REF", help="A repository of new shards, an index and sidecars.")
@click.option("--derived", metavar="REF", help="A full checkpoint that was made from the base.")
@click.option(
    "-o",
    "--output",
    "file",
    metavar="PATH",
    help="With --graft the manifest's file (without it, stdout); with --derived the diff-only repository's folder.",
)
@click.option(
    "--name", default="", help="The manifest's name; without it, the folder name of the graft or derived one."
)
@click.option("--allow-root", multiple=True, metavar="DIR", help="A folder that a checkpoint's links may reach.")
@click.option("--force", is_flag=True, help="Replace an existing file.")
@output_options
def init(
    base: str,
    graft: str | None,
    derived: str | None,
    file: str | None,
    name: str,
    allow_root: tuple[str, ...],
    force: bool,
    format_: str,
    as_json: bool,
    quiet: bool,
) -> None:
    """Write a manifest that lays a diff-only repository over its base, or that turns the base into a derived checkpoint.

    With --derived the folder PATH gets a manifest, shards with the tensors that were added or rewritten, and the sidecars
    that differ: a diff-only repository.

    \b
    Reads:   headers, indexes and sidecars of both; with --derived also the tensors that headers cannot tell apart.
    Writes:  PATH.
    Exits:   0 done, 2 PATH exists, 3 invalid input, 4 the graft was made for another base, 5 environment.
    Example: overlay init --base GLM-5.2-NVFP4/ --graft GLM-5.2-NVFP4-MTP/ -o glm.yaml
             overlay init --base GLM-5.2-NVFP4/ --derived my-finetune/ -o my-finetune-diff/
    """
    output = chosen_output(format_, as_json, quiet)
    if (graft is None) == (derived is None):
        raise click.UsageError("expected either --graft or --derived")
    if file is not None and derived is None and os.path.lexists(file) and not force:
        raise UsageError("expected a new file, found one that exists", subject=file, hint="use --force to replace it")
    if derived is not None:
        _init_derived(base, derived, file, name, Places(allowed_roots=allow_root), output)
        return
    assert graft is not None
    manifest, text = api.init(base, graft, name=name, places=Places(allowed_roots=allow_root))
    if file is None and output.format == "human":
        click.echo(text, nl=False)
        return
    if file is not None:
        write_document(file, text)
    document = {"file": file, "manifest": manifest.model_dump(mode="json", by_alias=True)}
    lines = [f"wrote {file}", f"next: overlay lock {file}"]
    output.show("init", document, lines, brief=file or "")


def _init_derived(base: str, derived: str, folder: str | None, name: str, where: Places, output: Output) -> None:
    if folder is None:
        raise click.UsageError("expected -o PATH, the diff-only repository's folder")
    done = api.init_derived(base, derived, folder, name=name, places=where, reporter=Bars())
    counts = {"added": done.added, "replaced": done.replaced, "dropped": done.dropped, "sidecars": done.sidecars}
    manifest = done.manifest.model_dump(mode="json", by_alias=True)
    document = {"file": done.path, "manifest": manifest, **counts, "bytes": done.data_bytes}
    lines = [
        f"wrote {done.path}: {', '.join(f'{count} {what}' for what, count in counts.items())}, {in_bytes(done.data_bytes)}",
        f"next: overlay lock {done.path}",
    ]
    output.show("init", document, lines, brief=done.path)


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
    look_in: tuple[str, ...],
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
    where = places(base, donor, allow_root, look_in)
    locked = api.lock(manifest, level=level, upgrade=upgrade, places=where, reporter=Bars())
    document = {"file": locked.path, "written": locked.written, "lock": locked.lock.model_dump(mode="json")}
    output.show("lock", document, lock_lines(locked.lock, locked.path, locked.written), brief=locked.path)
