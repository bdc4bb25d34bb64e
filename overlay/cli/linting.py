"""``overlay lint``."""

from __future__ import annotations

import sys

import click

from overlay import api
from overlay.cli.options import place_options, places
from overlay.cli.output import chosen_output, output_options
from overlay.report.linting import lint_lines


@click.command()
@click.argument("reference")
@click.option(
    "--engine", "engines", multiple=True, metavar="NAME[==VERSION]", help="vllm, sglang, transformers, llama.cpp, mlx."
)
@click.option("--target", metavar="REF", help="The checkpoint that a standalone draft is served beside.")
@click.option(
    "--tensor-parallel", type=click.IntRange(1, 1024), default=1, show_default=True, help="Ranks to cut weights for."
)
@place_options
@output_options
def lint(
    reference: str,
    engines: tuple[str, ...],
    target: str | None,
    tensor_parallel: int,
    base: str | None,
    donor: tuple[str, ...],
    allow_root: tuple[str, ...],
    look_in: tuple[str, ...],
    format_: str,
    as_json: bool,
    quiet: bool,
) -> None:
    """Say what each serving engine will do with a checkpoint, before a GPU is rented.

    For the target and for its draft the answer is ok, refuses (it ends with an error), wrong (it loads, and weights
    differ or stay unset) or absent (no draft, and no error says so). Nothing is loaded: headers, the index, the configs
    and a few bytes of scales decide. Without --engine all engines are asked, at the newest release that is known.

    REFERENCE may be a manifest: what apply would give, with its changes for each engine.

    \b
    Reads:   the index, small files, every header, and scales of 4 bytes.
    Writes:  nothing.
    Exits:   0 nothing stands in the way of an engine that was asked, 1 an engine refuses or is wrong, or there are errors,
             2 usage, 3 not a checkpoint, 5 environment.
    Example: overlay lint serve/ --engine vllm==0.33.0 --engine sglang
             overlay lint glm-5.2-nvfp4-mtp.yaml --engine vllm
             overlay lint GLM-5.2-MTP-INT4/ --target GLM-5.2-AWQ-INT4/
    """
    output = chosen_output(format_, as_json, quiet)
    found = api.lint(
        reference,
        engines,
        target=target,
        tensor_parallel=tensor_parallel,
        places=places(base, donor, allow_root, look_in),
    )
    output.show("lint", found.document(), lint_lines(found), brief="ok" if found.ok else "not ok")
    sys.exit(0 if found.ok else 1)
