"""``overlay build``."""

from __future__ import annotations

import re

import click

from overlay import api
from overlay.cli.options import place_options, places
from overlay.cli.output import chosen_output, output_options
from overlay.report.building import built_document, built_lines
from overlay.report.progress import Bars

_UNITS = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30}


def _size(context: click.Context, parameter: click.Parameter, value: str) -> int:
    """A number of bytes with a unit, such as 512MiB."""
    match = re.fullmatch(r"(\d{1,9}) ?([kMG]i?|Ki)?B?", value)
    if match is None:
        raise click.BadParameter(f"expected a size such as 512MiB, found {value}", context, parameter)
    return int(match[1]) * _UNITS[match[2] or ""]


@click.command()
@click.argument("manifest")
@click.option("-o", "--output", "target", required=True, metavar="DIR", help="The repository to make; absent or empty.")
@click.option("--jobs", type=click.IntRange(min=0), default=0, help="Workers that convert; 0: one a processor.")
@click.option(
    "--memory", callback=_size, default="512MiB", show_default=True, help="What the process keeps to, torch included."
)
@click.option("--device", default="cpu", show_default=True, help="Where to compute; the bytes are the same everywhere.")
@place_options
@output_options
def build(
    manifest: str,
    target: str,
    jobs: int,
    memory: int,
    device: str,
    base: str | None,
    donor: tuple[str, ...],
    allow_root: tuple[str, ...],
    look_in: tuple[str, ...],
    format_: str,
    as_json: bool,
    quiet: bool,
) -> None:
    """Make the shards of a manifest's grafts, and the repository that holds them.

    Tensors are copied byte for byte, or converted as the manifest's steps say: dequantised, quantised, cast, renamed, fused,
    split, or stripped of experts.  The repository holds the shards, the manifest, its lock with the lineage of every tensor,
    the index, and the sidecars that differ; with base: null it is a checkpoint of its own.  An interrupted build goes on
    where it stopped.

    \b
    Reads:   the manifest, base and donors: headers, and every byte that a graft takes.
    Writes:  DIR, in one step; unfinished work in a hidden folder beside it.
    Exits:   0 done, 1 a step loses more than the manifest allows, 3 invalid input, 4 conflict, 5 environment.
    Example: overlay build glm-5.2-mtp-int4.yaml -o GLM-5.2-MTP-INT4/
    """
    output = chosen_output(format_, as_json, quiet)
    how = api.Conversion(jobs=jobs, memory=memory, device=device)
    where = places(base, donor, allow_root, look_in)
    built = api.build(manifest, target, how=how, places=where, reporter=Bars())
    output.show("build", built_document(built), built_lines(built), brief=built.path)
