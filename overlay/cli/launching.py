"""``overlay launch``."""

from __future__ import annotations

import sys

import click

from overlay import api
from overlay.cli.options import allow_root_option
from overlay.cli.output import chosen_output, output_options
from overlay.core.launching import ENGINES, EngineName
from overlay.report.launching import launch_lines
from overlay.report.progress import Bars
from overlay.running.launching import become
from overlay.running.locating import Places


@click.command()
@click.argument("directory", metavar="DIR")
@click.argument("extra", nargs=-1, metavar="[-- EXTRA…]", type=click.UNPROCESSED)
@click.option("--engine", type=click.Choice(ENGINES), required=True, help="What shall serve it.")
@click.option("--manifest", metavar="FILE", help="The manifest whose engines.ENGINE.launch gives further options.")
@click.option("--draft", metavar="DIR", help="A separate draft checkpoint.")
@click.option("--port", type=click.IntRange(1, 65535), help="Where the server listens.")
@click.option("--tensor-parallel", metavar="N", type=click.IntRange(min=1), help="Over how many devices.")
@click.option("--docker", metavar="IMAGE", help="Run it in a container, with the folders that links reach, read-only.")
@click.option(
    "--checksum", metavar="FILE", help="SGLang: write the sha256 of all files there, for the server to check."
)
@click.option("--exec", "run", is_flag=True, help="Verify at level headers, then become the server.")
@allow_root_option
@output_options
def launch(
    directory: str,
    extra: tuple[str, ...],
    engine: EngineName,
    manifest: str | None,
    draft: str | None,
    port: int | None,
    tensor_parallel: int | None,
    docker: str | None,
    checksum: str | None,
    run: bool,
    allow_root: tuple[str, ...],
    format_: str,
    as_json: bool,
    quiet: bool,
) -> None:
    """Print the command that serves a checkpoint, with the options that its draft layer needs.

    Whether to speculate is decided by config.json: without a draft layer there are no speculative options, and the output
    says why.  The options of a manifest come next; those that are named here take their place, and EXTRA comes last.

    With --exec the command takes the place of this process, so that signals reach the server; a checkpoint with errors is
    not launched.  With -q only the command is printed.  Whether the engine can load what it names, overlay lint says.

    \b
    Reads:   config.json, the receipt, the manifest, links; with --exec every header; with --checksum the small files.
    Writes:  the file of --checksum.
    Exits:   0 done, 1 errors (--exec), 2 usage, 3 not a checkpoint, or unproven (--checksum), 5 environment;
             with --exec what the server exits with.
    Example: overlay launch serve/ --engine sglang --manifest glm-5.2-nvfp4-mtp.yaml --tensor-parallel 8
             overlay launch serve/ --engine vllm --docker vllm/vllm-openai:v0.33.0 -- --max-model-len 65536
             overlay launch serve/ --engine sglang --checksum checksums.json --exec
    """
    output = chosen_output(format_, as_json, quiet)
    found = api.launch(
        directory,
        engine,
        manifest=manifest,
        draft=draft,
        port=port,
        tensor_parallel=tensor_parallel,
        docker=docker,
        checksum=checksum,
        extra=extra,
        verify=run,
        places=Places(allowed_roots=allow_root),
        reporter=Bars(),
    )
    output.show("launch", found.document(), launch_lines(found), brief=found.command.line if found.ok else "not ok")
    if not found.ok:
        sys.exit(1)
    if run:
        sys.stdout.flush()
        become(found.command)
