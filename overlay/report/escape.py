"""Escape text from files before a terminal sees it: a tensor may be called anything."""

from __future__ import annotations

import re

_UNPRINTABLE = re.compile(
    # C0 and C1 controls, and the marks that reorder or hide text (bidi controls, zero width, line separators).
    "[\x00-\x1f\x7f-\x9f\u00ad\u061c\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff\ufff9-\ufffb\U000e0000-\U000e007f\ud800-\udfff]"
)


def printable(text: str) -> str:
    """`text` with everything escaped that could move a cursor, reorder letters or hide."""
    return _UNPRINTABLE.sub(lambda match: match[0].encode("unicode_escape", "surrogatepass").decode(), text)
