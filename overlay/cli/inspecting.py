"""``overlay inspect``."""

from __future__ import annotations

import click

from overlay import api
from overlay.cli.options import allow_root_option
from overlay.cli.output import chosen_output, output_options
from overlay.report.text import description_lines, finding_lines
from overlay.running.locating import Places


@click.command()
@click.argument("reference")
@click.option("--shards", is_flag=True, help="Also list the shards.")
@allow_root_option
@output_options
def inspect(
    reference: str, shards: bool, allow_root: tuple[str, ...], format_: str, as_json: bool, quiet: bool
) -> None:
    """Show what a checkpoint is made of: architecture, layers, draft layers, dtypes, bytes, shards.

    \b
    Reads:   the index, config.json and every header.
    Writes:  nothing.
    Exits:   0 done (findings are shown), 3 not a checkpoint, 5 environment.
    Example: overlay inspect GLM-5.2-NVFP4/
    """
    output = chosen_output(format_, as_json, quiet)
    description, findings = api.inspect(reference, places=Places(allowed_roots=allow_root))
    document = {**description.document(), "findings": [finding.document() for finding in findings]}
    lines = [*description_lines(description, shards), *finding_lines(findings)]
    output.show("inspect", document, lines, brief=str(description.tensors))
