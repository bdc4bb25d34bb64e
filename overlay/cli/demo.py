"""``overlay demo``."""

from __future__ import annotations

import sys

import click

from overlay.report.escape import printable


@click.command()
@click.argument("folder", metavar="DIR")
def demo(folder: str) -> None:
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

    if not run(folder, lambda line: click.echo(printable(line))):
        click.echo("error: the demonstration did not go as it should", err=True)
        sys.exit(1)
    click.echo(f"\nEverything above is in {folder}; try: overlay inspect {folder}/serve")
