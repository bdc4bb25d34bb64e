"""``overlay lint``."""

from __future__ import annotations

import sys

import click

from overlay import api
from overlay.cli.options import place_options, places
from overlay.cli.output import chosen_output, output_options
from overlay.report.linting import lint_lines, load_lines


@click.command()
@click.argument("reference")
@click.option(
    "--engine", "engines", multiple=True, metavar="NAME[==VERSION]", help="vllm, sglang, transformers, llama.cpp, mlx."
)
@click.option("--target", metavar="REF", help="The checkpoint that a standalone draft is served beside.")
@click.option(
    "--tensor-parallel", type=click.IntRange(1, 1024), default=1, show_default=True, help="Ranks to cut weights for."
)
@click.option(
    "--need-draft", is_flag=True, help="Fail where an engine would have no draft layer, and would not say so."
)
@click.option("--explain-load", is_flag=True, help="Also list the files in order and the parameters they end in.")
@click.option("--fix", is_flag=True, help="With -o: write a manifest that mends what a manifest can, and look again.")
@click.option("-o", "--output", "path", metavar="FILE", help="With --fix: the new manifest.")
@place_options
@output_options
def lint(
    reference: str,
    engines: tuple[str, ...],
    target: str | None,
    tensor_parallel: int,
    need_draft: bool,
    explain_load: bool,
    fix: bool,
    path: str | None,
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

    REFERENCE may be a manifest: what apply would give, with its changes for each engine. Of a folder that holds only a
    difference, name the manifest in it.

    With --fix a manifest is written that makes the engines load the checkpoint, as far as a manifest can: entries in the
    lists of unquantised modules, a declared draft layer, files left out. REFERENCE is then a checkpoint and not a
    manifest. It is never changed: apply the new manifest, with --engine NAME, since changes for an engine are made for it
    alone.

    \b
    Reads:   the index, small files, every header, and scales of 4 bytes.
    Writes:  nothing; with --fix the manifest.
    Exits:   0 nothing stands in the way of an engine that was asked, 1 an engine refuses or is wrong, there are errors, or
             with --need-draft no draft, 2 usage, 3 not a checkpoint, 4 conflict, 5 environment.
    Example: overlay lint serve/ --engine vllm==0.33.0 --engine sglang
             overlay lint serve/ --engine sglang --need-draft
             overlay lint glm-5.2-nvfp4-mtp.yaml --engine vllm
             overlay lint GLM-5.2-MTP-INT4/ --target GLM-5.2-AWQ-INT4/
             overlay lint serve/ --engine vllm --fix -o for-vllm.yaml
    """
    output = chosen_output(format_, as_json, quiet)
    where = places(base, donor, allow_root, look_in)
    if fix != (path is not None):
        raise click.UsageError("expected --fix together with -o FILE")
    found = api.lint(
        reference, engines, target=target, tensor_parallel=tensor_parallel, need_draft=need_draft, places=where
    )
    if path is not None:
        found = api.fix(found, path, places=where)
    lines = [*lint_lines(found), *(load_lines(found) if explain_load else ())]
    output.show("lint", found.document(loads=explain_load), lines, brief="ok" if found.ok else "not ok")
    sys.exit(0 if found.ok else 1)
