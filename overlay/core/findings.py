"""Findings: what is wrong with data, each with a stable code.

`core.codes` is the register of the codes: what each means, and what to do about it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from overlay.core.codes import CODES, Severity


@dataclass(frozen=True, slots=True, order=True)
class Finding:
    """One thing wrong with data."""

    code: str
    subject: str
    """File, and tensor or key where there is one."""
    message: str
    """What was expected and what was found."""
    file: str = ""
    tensor: str = ""

    @property
    def severity(self) -> Severity:
        """As registered in `CODES`."""
        return CODES[self.code].severity

    @property
    def hint(self) -> str:
        """What to do about it."""
        return CODES[self.code].hint

    @property
    def engines(self) -> Mapping[str, str]:
        """Engine, with its version, to what it does with such a checkpoint; empty where engines were not measured."""
        return CODES[self.code].engines

    @property
    def line(self) -> str:
        """The one line that a person reads."""
        return f"{self.code} {self.subject}: {self.message}"

    def document(self) -> dict[str, Any]:
        """The finding as it stands in JSON documents."""
        own = {"severity": self.severity.value, "hint": self.hint, "engines": dict(self.engines)}
        return {**asdict(self), **own}


def about(code: str, file: str, message: str, *, tensor: str = "", key: str = "") -> Finding:
    """A finding about `file`, and about a tensor or key in it."""
    detail = tensor or key
    return Finding(code, f"{file}: {detail}" if detail else file, message, file, tensor)


def errors(findings: Iterable[Finding]) -> list[Finding]:
    """Those that make a command fail."""
    return [finding for finding in findings if finding.severity is Severity.ERROR]
