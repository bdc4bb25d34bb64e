"""``overlay explain``."""

from __future__ import annotations

import os
import re

import click

from overlay import api
from overlay.cli.options import allow_root_option
from overlay.cli.output import Output, chosen_output, output_options
from overlay.core.codes import CODES
from overlay.report.progress import Bars
from overlay.report.tracing import meaning_document, meaning_lines, register_lines, trace_lines
from overlay.running.locating import Places

_CODE = re.compile(r"[A-Za-z]{2,4}-?\d{0,4}")


@click.command()
@click.argument("subject", required=False, metavar="[CODE|TENSOR]")
@click.argument("reference", required=False, metavar="[DIR]")
@click.option(
    "--lock", default="", metavar="FILE", help="The lock that DIR was assembled with; it names the donor's bytes."
)
@allow_root_option
@output_options
def explain(
    subject: str | None,
    reference: str | None,
    lock: str,
    allow_root: tuple[str, ...],
    format_: str,
    as_json: bool,
    quiet: bool,
) -> None:
    """Say what a finding means, or where a tensor lies and where it came from; alone, list all findings.

    Of a tensor: shard, byte range, dtype, shape, digest, the tensors of its module, and for a target that overlay
    assembled whether it is the base's or a graft's, from which file, and what it replaced.

    \b
    Reads:   for a tensor the index, every header, the receipt, and the tensor's bytes.
    Writes:  nothing.
    Exits:   0 done, 2 no such code, 3 no such tensor or not a checkpoint, 5 environment.
    Example: overlay explain IDX003
             overlay explain model.layers.78.eh_proj.weight serve/
    """
    output = chosen_output(format_, as_json, quiet)
    if subject is None:
        codes = [meaning_document(code, meaning) for code, meaning in sorted(CODES.items())]
        output.show("explain", {"codes": codes}, register_lines(), brief=" ".join(sorted(CODES)))
    elif reference is None:
        _explain_code(subject, output)
    else:
        tensor, checkpoint = _in_order(subject, reference)
        trace = api.trace(tensor, checkpoint, lock=lock, places=Places(allowed_roots=allow_root), reporter=Bars())
        output.show("explain", trace.document(), trace_lines(trace), brief=trace.sha256)


def _explain_code(text: str, output: Output) -> None:
    """Print what the code `text` means.

    Raises:
        click.UsageError: `text` is no code but a tensor or a folder, which needs the other one beside it.
    """
    if os.path.exists(text) or text.startswith("hf://"):
        raise click.UsageError(f"expected a tensor's name before {text}, found none")
    if "." in text and not _CODE.fullmatch(text):
        raise click.UsageError(f"expected a checkpoint after the tensor {text}, found none")
    code, meaning = api.explain_code(text)
    brief = f"{code} {meaning.title}"
    output.show("explain", meaning_document(code, meaning), meaning_lines(code, meaning), brief=brief)


def _in_order(one: str, other: str) -> tuple[str, str]:
    """Tensor and checkpoint, whichever comes first."""
    return (other, one) if _is_place(one) and not _is_place(other) else (one, other)


def _is_place(text: str) -> bool:
    return text.startswith("hf://") or os.path.exists(text)
