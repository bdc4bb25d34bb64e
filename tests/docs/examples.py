"""Run the examples of a page as its reader would: one shell, one folder, from the first block to the last.

In a ``console`` block a line that begins with ``$`` is a command, and what follows is what it prints, stderr included.
``…`` in a line stands for any text, ``…`` alone for any lines.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.docs.pages import Block

_PROMPT = "$ "
_BETWEEN = "@@ between two commands @@"


@dataclass(frozen=True)
class Step:
    """A command, and what it prints on paper."""

    where: str
    command: str
    expected: str


def steps(page: Iterable[Block]) -> Iterator[Step]:
    """The commands of a page's blocks in order; a block that is a file is a command that writes it and prints nothing."""
    for block in page:
        name = block.marked("file").partition(",")[0]
        if name:
            yield Step(str(block), f"cat > {name} <<'END OF FILE'\n{block.text}END OF FILE", "")
        elif block.language == "console" and not block.mark:
            yield from _commands(block)


def run(steps: list[Step], folder: Path) -> list[str]:
    """What each of `steps` prints, when they are typed into one shell in `folder`."""
    script = "exec 2>&1\n" + "".join(f"{step.command}\ns=$?; echo '{_BETWEEN}'; (exit $s)\n" for step in steps)
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "OVERLAY_CACHE": str(folder / "cache"),
        "LC_ALL": "C.UTF-8",
    }
    work = folder / "work"
    work.mkdir()
    done = subprocess.run(
        ["bash", "-c", script], cwd=work, env=environment, capture_output=True, text=True, check=False, timeout=300
    )
    assert "" == done.stderr
    return done.stdout.split(f"{_BETWEEN}\n")[:-1]


def agrees(expected: str, printed: str) -> bool:
    """Whether `printed` is what `expected` says, with its ellipses."""
    pattern = "".join(
        r"(?:.*\n)*?" if line == "…\n" else ".*".join(map(re.escape, line.split("…")))
        for line in expected.splitlines(keepends=True)
    )
    return re.fullmatch(pattern, printed) is not None


def _commands(block: Block) -> Iterator[Step]:
    lines = block.text.splitlines(keepends=True)
    starts = [at for at, line in enumerate(lines) if line.startswith(_PROMPT)]
    assert starts[:1] == [0], f"{block}: expected a command first"
    for start, end in zip(starts, [*starts[1:], len(lines)], strict=True):
        where = f"{block.page}:{block.line + 1 + start}"
        yield Step(where, lines[start].removeprefix(_PROMPT).strip(), "".join(lines[start + 1 : end]))
