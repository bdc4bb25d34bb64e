"""Remarks: findings as one engine sees them, with what they do to its prediction."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Final, Literal, get_args

from overlay.core.codes import CODES, Severity
from overlay.core.findings import Finding, about

Effect = Literal["refuses", "wrong", "absent", "none"]
"""``refuses``: the engine ends with an error.  ``wrong``: it loads, and weights differ or stay unset.  ``absent``: nothing
of the part is loaded.  ``none``: nothing changes."""

Scope = Literal["both", "target", "draft"]
"""Which of the two models of speculative decoding a remark is about: what verifies, or what drafts."""

EFFECTS: Final[tuple[Effect, ...]] = get_args(Effect)
LIMITATIONS: Final = frozenset({"ENG023", "ENG025"})
"""Codes that say what an engine cannot do with any checkpoint of the kind; the checkpoint is not at fault."""


@dataclass(frozen=True, slots=True)
class Remark:
    """A finding, and what it does to one engine's prediction."""

    finding: Finding
    effect: Effect
    scope: Scope
    engine: str = ""

    @property
    def severity(self) -> Severity:
        """An error where the engine then refuses or is wrong, unless the engine is the one that cannot."""
        if self.effect in ("refuses", "wrong") and self.finding.code not in LIMITATIONS:
            return Severity.ERROR
        return self.finding.severity

    def fails(self, *, asked: bool) -> bool:
        """Whether lint must fail for it; what an engine cannot do with any such checkpoint only where it was `asked` for."""
        return self.severity is Severity.ERROR or (asked and self.effect in ("refuses", "wrong"))

    def of(self, engine: str) -> Remark:
        """The same, said of `engine`."""
        return replace(self, engine=engine)

    def document(self) -> dict[str, Any]:
        """The remark as it stands in JSON documents."""
        found = self.finding
        return {
            "code": found.code,
            "severity": self.severity.value,
            "subject": found.subject,
            "message": found.message,
            "hint": CODES[found.code].hint,
            "file": found.file,
            "tensor": found.tensor,
            "engine": self.engine,
            "effect": self.effect,
            "scope": self.scope,
        }


def remark(
    code: str, file: str, message: str, effect: str = "none", scope: Scope = "both", *, tensor: str = "", key: str = ""
) -> Remark:
    """A remark about `file`, and about a tensor or key in it."""
    assert effect in EFFECTS, effect
    return Remark(about(code, file, message, tensor=tensor, key=key), effect, scope)
