"""A difference or an audit as text, as Markdown and as a JSON document."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from overlay.core.diffing import Change
from overlay.core.sidecar_diffing import SidecarChange
from overlay.core.tallying import KEPT, Amount, Row, total
from overlay.core.view import View
from overlay.report.blocks import Block, Heading, Marked, Table, Verbatim
from overlay.report.escape import printable
from overlay.report.text import finding_lines, in_bytes, worst_first

_MAX_DETAILS = 6
_MAX_TENSOR_LINES = 100_000


def comparison_lines(view: View, *, tensors: bool = False) -> Iterator[Block]:
    """A difference for people: totals, the changes rolled up, sidecars, claims, findings."""
    old, new = view.difference.old.label, view.difference.new.label
    yield Heading(f"{view.kind} {new}" if view.alone else f"{view.kind} {old} -> {new}")
    yield Table([_total_cells(change, amount) for change, amount in _present(view).items()], numbers=(1, 2, 3), kinds=0)
    if view.rows:
        yield Heading("changes")
        yield Table([_row_cells(row) for row in view.rows], numbers=(2, 3), flexible=(1, 4), kinds=0)
    if tensors:
        yield Heading("tensors")
        yield from tensor_lines(view, "  ")
    if view.sidecars:
        yield Heading("sidecars")
        for change in view.sidecars:
            yield from _sidecar_lines(change)
    if view.claims:
        rows = [(c.standing.value, f'"{c.text}"', f"({c.source})", c.reason) for c in view.claims]
        yield Heading("claims")
        yield Table(rows, flexible=(1, 3), kinds=0)
    if view.findings:
        yield Heading("findings")
        yield from finding_lines(view.findings)
    yield verdict(view)
    if view.difference.unread and not view.alone:
        yield f"bytes of {view.difference.unread:,} tensors were not compared: --content does that"


def verdict(view: View) -> str:
    """The sentence that sums it up."""
    counts = view.counted.by_change
    words = [
        f"{amount.tensors:,} {_claimed(view, change)} ({in_bytes(amount.bytes)})"
        for change, amount in counts.items()
        if amount.tensors and change not in KEPT
    ]
    if view.sidecars:
        count = len(view.sidecars)
        words.append(f"{count} sidecar{'s' if count > 1 else ''} differ{'s' if count == 1 else ''}")
    same = counts[Change.IDENTICAL].tensors + counts[Change.UNREAD].tensors
    if view.alone:
        return f"{same:,} tensors; name the base with --against to see what was added to it"
    told = " as far as headers tell" if counts[Change.UNREAD].tensors else ""
    if not words:
        return f"no difference in {same:,} tensors{told and ','}{told}"
    others = "other tensors" if counts[Change.MOVED].tensors else "tensors"
    rest = f"; {same:,} {others} are the same{told}" if same else ""
    return ", ".join(words) + rest


def _claimed(view: View, change: Change) -> str:
    """The word for a change, no more than is known: whether a tensor in another shard is the same needs its bytes."""
    if change is Change.MOVED:
        return "moved, their bytes not compared" if view.difference.unread else "moved unchanged"
    return word_of(change)


def tensor_lines(view: View, indent: str = "") -> Iterator[str]:
    """One line a tensor that changed, as diff(1) marks them."""
    marks = {Change.ADDED: "+", Change.REMOVED: "-"}
    for change, name, old, new, was in view.difference.changes[:_MAX_TENSOR_LINES]:
        origin = f" (was {was})" if change is Change.RENAMED else ""
        mark = f"{indent}{marks.get(change, '~')} "
        yield Marked(mark, word_of(change), f" {name}{origin} {_shards(old, new)}")
    if len(view.difference.changes) > _MAX_TENSOR_LINES:
        yield f"{indent}and {len(view.difference.changes) - _MAX_TENSOR_LINES:,} more; --json lists all"


def comparison_document(view: View, *, tensors: bool = False) -> dict[str, Any]:
    """A difference as it stands in JSON documents."""
    difference = view.difference
    document: dict[str, Any] = {
        "old": None if view.alone else difference.old.label,
        "new": difference.new.label,
        "differs": view.differs,
        "sound": view.sound,
        "unread": 0 if view.alone else difference.unread,
        "totals": {change.value: _amount(amount) for change, amount in view.counted.by_change.items()},
        "rollup": [
            {
                "change": row.change.value,
                "where": row.where,
                **_amount(row.amount),
                "old_dtypes": list(row.old_dtypes),
                "new_dtypes": list(row.new_dtypes),
            }
            for row in view.rows
        ],
        "sidecars": [change.document() for change in view.sidecars],
        "findings": [finding.document() for finding in view.findings],
    }
    if view.kind == "audit":
        document["layers"] = by_layer(view)
        document["dtypes"] = by_dtype(view)
        document["claims"] = [claim.document() for claim in view.claims]
    if tensors:
        document["tensors"] = [
            {"change": c.change.value, "name": c.name, "old": c.old, "new": c.new, "was": c.was}
            for c in difference.changes
        ]
    return document


def by_layer(view: View) -> list[dict[str, Any]]:
    """Every layer and every component outside of layers, with what each change has in it."""
    groups: dict[tuple[str, int], dict[Change, list[Amount]]] = defaultdict(lambda: defaultdict(list))
    for cell, amount in view.counted.cells.items():
        place = cell.place
        key = (place.stack, place.layer) if place.layer is not None else (place.component, -1)
        groups[key][cell.change].append(amount)
    return [
        {
            "where": where if layer < 0 else f"{where}.{layer}",
            **{change.value: _amount(total(amounts)) for change, amounts in changes.items()},
        }
        for (where, layer), changes in sorted(groups.items())
    ]


def by_dtype(view: View) -> list[dict[str, Any]]:
    """Every dtype, with what each change has of it; retyped tensors count for their new one."""
    groups: dict[tuple[str, Change], list[Amount]] = defaultdict(list)
    for cell, amount in view.counted.cells.items():
        groups[cell.new_dtype or cell.old_dtype, cell.change].append(amount)
    return [
        {"dtype": dtype, "change": change.value, **_amount(total(amounts))}
        for (dtype, change), amounts in sorted(groups.items())
    ]


def comparison_markdown(view: View, *, tensors: bool = False) -> Iterator[str]:
    """A difference as Markdown, for an issue, a pull request or a card."""
    yield from map(Verbatim, _markdown(view, tensors))


def _markdown(view: View, tensors: bool) -> Iterator[str]:
    old, new = view.difference.old.label, view.difference.new.label
    yield f"### {_md(new)}" if view.alone else f"### {_md(old)} → {_md(new)}"
    yield ""
    yield _md(verdict(view)) + "."
    yield from _md_table(
        ("change", "where", "tensors", "bytes", "dtypes"),
        [
            (word_of(r.change), _code(r.where), f"{r.amount.tensors:,}", in_bytes(r.amount.bytes), _dtypes(r))
            for r in view.rows
        ],
    )
    yield from _md_table(
        ("sidecar", "change", "what"), [(_code(c.name), c.kind, _md(c.summary)) for c in view.sidecars]
    )
    yield from _md_table(
        ("claim", "source", "standing", "reason"),
        [(_md(c.text), _code(c.source), c.standing.value, _md(c.reason)) for c in view.claims],
    )
    yield from _md_table(
        ("finding", "severity", "subject", "what", "what to do"),
        [(f.code, f.severity.value, _code(f.subject), _md(f.message), _md(f.hint)) for f in worst_first(view.findings)],
    )
    if tensors and view.difference.changes:
        yield from ("", "```diff", *(printable(line).replace("```", "'''") for line in tensor_lines(view)), "```")


def word_of(change: Change) -> str:
    """The word for a change, the same in every form."""
    return change.value


def _present(view: View) -> Mapping[Change, Amount]:
    return {change: amount for change, amount in view.counted.by_change.items() if amount.tensors}


def _total_cells(change: Change, amount: Amount) -> tuple[str, ...]:
    parameters = f"{amount.parameters:,} parameters"
    return word_of(change), f"{amount.tensors:,} tensors", parameters, f"{amount.bytes:,} bytes"


def _row_cells(row: Row) -> tuple[str, ...]:
    return word_of(row.change), row.where, f"{row.amount.tensors:,}", in_bytes(row.amount.bytes), _dtypes(row)


def _dtypes(row: Row) -> str:
    old, new = ", ".join(row.old_dtypes), ", ".join(row.new_dtypes)
    return f"{old} -> {new}" if old and new and old != new else new or old


def _sidecar_lines(change: SidecarChange) -> Iterator[str]:
    yield Marked(f"  {change.name}  ", change.kind, f": {change.summary}")
    for detail in change.details[:_MAX_DETAILS]:
        sides = " -> ".join("(none)" if side is None else side for side in (detail.old, detail.new))
        yield f"    {detail.where}: {sides}"
    rest = len(change.details[_MAX_DETAILS:]) + change.omitted
    if rest:
        yield f"    and {rest:,} more"


def _shards(old: str, new: str) -> str:
    return f"{old} -> {new}" if old and new and old != new else new or old


def _amount(amount: Amount) -> dict[str, int]:
    return amount._asdict()


def _md(text: str) -> str:
    """Text of strangers between Markdown's own marks."""
    for mark in "\\`*_[]<>|#&":
        text = (
            text.replace(mark, {"<": "&lt;", ">": "&gt;", "&": "&amp;"}.get(mark, f"\\{mark}")) if mark != "&" else text
        )
    return printable(text)


def _code(text: str) -> str:
    return f"`{printable(text).replace('`', chr(39)).replace('|', chr(92) + '|')}`"


def _md_table(heads: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> Iterator[str]:
    body = list(rows)
    if body:
        yield from ("", f"| {' | '.join(heads)} |", f"|{'---|' * len(heads)}")
        yield from (f"| {' | '.join(row)} |" for row in body)
