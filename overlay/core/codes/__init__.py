"""The register of finding codes: what each means, what the engines do with it, and what to do about it.

A code is never reused for another meaning.  Each family has a module; `docs/findings.md` is generated from here, and
``overlay explain`` prints it.
"""

from __future__ import annotations

from typing import Final

from overlay.core.codes.drafts import DRAFT_CODES
from overlay.core.codes.engines import ENGINE_CODES
from overlay.core.codes.index import INDEX
from overlay.core.codes.links import LINKS
from overlay.core.codes.locks import LOCKS
from overlay.core.codes.meaning import Meaning, Severity
from overlay.core.codes.security import SECURITY
from overlay.core.codes.shards import SHARDS
from overlay.core.codes.sidecars import SIDECARS

__all__ = ["CODES", "Meaning", "Severity"]

CODES: Final[dict[str, Meaning]] = {
    **SHARDS,
    **INDEX,
    **SIDECARS,
    **LINKS,
    **LOCKS,
    **SECURITY,
    **DRAFT_CODES,
    **ENGINE_CODES,
}
