"""What a comparison of two checkpoints shows, whatever the form: text, Markdown, HTML and JSON are made of this."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

from overlay.core.diffing import Change, Difference
from overlay.core.families import Family, families
from overlay.core.findings import Finding, errors
from overlay.core.judging import IMPLIED, Judged, Standing
from overlay.core.sidecar_diffing import SidecarChange
from overlay.core.tallying import Row, Tally, roll_up

SHOWN = tuple(change for change in Change if change not in (Change.UNREAD, Change.IDENTICAL))
"""The changes that have rows, in their order."""


@dataclass(frozen=True, kw_only=True)
class View:
    """A difference or an audit, ready to be shown."""

    kind: Literal["diff", "audit"]
    difference: Difference
    alone: bool = False
    """An audit of a checkpoint without its base: `difference` then compares it with itself."""
    sidecars: tuple[SidecarChange, ...] = ()
    findings: tuple[Finding, ...] = ()
    claims: tuple[Judged, ...] = ()

    def with_claims(self, claims: Iterable[Judged]) -> View:
        """The same, with claims."""
        return replace(self, claims=tuple(claims))

    @property
    def differs(self) -> bool:
        """Whether the two are known to differ."""
        return self.difference.differs or bool(self.sidecars)

    @property
    def sound(self) -> bool:
        """Whether there is no error among the findings, and no claim that somebody made fails."""
        failed = [claim for claim in self.claims if claim.standing is Standing.FAILS and claim.source != IMPLIED]
        return not errors(self.findings) and not failed

    @cached_property
    def counted(self) -> Tally:
        """The difference, counted."""
        return Tally(self.difference)

    @cached_property
    def rows(self) -> list[Row]:
        """The changes, rolled up."""
        return roll_up(self.counted, SHOWN)

    @cached_property
    def families(self) -> list[Family]:
        """All tensors of both sides, as families."""
        return families(self.difference)
