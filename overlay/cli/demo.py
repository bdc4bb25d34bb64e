"""``overlay demo``."""

from __future__ import annotations

import sys

import click

from overlay.cli.output import chosen_output, output_options, report_error, say
from overlay.report.blocks import Block


@click.command()
@click.argument("folder", metavar="DIR")
@output_options
def demo(folder: str, format_: str, as_json: bool, quiet: bool) -> None:
    """Run the founding case on a scaled-down replica: graft layer 78, apply, verify, damage, find the damage, repair.

    The replica has the names, dtypes, quantisation and index shape of Mapika/GLM-5.2-NVFP4 and zai-org/GLM-5.2, and
    random weights of a few megabytes.

    \b
    Reads:   nothing.
    Writes:  DIR, which must be new or empty.
    Exits:   0 everything happened as it should, 1 it did not, 2 DIR is not empty.
    Example: overlay demo /tmp/overlay-demo
    """
    from overlay.demo.story import run

    output = chosen_output(format_, as_json, quiet)
    if not run(folder, _say if output.format == "human" else _ignore):
        message = "expected every step to go as it should, found one that did not"
        sys.exit(report_error(output, message, "mismatch", 1, hint="run it again without -q and read the steps"))
    lines = ["", f"Everything above is in {folder}; try: overlay inspect {folder}/serve"]
    output.show("demo", {"folder": folder, "ok": True}, lines, brief="ok")


def _say(block: Block) -> None:
    say([block])


def _ignore(block: Block) -> None:
    del block
