"""A probe as text: lines for a terminal, and a page in Markdown that can be published as evidence."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence

from overlay.core.probing import Acceptance, Probe, Ran
from overlay.report.blocks import Block, Marked, Table
from overlay.report.escape import printable

_SOURCES = {
    "answers": "counted by the server for each of these completions",
    "counters": "from the server's counters, before and after",
    "average": "mean since the server started",
}
_SPECIAL = re.compile(r"([\\`*_{}\[\]<>|#])")


def probe_lines(probe: Probe) -> Iterator[Block]:
    """The verdict first, then the numbers."""
    version = f" {probe.version}" if probe.version else ""
    yield Marked("", probe.judgement.verdict, f": {probe.server} ({probe.engine}{version}, {probe.model})")
    yield f"  {probe.judgement.reason}"
    yield Table([*_acceptance_rows(probe.acceptance), *_run_rows(probe)])
    if probe.sweep:
        yield Table(
            [_SWEEP, *(_sweep_row(ran, found) for ran, found in probe.sweep)], numbers=(0, 1, 2, 3, 4), headed=True
        )
    for note in probe.notes:
        yield Marked("", "note", f": {note}")


def probe_markdown(probe: Probe) -> str:
    """The probe as a page.  It does not say where the server is, and of a model that is a path only its last part."""
    model = os.path.basename(probe.model.rstrip("/")) or probe.model if probe.model.startswith("/") else probe.model
    facts = [
        ("engine", f"{probe.engine} {probe.version}".strip()),
        ("verdict", f"{probe.judgement.verdict}: {probe.judgement.reason}"),
        *_acceptance_rows(probe.acceptance),
        *_run_rows(probe),
        ("temperature", "0"),
    ]
    lines = [f"# Draft of {_plain(model)}", "", *_markdown_table([("measured", "value"), *facts])]
    if probe.sweep:
        lines += ["", "## Throughput", ""]
        lines += _markdown_table([_SWEEP, *(_sweep_row(ran, found) for ran, found in probe.sweep)])
    if probe.notes:
        lines += ["", *(f"- {_plain(note)}" for note in probe.notes)]
    return "\n".join([*lines, "", "Printed by `overlay probe`.", ""])


_SWEEP = ("at a time", "requests", "tokens/s", "s a request", "tokens a step")


def _acceptance_rows(acceptance: Acceptance | None) -> Iterator[tuple[str, str]]:
    if acceptance is None:
        return
    yield "acceptance length", f"{acceptance.length:.3f} tokens a step ({_SOURCES[acceptance.source]})"
    if acceptance.drafts is not None:
        yield "drafts", str(acceptance.drafts)
    if acceptance.accepted is not None:
        of = f" of {acceptance.drafted} ({acceptance.accepted / acceptance.drafted:.1%})" if acceptance.drafted else ""
        yield "accepted tokens", f"{acceptance.accepted}{of}"
    if acceptance.positions:
        yield "accepted by position", ", ".join(f"{share:.1%}" for share in acceptance.positions)


def _run_rows(probe: Probe) -> Iterator[tuple[str, str]]:
    ran = probe.ran
    yield "completions", f"{len(ran.completions)} of at most {probe.max_tokens} tokens, one at a time"
    yield "throughput", f"{ran.rate:.1f} tokens/s ({ran.tokens} tokens in {ran.seconds:.2f} s)"


def _sweep_row(ran: Ran, found: Acceptance | None) -> tuple[str, ...]:
    requests = str(len(ran.completions)) + (f" and {ran.failed} failed" if ran.failed else "")
    length = f"{found.length:.3f}" if found is not None else "-"
    return str(ran.concurrency), requests, f"{ran.rate:.1f}", f"{ran.waited:.2f}", length


def _markdown_table(rows: Sequence[Sequence[str]]) -> list[str]:
    head, *body = rows
    lines = ["| " + " | ".join(_plain(cell) for cell in row) + " |" for row in (head, *body)]
    return [lines[0], "|" + "---|" * len(head), *lines[1:]]


def _plain(text: str) -> str:
    """`text`, which may come from the server, without a meaning in Markdown."""
    return _SPECIAL.sub(r"\\\1", printable(text))
