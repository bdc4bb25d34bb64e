"""``overlay inspect``."""

from __future__ import annotations

import click

from overlay import api
from overlay.cli.options import allow_root_option
from overlay.cli.output import chosen_output, output_options
from overlay.report.description import description_lines
from overlay.report.text import finding_lines
from overlay.running.locating import Places


@click.command()
@click.argument("reference")
@click.option("--shards", is_flag=True, help="Also list the shards.")
@allow_root_option
@output_options
def inspect(
    reference: str, shards: bool, allow_root: tuple[str, ...], format_: str, as_json: bool, quiet: bool
) -> None:
    """Show what a checkpoint is made of: architecture, layers, draft layers, experts, schemes, dtypes, bytes, shards.

    What the config declares stands beside what the headers say.  A scheme is how modules store their weights, told from
    the names, dtypes and shapes of all their tensors.  REFERENCE may also be a single shard, or a diff-only repository:
    shards that its index names and that are not there are listed as elsewhere.

    \b
    Reads:   the index, config.json, hf_quant_config.json and every header.
    Writes:  nothing.
    Exits:   0 done (findings are shown), 3 not a checkpoint, 5 environment.
    Example: overlay inspect GLM-5.2-NVFP4/
             overlay inspect model-00046-of-00046.safetensors
    """
    output = chosen_output(format_, as_json, quiet)
    description, findings = api.inspect(reference, places=Places(allowed_roots=allow_root))
    document = {**description.document(), "findings": [finding.document() for finding in findings]}
    lines = [*description_lines(description, shards), *finding_lines(findings)]
    output.show("inspect", document, lines, brief=str(description.tensors))
