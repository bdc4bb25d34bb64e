"""The documentation as tests see it: its pages, and the fenced blocks in them.

A comment on the line above a block is its mark.  ``<!-- file: NAME -->`` gives the block to the examples as a file.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
DOCS = REPOSITORY / "docs"

_FENCE = re.compile(r"```(\w*)")
_MARK = re.compile(r"<!-- (.*) -->")


@dataclass(frozen=True)
class Block:
    """A fenced block."""

    page: str
    line: int
    language: str
    mark: str
    """What stands in the comment above it, or ""."""
    text: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"

    def marked(self, word: str) -> str:
        """What follows ``word:`` in the mark; "" when it says something else."""
        return self.mark.removeprefix(f"{word}: ") if self.mark.startswith(f"{word}: ") else ""


def pages() -> list[Path]:
    """Every page that we wrote or generate."""
    return [*sorted(REPOSITORY.glob("*.md")), *sorted(DOCS.rglob("*.md"))]


def name_of(page: Path) -> str:
    """The page's path in the repository."""
    return page.relative_to(REPOSITORY).as_posix()


def blocks(page: Path) -> Iterator[Block]:
    """The fenced blocks of `page`."""
    lines = page.read_text(encoding="utf-8").splitlines()
    at = 0
    while at < len(lines):
        fence = _FENCE.fullmatch(lines[at])
        if fence:
            end = lines.index("```", at + 1)
            mark = _MARK.fullmatch(lines[at - 1]) if at else None
            text = "".join(f"{line}\n" for line in lines[at + 1 : end])
            yield Block(name_of(page), at + 1, fence[1], mark[1] if mark else "", text)
            at = end
        at += 1


def all_blocks(language: str) -> list[Block]:
    """The blocks of all pages in `language`."""
    return [block for page in pages() for block in blocks(page) if block.language == language]


def prose(page: Path) -> str:
    """The text of `page` without its fenced blocks."""
    text = page.read_text(encoding="utf-8")
    return re.sub(r"^```.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE)
