"""Explaining: what a code means, and where a tensor came from."""

from __future__ import annotations

from overlay.core.codes import CODES, Meaning
from overlay.core.progress import Reporter, Silent
from overlay.core.tracing import Trace, near_codes
from overlay.errors import UsageError
from overlay.running.locating import Places
from overlay.running.tracing import trace_tensor


def explain_code(code: str) -> tuple[str, Meaning]:
    """The registered code that `code` means, whatever its case, and what it stands for."""
    meaning = CODES.get(code.upper())
    if meaning is None:
        near = " or ".join(near_codes(code, CODES))
        hint = f"did you mean {near}?" if near else "overlay explain lists every code"
        raise UsageError("expected the code of a finding, found none of that name", subject=code, hint=hint)
    return code.upper(), meaning


def trace(
    tensor: str,
    reference: str,
    *,
    lock: str = "",
    places: Places | None = None,
    reporter: Reporter | None = None,
) -> Trace:
    """Where a tensor of a checkpoint lies, the digest of its bytes, and where it came from."""
    return trace_tensor(tensor, reference, lock, places or Places(), reporter or Silent())
