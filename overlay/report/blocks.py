"""What reports are made of: lines, headings and tables that do not know where they are shown.

Where there is no terminal, `plain_lines` is what people and scripts get: nothing is wrapped, cut or coloured, so that it
can be searched line by line.  What a terminal makes of the same blocks is in `report.terminal`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from overlay.report.escape import printable

INDENT = "  "
"""What a table's rows begin with."""
GAP = "  "
"""What stands between two columns."""


class Heading(str):
    """A line that names what follows."""

    __slots__ = ()


class Verbatim(str):
    """A line for machines, such as JSON or Markdown: never wrapped, not even on a terminal."""

    __slots__ = ()


class Marked(str):
    """A line with a word in it that says of what kind it is: ``error``, ``added``, ``holds``."""

    __slots__ = ("before", "word")
    before: str
    """What stands before the word."""
    word: str

    def __new__(cls, before: str, word: str, after: str = "") -> Marked:
        """The line of the three, one after the other."""
        line = super().__new__(cls, f"{before}{word}{after}")
        line.before, line.word = before, word
        return line


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of equally many cells."""

    rows: Sequence[Sequence[str]]
    numbers: tuple[int, ...] = ()
    """Columns that end at one edge, so that digits stand below digits."""
    flexible: tuple[int, ...] = ()
    """Columns that are folded where a terminal is too narrow; none: the last one."""
    kinds: int | None = None
    """The column whose words say of what kind a row is."""
    headed: bool = False
    """Whether the first row names the columns."""


Block: TypeAlias = str | Table
"""A line of any sort, or a table."""


def plain_lines(blocks: Iterable[Block]) -> Iterator[str]:
    """`blocks` as text for files and pipes; everything that came from a file is escaped."""
    for block in blocks:
        if isinstance(block, Table):
            yield from _rows(block)
        else:
            yield printable(block)


def printable_rows(table: Table) -> list[list[str]]:
    """The cells of `table`, escaped, so that they can be measured."""
    return [[printable(cell) for cell in row] for row in table.rows]


def _rows(table: Table) -> Iterator[str]:
    """Columns as wide as their widest cell; the last one is left ragged."""
    rows = printable_rows(table)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = [
            cell.rjust(width) if at in table.numbers else cell.ljust(width)
            for at, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        yield f"{INDENT}{GAP.join(cells)}".rstrip()
