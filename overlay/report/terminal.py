"""Reports on a terminal: coloured by meaning, and folded to the terminal's width.

Colours say nothing that a word beside them does not say.  Text is handed to rich as text, so that what a stranger wrote is
never read as markup.  This module is imported only where there is a terminal: rich costs 60 ms.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice, zip_longest
from typing import Final, Literal, TextIO

from rich.cells import cell_len, chop_cells
from rich.console import Console
from rich.text import Text

from overlay.report.blocks import GAP, INDENT, Block, Heading, Marked, Table, Verbatim, plain_lines, printable_rows
from overlay.report.escape import printable

_GREEN: Final = "added holds ok clean build current active"
_RED: Final = "dropped removed fails error dangling absent garbage inert"
_YELLOW: Final = "retyped reshaped rewritten changed open warning modified trim unclear"
_CYAN: Final = "moved renamed note"
_DIM: Final = "identical unread hint link"

STYLES: Final[Mapping[str, str]] = {
    **dict.fromkeys(_GREEN.split(), "green"),
    **dict.fromkeys(_RED.split(), "red"),
    **dict.fromkeys(_YELLOW.split(), "yellow"),
    **dict.fromkeys(_CYAN.split(), "cyan"),
    **dict.fromkeys(_DIM.split(), "dim"),
    "not ok": "bold red",
    "base moved": "yellow",
}
"""What the word that says of what kind a line or row is looks like; a dim one dims all of it."""

_HANG: Final = 4
"""Columns by which the rest of a long line is indented further than its beginning."""
_LEAST_WIDTH: Final = 20
"""A narrower terminal is written to as if it had this many columns."""
_AT_ONCE: Final = 200
"""Lines that are given to rich together: one by one, a list of 100,000 tensors would take four times as long."""
_LEAST_COLUMN: Final = 14
"""A flexible column is not made narrower than this while another one can be."""
_LEAST_SHARE: Final = 0.4
"""A last column that would get less of the width stands below its row, where it does not fit beside it."""
_BLANKS: Final = re.compile(r" +(?![kMGT]?B\b)")
"""Where a text may be broken: not between a number and its unit."""
_MARKS: Final = (re.compile(r"[,./|>:;=)]"), re.compile(r"[_-]"))
"""After these a name may be broken; the first ones are better."""


def console_on(stream: TextIO) -> Console:
    """A console that writes to the terminal `stream`, as wide as it is or as ``$COLUMNS`` says.

    Without colours where ``$NO_COLOR`` or a dumb terminal asks for it; ``$FORCE_COLOR`` overrules the latter.
    """
    environ = os.environ
    dumb = environ.get("TERM", "dumb").lower() in ("dumb", "unknown") and not environ.get("FORCE_COLOR")
    colours: Literal["standard"] | None = None if environ.get("NO_COLOR") or dumb else "standard"
    columns = shutil.get_terminal_size((80, 24)).columns
    # rich takes a width for a dumb terminal only together with a height, which nothing here depends on.
    return Console(file=stream, force_terminal=True, color_system=colours, width=max(columns, _LEAST_WIDTH), height=25)


def show(blocks: Iterable[Block], console: Console) -> None:
    """Write `blocks` to the terminal of `console`."""
    lines = terminal_lines(blocks, console.width)
    while some := list(islice(lines, _AT_ONCE)):
        console.print(Text("\n").join(some), soft_wrap=True)


def terminal_lines(blocks: Iterable[Block], width: int) -> Iterator[Text]:
    """`blocks` as lines of at most `width` columns; those that are `Verbatim` are as long as they are."""
    for block in blocks:
        if isinstance(block, Table):
            yield from _table(block, width)
        elif isinstance(block, Verbatim):
            yield from map(Text, plain_lines([block]))
        else:
            yield from _line(block, width)


def _line(line: str, width: int) -> Iterator[Text]:
    """A line, its rest indented."""
    text = printable(line)
    indent = len(text) - len(text.lstrip(" "))
    style = STYLES.get(line.word, "") if isinstance(line, Marked) else "bold" if isinstance(line, Heading) else ""
    whole = style == "dim" or isinstance(line, Heading)
    for number, part in enumerate(_folded(text, width, indent + _HANG)):
        shown = Text(part, style=style if whole else "")
        if number == 0 and isinstance(line, Marked) and not whole:
            start = len(printable(line.before))
            shown.stylize(style, start, start + len(line.word))
        yield shown


def _folded(text: str, width: int, hang: int) -> Iterator[str]:
    """`text` in lines of at most `width` columns, all but the first with `hang` blanks before them."""
    if cell_len(text) <= width:
        yield text
        return
    hang = hang if hang <= width // 2 else 0
    first, rest = _split(text, width)
    yield first
    yield from (" " * hang + part for part in _fold(rest, width - hang))


def _fold(text: str, width: int) -> list[str]:
    """`text` in lines of at most `width` columns."""
    parts = []
    while cell_len(text) > width:
        part, text = _split(text, width)
        parts.append(part)
    return [*parts, text]


def _split(text: str, width: int) -> tuple[str, str]:
    """The first line of a `text` that is too long, and the rest: broken at a blank, else within a name, else anywhere."""
    head = text[:width] if text.isascii() else (chop_cells(text, width)[0] or text[:1])
    near = text[: len(head) + len(" kB ")]
    blank = max((match.start() for match in _BLANKS.finditer(near) if match.start() <= len(head)), default=0)
    marks = (max((match.end() for match in mark.finditer(head)), default=0) for mark in _MARKS)
    # A break near the beginning would leave a gap that looks like an end.
    breaks = ((blank, width // 3), *((mark, width // 2) for mark in marks))
    at = next((at for at, least in breaks if at > least), len(head))
    return head[:at].rstrip(), text[at:].lstrip(" ")


def _table(table: Table, width: int) -> Iterator[Text]:
    """A table's rows; what does not fit is folded within its column, or stands below its row."""
    rows = printable_rows(table)
    widths = [max(map(cell_len, column)) for column in zip(*rows, strict=True)]
    flexible = table.flexible or (len(widths) - 1,)
    narrowed = _narrowed(widths, flexible, width - len(INDENT) - len(GAP) * (len(widths) - 1))
    may_stand_below = narrowed != widths and not table.flexible and narrowed[-1] < width * _LEAST_SHARE
    for number, row in enumerate(rows):
        style = STYLES.get(row[table.kinds], "") if table.kinds is not None else ""
        row_style = "bold" if table.headed and number == 0 else style if style == "dim" else ""
        below = may_stand_below and cell_len(row[-1]) > narrowed[-1]
        folded = [
            _fold(cell, limit) for cell, limit in zip([*row[:-1], "" if below else row[-1]], narrowed, strict=True)
        ]
        for parts in zip_longest(*folded, fillvalue=""):
            yield _row(parts, narrowed, table, row_style, style)
        if below:
            indent = min(len(INDENT) + narrowed[0] + len(GAP), width // 2)
            yield from (Text(" " * indent + part, row_style) for part in _fold(row[-1], width - indent))


def _row(parts: Sequence[str], widths: Sequence[int], table: Table, row_style: str, kind_style: str) -> Text:
    """One line of a row."""
    text = Text(INDENT, style=row_style)
    for at, (part, width) in enumerate(zip(parts, widths, strict=True)):
        padding = " " * (width - cell_len(part))
        cell = padding + part if at in table.numbers else part + padding
        text.append(cell if at == 0 else GAP + cell, kind_style if at == table.kinds else "")
    text.rstrip()
    return text


def _narrowed(widths: Sequence[int], flexible: Sequence[int], available: int) -> list[int]:
    """`widths` that fit into `available`: first the widest flexible columns give way, at the last all others too."""
    narrowed = list(widths)
    for columns, least in ((flexible, _LEAST_COLUMN), (range(len(widths)), 2)):
        while sum(narrowed) > available:
            widest = max(columns, key=narrowed.__getitem__)
            if narrowed[widest] <= least:
                break
            narrowed[widest] -= 1
    return narrowed
