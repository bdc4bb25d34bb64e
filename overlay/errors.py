"""The one family of errors, by whose fault it is.

Problems *in data* are collected as findings and reported together; what stops a command is raised as one of
these.  Every error names its subject (a file, and a key where there is one), says what was expected and what was
found, and carries the next command to type.  An exception outside this family is a bug and keeps its traceback.
"""

from __future__ import annotations

from typing import ClassVar, Final

MAX_NAMED: Final = 20
"""Problems of one kind that are spelled out; the rest is counted."""


def shortened(lines: list[str]) -> list[str]:
    """The first of `lines`, and a count of the rest."""
    rest = len(lines) - MAX_NAMED
    return lines if rest <= 0 else [*lines[:MAX_NAMED], f"and {rest} more"]


class OverlayError(Exception):
    """A reason to stop that a person can act on.

    Args:
        problem: what was expected and what was found, without a trailing full stop.
        subject: the file (and key) concerned; printed in front of the problem.
        hint: the next command or action; printed on a line of its own.
        others: further problems of the same kind, found in the same pass.
    """

    exit_code: ClassVar[int] = 1
    kind: ClassVar[str] = "error"

    def __init__(self, problem: str, *, subject: str = "", hint: str = "", others: tuple[str, ...] = ()) -> None:
        self.problem = problem
        self.subject = subject
        self.hint = hint
        self.others = others
        super().__init__(self.line)

    @property
    def line(self) -> str:
        """The one line that a person reads: ``subject: problem``."""
        return f"{self.subject}: {self.problem}" if self.subject else self.problem


class Mismatch(OverlayError):
    """Bytes are not what a lock, receipt or manifest says (exit 1)."""

    exit_code = 1
    kind = "mismatch"


class UsageError(OverlayError):
    """The command line does not fit together (exit 2)."""

    exit_code = 2
    kind = "usage"


class InvalidInput(OverlayError):
    """A manifest, lock, receipt or checkpoint is malformed (exit 3)."""

    exit_code = 3
    kind = "invalid"


class Conflict(OverlayError):
    """Two well-formed inputs contradict each other, or a plan is stale (exit 4)."""

    exit_code = 4
    kind = "conflict"


class EnvironmentFault(OverlayError):
    """The machine, not the data: permissions, space, file system, network (exit 5)."""

    exit_code = 5
    kind = "environment"
